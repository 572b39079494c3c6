# SPDX-License-Identifier: Apache-2.0
"""Cosine distances between visual tokens: float32 or better for features of any dtype, and exact where tokens tie.

Everywhere here, duplicates are at distance 0 of each other and all other pairs at `NOISE` or more; a zero row is at
distance 0 of zero rows and 1 of all others; a row with NaN or Inf is at distance Inf of all others.
"""

import math
from typing import Any

import torch

from .max_min import NOISE
from .max_min_triton import runs_on, to_distances_with_triton_


# Kernels of products smaller than this sum in an order that differs from entry to entry, by more than `NOISE` where
# rows are long.
SMALL = 64
# Columns of a symmetric product that a CPU computes at a time, down to the diagonal: of 576, six times 96 take 0.7 of
# the time of all at once. Products of more than `MANY` rows gain more from wider columns.
COLUMNS, COLUMNS_OF_MANY, MANY = 96, 192, 1024
# Entries of features that a CPU scales at once: 1 MiB in float32 stays in its caches.
SCALED_TOGETHER = 2**18
# Since torch 2.8, on CUDA: tensor cores multiply half precision exactly and add up in float32.
MULTIPLIES_HALVES_INTO_FLOAT32 = torch.version.hip is None and "dtype_out" in torch.ops.aten.mm.overloads()


def cosine_distances(features: list[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Return cosine distances between all rows of each image of a batch.

    Args:
        features (list of `torch.Tensor` of shape `(M, D)`, floating point): all images have one M.

    Returns:
        distances (`torch.Tensor` of shape `(images, M, M)`, float32 or float64): -Inf on the diagonals, so that a
        picked row is never picked again.
        nearest (`torch.Tensor` of shape `(images, M)`): each row's distance to its nearest other row, at most its
        ceiling.
        ceiling (`torch.Tensor` of shape `(images, M)`): Inf; -1, which is below every distance, for rows with NaN or
        Inf.
    """
    distances = gram_matrices(features)
    num_images, size, _ = distances.shape
    inverse_norm, is_zero, ceiling = row_statistics(distances.diagonal(dim1=1, dim2=2))
    if runs_on(distances):
        return distances, to_distances_with_triton_(distances, inverse_norm, is_zero, ceiling, NOISE), ceiling
    nearest = torch.empty_like(ceiling)
    # In place and, on a CPU, block by block, so that each block is read once while it is in the cache.
    rows_per_block = size if distances.is_cuda else max(1, 2**20 // (num_images * size))
    for start in range(0, size, rows_per_block):
        rows = slice(start, start + rows_per_block)
        block = to_distances_(distances[:, rows], inverse_norm[:, rows], inverse_norm, is_zero[:, rows], is_zero)
        diagonals = block.diagonal(start, 1, 2)
        diagonals.fill_(math.inf)
        torch.amin(block, dim=2, out=nearest[:, rows])
        diagonals.fill_(-math.inf)
    return distances, torch.minimum(nearest, ceiling, out=nearest), ceiling


def gram_matrices(features: list[torch.Tensor]) -> torch.Tensor:
    """Return the products of all rows of each image, of shape `(images, M, M)`; of scaled rows where that matters."""
    size, dtype = len(features[0]), distance_dtype(features[0])
    products = torch.empty((len(features), size, size), dtype=dtype, device=features[0].device)
    if may_be_read(features[0]):
        for matrix, image in zip(products, features):
            gram_matrix_(matrix, image.to(dtype))
        if far_from_the_ends(products.diagonal(dim1=1, dim2=2)):
            return products
    matrices = iter(products)
    # All rows are scaled at once where the calls cost most, image by image where the memory does.
    together = products.is_cuda or sum(image.numel() for image in features) <= SCALED_TOGETHER
    for group in [features] if together else [[image] for image in features]:
        rows = joined(group) if len(group) > 1 else group[0]
        rows = rows if needs_no_scaling(rows) else scaled_rows(rows, row_scale(rows, dtype))
        for image in rows.split(size):
            # Each image's own product, not a batched one: on a CPU it is summed as when the image is alone.
            gram_matrix_(next(matrices), image)
    return products


def may_be_read(features: torch.Tensor) -> bool:
    """Tell whether values may decide what is computed next: not those that a GPU still computes, nor in a graph."""
    is_traced = type(features) is not torch.Tensor or torch.compiler.is_compiling()
    return features.device.type == "cpu" and not is_traced


def far_from_the_ends(squared_norms: torch.Tensor) -> bool:
    """Tell whether scaling rows by powers of two would change no bit of their distances: none is near 0 or overflow."""
    smallest, largest = squared_norms.aminmax()
    return float(smallest) > 2.0**-60 and float(largest) < 2.0**60  # false for NaN


def joined(features: list[torch.Tensor]) -> torch.Tensor:
    """Return the rows of all images, one after another, in their own dtype.

    Into a given tensor: autocast wraps the plain `torch.cat`, and raises for dtypes that it does not cast.
    """
    rows = features[0].new_empty(sum(len(image) for image in features), features[0].shape[1])
    return torch.cat(features, out=rows)


def row_scale(features: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """Return a power of two for each row, of shape `(rows,)` and given dtype, that brings its largest entry to about 1.

    Scaling by it is exact, keeps the squares from over- and underflowing, and leaves products of half precision
    features exact in float32; dividing by the norm before the product would not.
    """
    limit = 2.0**126 if dtype == torch.float32 else 2.0**1022
    largest = torch.maximum(features.amax(dim=1), -features.amin(dim=1)).to(dtype).clamp_(1 / limit, limit / 2)
    # x = mantissa * 2**exponent, so this quotient is 2**-exponent, without rounding.
    return torch.frexp(largest).mantissa / largest


def row_statistics(squared_norms: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Per-row terms of the cosine distance: inverse norm, zero-row flag, ceiling.

    Returns:
        inverse_norm (like `squared_norms`): 1 / norm, and 1 for zero rows.
        is_zero (like `squared_norms`): 1 for zero rows, 0 for others.
        ceiling (like `squared_norms`): see `cosine_distances`.
    """
    is_zero = torch.eq(squared_norms, 0, out=torch.empty_like(squared_norms))
    inverse_norm = (squared_norms + is_zero).sqrt_().reciprocal_()
    return inverse_norm, is_zero, (inverse_norm * math.inf).nan_to_num_(nan=-1.0, posinf=math.inf)


def scaled_rows(features: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """Return the rows of `features` times `scale`, in the dtype in which they are multiplied with each other."""
    if needs_no_scaling(features):
        return features
    return features * (scale.to(features.dtype) if multiplies_halves(features) else scale).unsqueeze(1)


def needs_no_scaling(features: torch.Tensor) -> bool:
    """Tell whether rows can be multiplied as they are: products of float16 in float32 stay far from its ends."""
    return features.dtype == torch.float16 and multiplies_halves(features)


def gram_matrix_(out: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """Write `features @ features.T` into `out`; a CPU does it at about 0.6 of the cost, as the product is symmetric."""
    if features.is_cuda:
        return matrix_product_(out, features, features)
    size = len(features)
    num_products = max(1, size // (COLUMNS if size <= MANY else COLUMNS_OF_MANY))
    for number in range(num_products):
        start, end = size * number // num_products, size * (number + 1) // num_products
        matrix_product_(out[:end, start:end], features[:end], features[start:end])
        out[start:end, :start] = out[:start, start:end].T
    return out


def matrix_product_(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """Write `left @ right.T` into `out`, with nothing rounded below the dtype of `out`.

    Autocast keeps its hands off products that are written into a given tensor.
    """
    if min(len(left), len(right)) < SMALL:
        left, right = left.double(), right.double()
        return out.copy_(left.new_empty(out.shape).addmm_(left, right.T, beta=0))
    if left.dtype != out.dtype:
        return torch.mm(left, right.T, out.dtype, out=out)
    return out.addmm_(left, right.T, beta=0)


def to_distances_(
    products: torch.Tensor,
    inverse_norm_left: torch.Tensor,
    inverse_norm_right: torch.Tensor,
    is_zero_left: torch.Tensor,
    is_zero_right: torch.Tensor,
) -> torch.Tensor:
    """Turn products of rows, of shape `(..., left, right)`, into cosine distances, in place."""
    # A zero row gets a direction of its own: at distance 0 of other zero rows, 1 of all others.
    products.addcmul_(is_zero_left.unsqueeze(-1), is_zero_right.unsqueeze(-2))
    products.mul_(-inverse_norm_left.unsqueeze(-1)).mul_(inverse_norm_right.unsqueeze(-2)).add_(1)
    # 1 - cos of two equal rows is rounding noise: as 0, duplicates tie and the lowest index wins.
    return torch.threshold_(products, NOISE, 0).nan_to_num_(nan=math.inf, posinf=math.inf)


def distance_dtype(features: torch.Tensor) -> torch.dtype:
    """Return float32, or float64 where settings let a float32 matrix product round its inputs (TF32, bf16).

    bfloat16 features survive that rounding unchanged, so they take the fast way.
    """
    if features.dtype == torch.float64:
        return torch.float64
    is_exact = features.dtype == torch.bfloat16 or multiplies_halves(features) or float32_products_are_exact()
    return torch.float32 if is_exact else torch.float64


def multiplies_halves(features: torch.Tensor) -> bool:
    """Tell whether `features` are multiplied as they are, into float32."""
    is_half = features.dtype in (torch.bfloat16, torch.float16)
    return is_half and features.is_cuda and MULTIPLIES_HALVES_INTO_FLOAT32


@torch.compiler.assume_constant_result
def float32_products_are_exact() -> bool:
    """Tell whether the process keeps float32 matrix products in float32, however it says so."""
    try:
        return torch.get_float32_matmul_precision() == "highest"
    except RuntimeError:  # it does not know what the settings of torch 2.9 say
        of_cpu: Any = torch.backends.mkldnn
        backends = (torch.backends.cuda.matmul, of_cpu.matmul)
        return all(backend.fp32_precision in ("none", "ieee") for backend in backends)
