"""Read a picture, and draw which of its patches a model keeps."""

import math
import os
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers import BatchFeature
from transformers.image_processing_utils import select_best_resolution
from transformers.image_utils import load_image

from divprune_hf.common.whole_file import save_whole


KEPT_OUTLINE = (255, 196, 0)
DIMMED = 0.25  # brightness of dropped patches


def read_picture(source: str) -> Image.Image:
    """Return the picture at a path or URL, as RGB; raise a `ValueError` if it cannot be read."""
    try:
        return load_image(str(source))
    except Exception as error:  # Pillow raises errors of many classes over a damaged file
        detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{source} is not a picture that can be read ({detail}).") from None


def picture_format(file: str | Path) -> str:
    """Return the format that Pillow writes into a file of this name; raise a `ValueError` if it can write none."""
    path = Path(file)
    name = Image.registered_extensions().get(path.suffix.lower(), "")
    try:
        Image.new("RGB", (16, 16)).save(BytesIO(), name)  # Pillow can only read some formats
    except Exception:
        raise ValueError(f"{path} cannot be written: expected the ending of a picture format, such as .png.") from None
    return name


def check_drawable(file: str | Path) -> None:
    """Raise a `ValueError` if a picture file cannot be written. Commands ask this before they load a model."""
    path = Path(file).resolve()
    if not str(file) or path.is_dir():
        raise ValueError(f"{str(file)!r} cannot be written: it is a folder, expected a picture file, such as kept.png.")
    if not path.parent.is_dir():
        raise ValueError(f"{file} cannot be written: its folder does not exist.")
    picture_format(file)
    if path.exists() and not path.is_file():
        raise ValueError(f"{file} cannot be written: it is neither a file nor free, choose another name.")
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"{file} cannot be written: nothing may be written into its folder.")


def save_picture(picture: Image.Image, file: str | Path) -> None:
    """Save a picture; if that fails, the file stays as it was."""
    save_whole(file, lambda partial: picture.save(partial, picture_format(file)))


def model_view(pixel_values: torch.Tensor, image_processor: Any) -> Image.Image:
    """Return the input of the vision tower as a picture.

    Args:
        pixel_values (`torch.Tensor` of shape `(channels, height, width)`): normalised pixels.
        image_processor: its `image_mean` and `image_std` undo the normalisation.
    """
    pixels = pixel_values.float().cpu().numpy().transpose(1, 2, 0)
    pixels = pixels * np.array(image_processor.image_std) + np.array(image_processor.image_mean)
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def draw_kept(picture: Image.Image, kept_patches: list[int], rows: int, columns: int) -> Image.Image:
    """Draw a picture with its kept patches outlined and all others dimmed.

    Args:
        picture (`PIL.Image.Image`): the model's view of one image.
        kept_patches (`list[int]`): indices of the kept patches, counted in raster order.
        rows, columns (`int`): the number of patches in each direction.
    """
    width, height = picture.size
    mask = Image.new("L", picture.size, round(255 * DIMMED))
    boxes = []
    for patch in kept_patches:
        row, column = divmod(patch, columns)
        left, top = column * width // columns, row * height // rows
        boxes.append((left, top, (column + 1) * width // columns - 1, (row + 1) * height // rows - 1))
    for box in boxes:
        ImageDraw.Draw(mask).rectangle(box, fill=255)
    drawn = Image.composite(picture, Image.new("RGB", picture.size), mask)
    for box in boxes:
        ImageDraw.Draw(drawn).rectangle(box, outline=KEPT_OUTLINE)
    return drawn


def draw_views(picture: Image.Image, inputs: BatchFeature, processor: Any, picks: list[int]) -> Image.Image:
    """Draw the views of one picture that a model sees, with the patches that it keeps.

    Args:
        picture (`PIL.Image.Image`): the picture.
        inputs: the output of `processor` for this picture, as tensors.
        processor: the processor of a pruned model.
        picks (`list[int]`): indices of the kept visual tokens.

    Returns:
        For LLaVA-1.5 the cropped picture; for models of any resolution the squeezed base view and, beside it, the
        picture at the resolution of its crops.
    """
    (num_available,) = processor.count_image_tokens(inputs)
    views = inputs["pixel_values"][0].reshape(-1, *inputs["pixel_values"].shape[-3:])
    rows, columns = processor.patches_of_view(*views.shape[-2:])
    extra_rows = extra_columns = 0
    if "image_sizes" in inputs:
        height, width = inputs["image_sizes"][0].tolist()
        grid = (rows, columns, *crops_of(processor, height, width, views.shape[-2:]))
        num_patches, extra_rows = processor._get_unpadded_features(height, width, *grid)
        extra_columns = num_patches // extra_rows + 1  # a newline token ends each row
    # Tokens such as CLS come before the patches of the first view, and have no place in it.
    first = num_available - extra_rows * extra_columns - rows * columns
    base = [token - first for token in picks if first <= token < first + rows * columns]
    drawn = [draw_kept(model_view(views[0], processor.image_processor), base, rows, columns)]
    if extra_rows:
        places = [
            divmod(token - first - rows * columns, extra_columns) for token in picks if token >= first + rows * columns
        ]
        patches = [row * (extra_columns - 1) + column for row, column in places if column < extra_columns - 1]
        size = ((extra_columns - 1) * views.shape[-1] // columns, extra_rows * views.shape[-2] // rows)
        drawn.append(draw_kept(picture.convert("RGB").resize(size), patches, extra_rows, extra_columns - 1))
    if len(drawn) == 1:
        return drawn[0]
    sheet = Image.new("RGB", (sum(view.width for view in drawn), max(view.height for view in drawn)), "white")
    left = 0
    for view in drawn:
        sheet.paste(view, (left, 0))
        left += view.width
    return sheet


def crops_of(processor: Any, height: int, width: int, view_size: Sequence[int]) -> tuple[int, int]:
    """Return the number of crops that LLaVA-NeXT makes of a picture, downwards and across; all sizes are pixels."""
    best = select_best_resolution((height, width), processor.image_processor.image_grid_pinpoints)
    return best[0] // view_size[0], best[1] // view_size[1]


def contact_sheet(pictures: list[Image.Image], columns: int = 4, gap: int = 8) -> Image.Image:
    """Return several pictures of one size on one sheet, in rows of `columns`, `gap` pixels apart."""
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        sheet.paste(picture, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet
