"""Stage one of pocket-llava: teach the CLIP tower what lies under each patch.

Two linear heads sit on the hidden states that LLaVA reads (`vision_feature_layer=-2`): the class under every patch
(or "nothing"), and for patches with an object the row and column of its cell. The heads are thrown away afterwards.
Background patches have no position to tell, which leaves them free to be alike.
"""

import math
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import nn
from torch.nn import functional

from divprune_hf.common.whole_file import save_whole
from scripts.training.pocket_llava.scenes import (
    CELL_GRID,
    CELL_PATCHES,
    NOTHING,
    NUM_CLASSES,
    PATCH_GRID,
    PATCH_SIZE,
    Pictures,
    draw_scenes,
)


PIXEL_MEAN = 0.3
PIXEL_STD = 0.25
# The background fills most patches of a scene; it needs less weight than the objects.
BACKGROUND_WEIGHT = 0.3


class TowerHeads(nn.Module):
    """Class (and background), row and column from tower features (..., hidden)."""

    def __init__(self, hidden_size: int):
        super().__init__()
        self.topic = nn.Linear(hidden_size, NUM_CLASSES + 1)
        self.row = nn.Linear(hidden_size, CELL_GRID)
        self.column = nn.Linear(hidden_size, CELL_GRID)

    def loss(self, features: torch.Tensor, topics: torch.Tensor, patch_index: torch.Tensor) -> torch.Tensor:
        """Features (batch, kept, hidden) of the patches `patch_index` (batch, kept) with classes `topics`."""
        weight = torch.ones(NUM_CLASSES + 1)
        weight[NOTHING] = BACKGROUND_WEIGHT
        held = topics != NOTHING
        rows = patch_index // PATCH_GRID // CELL_PATCHES
        columns = patch_index % PATCH_GRID // CELL_PATCHES
        loss = functional.cross_entropy(self.topic(features).flatten(0, 1), topics.flatten(), weight)
        loss = loss + 0.3 * functional.cross_entropy(self.row(features[held]), rows[held])
        return loss + 0.3 * functional.cross_entropy(self.column(features[held]), columns[held])


def normalise(images: torch.Tensor) -> torch.Tensor:
    """uint8 pixels to the `pixel_values` the processor would give."""
    return images.float().mul_(1 / (255 * PIXEL_STD)).sub_(PIXEL_MEAN / PIXEL_STD)


def start_positions(tower: nn.Module) -> None:
    """Set the position embeddings to a 2-D sine table, so that neighbours can find each other from the start."""
    weight = tower.embeddings.position_embedding.weight
    quarter = weight.shape[1] // 4
    frequencies = torch.exp(torch.arange(quarter) * (-math.log(100.0) / quarter))
    place = torch.arange(PATCH_GRID**2)
    angles = [(place // PATCH_GRID)[:, None] * frequencies, (place % PATCH_GRID)[:, None] * frequencies]
    table = torch.cat([wave(angle) for angle in angles for wave in (torch.sin, torch.cos)], dim=1)
    with torch.no_grad():
        weight[1:] = 0.3 * table
        weight[:1].normal_(std=0.02)


def tower_features(tower: nn.Module, images: torch.Tensor, patch_index: torch.Tensor | None = None) -> torch.Tensor:
    """Hidden states (batch, kept, hidden) before the tower's last layer, without CLS, from uint8 images.

    With `patch_index` (batch, kept) only these patches enter the tower, each with its own position embedding.
    """
    embeddings = tower.embeddings
    batch = images.shape[0]
    patches = images.unflatten(3, (PATCH_GRID, PATCH_SIZE)).unflatten(2, (PATCH_GRID, PATCH_SIZE))
    patches = patches.permute(0, 2, 4, 1, 3, 5).reshape(batch, PATCH_GRID**2, -1)
    positions = embeddings.position_embedding.weight
    if patch_index is None:
        places = positions[1:].expand(batch, -1, -1)
    else:
        patches = patches.gather(1, patch_index[..., None].expand(-1, -1, patches.shape[2]))
        places = positions[1:][patch_index]
    hidden = functional.linear(normalise(patches), embeddings.patch_embedding.weight.flatten(1)) + places
    first = (embeddings.class_embedding + positions[0]).expand(batch, 1, -1)
    hidden = tower.pre_layrnorm(torch.cat([first, hidden], dim=1))
    for layer in tower.encoder.layers[:-1]:
        hidden = layer(hidden, None)
    return hidden[:, 1:]


def choose_patches(topics: torch.Tensor, num_kept: int, generator: torch.Generator) -> torch.Tensor:
    """Indices (batch, num_kept): all object patches, filled up with random background patches."""
    score = torch.rand(topics.shape, generator=generator) + (topics != NOTHING)
    return score.topk(num_kept, dim=1).indices


@torch.no_grad()
def tower_accuracy(tower: nn.Module, heads: TowerHeads, scenes) -> dict[str, float]:
    """Share of objects, background patches and object rows told right, on all 256 patches."""
    right = {"object": [], "background": [], "cell": []}
    place = torch.arange(PATCH_GRID**2)
    for start in range(0, len(scenes), 64):
        topics = scenes.patches[start : start + 64]
        features = tower_features(tower, scenes.images[start : start + 64])
        held = topics != NOTHING
        hit = heads.topic(features).argmax(-1) == topics
        right["object"].append(hit[held])
        right["background"].append(hit[~held])
        rows = heads.row(features).argmax(-1) == place // PATCH_GRID // CELL_PATCHES
        columns = heads.column(features).argmax(-1) == place % PATCH_GRID // CELL_PATCHES
        right["cell"].append((rows & columns)[held])
    return {name: torch.cat(parts).float().mean().item() for name, parts in right.items()}


def one_cycle(progress: float, warm: float = 0.05) -> float:
    """Share of the peak learning rate at `progress` (0..1): a linear warm-up, then a cosine to nearly zero."""
    if progress < warm:
        return progress / warm
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (progress - warm) / (1 - warm)))


def weight_groups(modules: list[nn.Module], decay: float) -> list[dict]:
    """Weight decay for matrices only."""
    parameters = [weight for module in modules for weight in module.parameters() if weight.requires_grad]
    return [
        {"params": [weight for weight in parameters if weight.ndim > 1], "weight_decay": decay},
        {"params": [weight for weight in parameters if weight.ndim <= 1], "weight_decay": 0.0},
    ]


def save_part(path: Path, holders: dict, progress: float, step: int) -> None:
    """Store a stage under way; `holders` are modules and the optimizer."""
    state = {"progress": progress, "step": step, **{name: held.state_dict() for name, held in holders.items()}}
    save_whole(path, lambda partial: torch.save(state, partial))


def resume_part(path: Path, holders: dict) -> tuple[float, int]:
    """Fill `holders` from a stage under way, if there is one; gives its progress (0..1) and step."""
    if not path.is_file():
        return 0.0, 0
    stored = torch.load(path, weights_only=True)
    for name, holder in holders.items():
        holder.load_state_dict(stored[name])
    return stored["progress"], stored["step"]


def train_tower(
    tower: nn.Module,
    heads: TowerHeads,
    pictures: Pictures,
    validation,
    minutes: float,
    seed: int,
    log: Callable[[str], None],
    save: Path,
    peak_rate: float = 1.5e-3,
) -> tuple[int, dict[str, float]]:
    """Train for `minutes`: four fifths on part of the patches of crowded scenes, the rest on whole scenes.

    Gives the number of steps and the validation figures.
    """
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(weight_groups([tower, heads], 0.05), lr=peak_rate, betas=(0.9, 0.98))
    part = save.with_suffix(".part")
    progress, step = resume_part(part, {"tower": tower, "heads": heads, "optimizer": optimizer})
    begin, shown = time.monotonic() - progress * minutes * 60, progress
    while (progress := (time.monotonic() - begin) / (minutes * 60)) < 1:
        if partial := progress < 0.8:
            scenes = draw_scenes(pictures, 32, generator, min_objects=8, max_objects=16)
            patch_index = choose_patches(scenes.patches, 80, generator)
        else:
            scenes = draw_scenes(pictures, 24, generator, min_objects=2, max_objects=12)
            patch_index = torch.arange(PATCH_GRID**2).expand(len(scenes), -1)
        features = tower_features(tower, scenes.images, patch_index if partial else None)
        loss = heads.loss(features, scenes.patches.gather(1, patch_index), patch_index)
        for group in optimizer.param_groups:
            group["lr"] = peak_rate * one_cycle(progress)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_([*tower.parameters(), *heads.parameters()], 1.0)
        optimizer.step()
        step += 1
        if progress - shown > 0.05:
            shown = progress
            figures = tower_accuracy(tower, heads, validation)
            log(f"tower {progress:.0%} step {step} loss {loss.item():.3f} " + show(figures))
            save_part(part, {"tower": tower, "heads": heads, "optimizer": optimizer}, progress, step)
    figures = tower_accuracy(tower, heads, validation)
    log(f"tower done, step {step} " + show(figures))
    weights = {"tower": tower.state_dict(), "heads": heads.state_dict()}
    save_whole(save, lambda partial: torch.save(weights, partial))
    return step, figures


def show(figures: dict[str, float]) -> str:
    return " ".join(f"{name} {value:.4f}" for name, value in figures.items())
