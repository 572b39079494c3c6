"""Reading a picture, and drawing which of its patches a model keeps."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw
from transformers.image_utils import load_image


KEPT_OUTLINE = (255, 196, 0)
DIMMED = 0.25  # brightness of dropped patches


def read_picture(source: str) -> Image.Image:
    """The picture at a path or URL, as RGB."""
    try:
        return load_image(str(source))
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        detail = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise ValueError(f"{source} is not a picture that can be read ({detail}).") from None


def model_view(pixel_values: torch.Tensor, image_processor) -> Image.Image:
    """What the vision tower sees, as a picture: `pixel_values` of shape `(channels, height, width)`, un-normalised."""
    pixels = pixel_values.float().cpu().numpy().transpose(1, 2, 0)
    pixels = pixels * np.array(image_processor.image_std) + np.array(image_processor.image_mean)
    return Image.fromarray((pixels.clip(0, 1) * 255).round().astype(np.uint8))


def draw_kept(picture: Image.Image, kept_patches: list[int], num_patches: int) -> Image.Image:
    """Draw a picture with its kept patches outlined and all others dimmed.

    Args:
        picture (`PIL.Image.Image`): the model's view of one image.
        kept_patches (`list[int]`): indices of the kept patches, counted in raster order.
        num_patches (`int`): how many patches there are, as many in each direction.
    """
    side = math.isqrt(num_patches)
    width, height = picture.size
    mask = Image.new("L", picture.size, round(255 * DIMMED))
    boxes = []
    for patch in kept_patches:
        row, column = divmod(patch, side)
        left, top = column * width // side, row * height // side
        boxes.append((left, top, (column + 1) * width // side - 1, (row + 1) * height // side - 1))
    for box in boxes:
        ImageDraw.Draw(mask).rectangle(box, fill=255)
    drawn = Image.composite(picture, Image.new("RGB", picture.size), mask)
    for box in boxes:
        ImageDraw.Draw(drawn).rectangle(box, outline=KEPT_OUTLINE)
    return drawn


def contact_sheet(pictures: list[Image.Image], columns: int = 4, gap: int = 8) -> Image.Image:
    """Several pictures of one size on one sheet."""
    width, height = pictures[0].size
    rows = math.ceil(len(pictures) / columns)
    sheet = Image.new("RGB", (columns * (width + gap) + gap, rows * (height + gap) + gap), "white")
    for i, picture in enumerate(pictures):
        row, column = divmod(i, columns)
        sheet.paste(picture, (gap + column * (width + gap), gap + row * (height + gap)))
    return sheet
