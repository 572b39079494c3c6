# SPDX-License-Identifier: Apache-2.0
"""LLaVA-NeXT's pictures of any resolution: how many views each has, and whether the sizes that say so can be right."""

from transformers.models.llava_next.modeling_llava_next import image_size_to_num_patches


def num_views_of_images(config, image_sizes):
    """How many views the model has of each image, given their heights and widths: the whole, and its crops."""
    tile = config.vision_config.image_size
    return [image_size_to_num_patches(size, config.image_grid_pinpoints, tile) for size in image_sizes]


def checked_image_sizes(config, pixel_values, image_sizes=None):
    """The height and width of each picture, as lists: LLaVA-NeXT reads them on the host, and never waits for these.

    Raises a `ValueError` unless there is one pair per picture, and all the views that they ask for.
    """
    sizes = image_sizes.tolist() if hasattr(image_sizes, "tolist") else list(image_sizes or [])
    sizes = [size.tolist() if hasattr(size, "tolist") else size for size in sizes]
    if not all(isinstance(size, (list, tuple)) for size in sizes):
        sizes = []
    # A batch of pictures is padded to the views of the largest one; without that dimension all views are in a row.
    num_images = len(pixel_values) if pixel_values.dim() == 5 else len(sizes)
    possible = len(sizes) == num_images > 0 and all(len(size) == 2 and min(size) > 0 for size in sizes)
    if possible and pixel_values.dim() == 5:
        possible = max(num_views_of_images(config, sizes)) <= pixel_values.shape[1]
    if possible:
        return sizes
    raise ValueError(
        f"Got image_sizes={sizes or image_sizes!r} for pixel_values of shape {tuple(pixel_values.shape)}, expected the "
        "height and width of each picture in pixels. Pass everything that the processor returned to the model."
    )
