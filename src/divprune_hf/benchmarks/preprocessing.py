"""The time of the processor, with each image backend that is installed: the stock one's, ours, and its share.

    divprune-hf bench preprocessing --shape tiny-cpu [--json FILE] [--repeats N] [--picture 640x480] [--budget R]
        [--device cpu|cuda] [--threads N]

A picture in memory and a question become tensors: resizing, cropping, normalising, and the prompt with its
placeholders. Both processors have the same image processor and tokenizer, and take turns. The share is that of a
request for one new token on a model of the shape: preprocessing and `generate` together. Figures are medians.
"""

import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoProcessor
from transformers.utils import is_torchvision_available

from divprune_hf.benchmarks.measuring import dtype_on, medians
from divprune_hf.benchmarks.models import build_inputs, build_models
from divprune_hf.benchmarks.shapes import SHAPES
from divprune_hf.common.markdown import markdown_table
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.publishing.convert import convert_checkpoint


HEADER = ("shape", "backend", "stock processor, ms", "ours, ms", "generate, ms", "share of the request")
PROMPT = "USER: <image>\nWhat is in the picture? ASSISTANT:"


@dataclass(frozen=True)
class PreprocessingRun:
    """Options of `divprune-hf bench preprocessing`.

    Args:
        shape: a key of `SHAPES`, of the family "llava".
        picture: width and height in pixels.
        budget: the share of visual tokens to keep.
        repeats: runs of each.
        device: where the model runs; processors run on the CPU.
    """

    shape: str
    picture: tuple[int, int]
    budget: float
    repeats: int
    device: torch.device


def measure_preprocessing(run: PreprocessingRun) -> dict[str, Any]:
    """Measure all backends, and print the figures as a Markdown table.

    Returns:
        dict of "rows": "stock_milliseconds", "milliseconds" (ours), "generate_milliseconds" and "share" by "backend".

    Raises:
        ValueError: a shape of another family than LLaVA-1.5's.
    """
    shape = SHAPES[run.shape]
    if shape.family != "llava":
        raise ValueError(f"Got shape {run.shape!r} of {shape.family}, expected one of llava, such as tiny-cpu.")
    _, model = build_models(shape, run.device, dtype_on(run.device))
    size = model.config.vision_config.image_size
    with tempfile.TemporaryDirectory() as folder, torch.no_grad():
        variant = convert_checkpoint(pocket_llava(), Path(folder) / "variant", {"retention_ratio": run.budget})
        stock, ours = (AutoProcessor.from_pretrained(source) for source in (pocket_llava(), variant))
        inputs = build_inputs(shape, model.config, 1, run.budget, run.device, dtype_on(run.device))
        generate = partial(model.generate, **inputs, do_sample=False, max_new_tokens=1, pad_token_id=0)
        picture = Image.effect_noise(run.picture, 60).convert("RGB")
        rows = []
        for backend, image_processor in image_processors(size).items():
            stock.image_processor = ours.image_processor = image_processor
            calls: dict[str, Callable[[], Any]] = {
                "stock_milliseconds": partial(stock, images=picture, text=PROMPT, return_tensors="pt"),
                "milliseconds": partial(ours, images=picture, text=PROMPT, return_tensors="pt"),
                "generate_milliseconds": generate,
            }
            times = medians(calls, run.repeats, run.device)
            share = times["milliseconds"] / (times["milliseconds"] + times["generate_milliseconds"])
            rows.append({"shape": run.shape, "backend": backend, **times, "share": share})
    names = ("stock_milliseconds", "milliseconds", "generate_milliseconds")
    lines = [
        [row["shape"], row["backend"], *(f"{row[name]:.2f}" for name in names), f"{row['share']:.1%}"] for row in rows
    ]
    print(markdown_table(HEADER, lines, style="tight"))
    return {"rows": rows, "picture": list(run.picture), "budget": run.budget}


def image_processors(size: int) -> dict[str, Any]:
    """Return CLIP's image processors that can be had here, for square pictures of `size` pixels, by their backend."""
    # In transformers 4.57 the plain name is Pillow's, since then it is torchvision's.
    is_newer = hasattr(transformers, "CLIPImageProcessorPil")
    of_torchvision = "CLIPImageProcessor" if is_newer else "CLIPImageProcessorFast"
    names = (of_torchvision, "CLIPImageProcessorPil" if is_newer else "CLIPImageProcessor")
    sizes = {"size": {"shortest_edge": size}, "crop_size": {"height": size, "width": size}}
    return {
        backend: getattr(transformers, name).from_pretrained(pocket_llava(), **sizes)
        for backend, name in zip(("torchvision", "Pillow"), names)
        if backend == "Pillow" or is_torchvision_available()
    }
