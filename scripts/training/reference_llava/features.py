"""Mosaics and what the frozen vision tower makes of them, computed once: a step of training then runs no tower."""

import random
from pathlib import Path
from typing import Any

import numpy as np
import torch

from divprune_hf.common.whole_file import save_whole
from scripts.training.reference_llava.mosaics import Mosaic, draw_mosaic
from scripts.training.reference_llava.photos import Photos


def tower_features(model: Any, processor: Any, mosaics: list[Mosaic]) -> torch.Tensor:
    """Return what the projector is given, `(num_mosaics, M, width)` in float32."""
    pixels = processor.image_processor([mosaic.picture for mosaic in mosaics], return_tensors="pt")["pixel_values"]
    tower, layer = model.model.vision_tower, model.config.vision_feature_layer
    with torch.no_grad(), torch.autocast(model.device.type, torch.bfloat16, enabled=model.device.type == "cpu"):
        states = tower(pixels.to(model.device), output_hidden_states=True).hidden_states[layer]
    return states[:, 1:].float()  # without CLS: the strategy "default"


class MosaicFeatures:
    """The training mosaics, by number, with their features, which are kept in files.

    Args:
        model, processor: the reference model.
        photos: what mosaics are made of.
        folder: where the features lie; a file a mosaic.
        seed: of the mosaics.
    """

    def __init__(self, model: Any, processor: Any, photos: Photos, folder: Path, seed: int) -> None:
        self.model, self.processor, self.photos, self.seed = model, processor, photos, seed
        self.by_name = photos.by_name()
        self.folder = folder
        folder.mkdir(parents=True, exist_ok=True)

    def mosaic(self, number: int) -> Mosaic:
        """Return a mosaic. It follows from the seed and its number alone."""
        return draw_mosaic(self.photos, self.by_name, random.Random(f"{self.seed} mosaic {number}"))

    def features(self, numbers: list[int]) -> torch.Tensor:
        """Return the features of some mosaics, `(len(numbers), M, width)`, from files where they are there."""
        missing = [number for number in numbers if not self.path(number).is_file()]
        if missing:
            fresh = tower_features(self.model, self.processor, [self.mosaic(number) for number in missing])
            for number, values in zip(missing, fresh.cpu().half().numpy(), strict=True):
                save_whole(self.path(number), lambda path, values=values: save_array(path, values))
        return torch.from_numpy(np.stack([np.load(self.path(number)) for number in numbers])).float()

    def path(self, number: int) -> Path:
        return self.folder / f"{number:06}.npy"


def save_array(path: Path, values: np.ndarray) -> None:
    with open(path, "wb") as stream:  # np.save adds a suffix to a name
        np.save(stream, values)
