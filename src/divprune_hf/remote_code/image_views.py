# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT's pictures of any resolution: how many views each has, and how their tokens become one sequence."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import PretrainedConfig
from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches

from .prompt_counts import IMAGE, Modality
from .transformers_surface import Stock


def num_views_of_images(config: PretrainedConfig, image_sizes: Sequence[Any]) -> list[int]:
    """Return how many views the model has of each image of a height and width: the whole, and its crops."""
    tile = config.vision_config.image_size
    return [image_size_to_num_patches(size, config.image_grid_pinpoints, tile) for size in image_sizes]


def checked_image_sizes(
    config: PretrainedConfig, pixel_values: torch.Tensor, image_sizes: Any = None, has_crops: list[bool] | None = None
) -> list[Any]:
    """The height and width of each picture, as lists: LLaVA-NeXT reads them on the host, and never waits for these.

    Raises a `ValueError` unless there is one pair per picture, and all the views that they ask for. `has_crops` says
    for each picture whether it has more than its base view; by default all have.
    """
    sizes = image_sizes.tolist() if hasattr(image_sizes, "tolist") else list(image_sizes or [])
    sizes = [size.tolist() if hasattr(size, "tolist") else size for size in sizes]
    if not all(isinstance(size, (list, tuple)) for size in sizes):
        sizes = []
    # A batch of pictures is padded to the views of the largest one; without that dimension all views are in a row.
    num_images = len(pixel_values) if pixel_values.dim() == 5 else len(sizes)
    possible = len(sizes) == num_images > 0 and all(len(size) == 2 and min(size) > 0 for size in sizes)
    if possible and has_crops is not None:
        possible = pixel_values.dim() == 5 and len(has_crops) == num_images
    if possible and pixel_values.dim() == 5:
        views = num_views_of_images(config, sizes)
        needed = [number if crops else 1 for number, crops in zip(views, has_crops or [True] * num_images)]
        possible = max(needed) <= pixel_values.shape[1]
    if possible:
        return sizes
    raise ValueError(
        f"Got image_sizes={sizes or image_sizes!r} for pixel_values of shape {tuple(pixel_values.shape)}, expected the "
        "height and width of each picture in pixels. Pass everything that the processor returned to the model."
    )


class AnyResolutionMixin(Stock):
    """Common part of the inner models of LLaVA-NeXT and LLaVA-NeXT-Video.

    Modifications:
    - base view, unpadded crops and newline rows of an image are one pool with one budget, as in the paper's code;
    - `image_sizes` that do not fit the pixels raise one clear `ValueError`, and are read before the vision tower runs;
    - `pack_image_features` does not wait for the vision tower.
    """

    def _checked_inputs(self, modality: Modality, inputs: dict[str, Any]) -> dict[str, Any]:
        if modality is not IMAGE:
            return inputs
        sizes = checked_image_sizes(self.config, inputs["pixel_values"], inputs.get("image_sizes"))
        return {**inputs, "image_sizes": sizes}

    def pack_image_features(self, *args: Any, **kwargs: Any) -> Any:
        """Pack features as the stock model does, but nothing waits for the vision tower."""
        return packed_without_waiting(super().pack_image_features, *args, **kwargs)


def packed_without_waiting(
    pack: Callable[..., Any],
    image_features: Sequence[torch.Tensor],
    image_sizes: Sequence[Any],
    vision_feature_select_strategy: str,
    image_newline: torch.Tensor | None = None,
) -> tuple[list[torch.Tensor], torch.Tensor]:
    """Return what `pack`, LLaVA-NeXT's `pack_image_features`, makes of the views of each image.

    `pack` also makes a tensor of lengths on the device of the features, which waits for the vision tower. Here it packs
    numbers in place of tokens, on the host, and the tokens are gathered by them.

    Args:
        pack (callable): the parent's method.
        image_features (list of `torch.Tensor` of shape `(views, tokens, width)`): the views of each image.
        image_sizes (list of (height, width)): of each picture in pixels.
        vision_feature_select_strategy (`str`): handed on.
        image_newline (`torch.Tensor` of shape `(width,)`, *optional*): the token that ends a row of patches.

    Returns:
        A list of one `torch.Tensor` of shape `(M, width)` per image, and the lengths M, on the host.
    """
    newlines = [] if image_newline is None else [image_newline[None]]
    number_of_newline = torch.zeros(1, dtype=torch.long, device="cpu") if newlines else None
    numbers = []
    for views in image_features:
        num_views, num_tokens = views.shape[:2]
        numbers_of_image = torch.arange(num_views * num_tokens, device="cpu") + len(newlines)
        numbers.append(numbers_of_image.view(num_views, num_tokens, 1))
    order, lengths = pack(numbers, image_sizes, vision_feature_select_strategy, number_of_newline)
    packed = []
    for views, index in zip(image_features, order):
        tokens = torch.cat([*(newline.to(views) for newline in newlines), views.flatten(0, 1)])
        packed.append(tokens.index_select(0, index.flatten().to(tokens.device, non_blocking=True)))
    return packed, lengths
