# SPDX-License-Identifier: Apache-2.0
"""Cosine distances between visual tokens: float32 or better for features of any dtype, and exact where tokens tie.

Everywhere here, duplicates are at distance 0 of each other and all other pairs at `NOISE` or more; a zero row is at
distance 0 of zero rows and 1 of all others; a row with NaN or Inf is at distance Inf of all others.
"""

import math

import torch
from torch.nn.functional import pad


# Distances below this are rounding noise of a float32 product, and count as 0.
NOISE = 2.0**-20
# Kernels of products smaller than this sum in an order that differs from entry to entry, by more than `NOISE` where
# rows are long.
SMALL = 64
# Since torch 2.8, on CUDA: tensor cores multiply half precision exactly and add up in float32.
MULTIPLIES_HALVES_INTO_FLOAT32 = torch.version.hip is None and "dtype_out" in torch.ops.aten.mm.overloads()


def cosine_distances(features: torch.Tensor, out: torch.Tensor | None = None):
    """Cosine distances between all rows of `features`.

    Args:
        features (`torch.Tensor` of shape `(M, D)`, floating point).
        out (`torch.Tensor` of shape `(M, M)` and dtype `distance_dtype(features)`, *optional*): holds the distances.

    Returns:
        distances (`torch.Tensor` of shape `(M, M)`, float32 or float64): -Inf on the diagonal, so that a picked row is
        never picked again.
        nearest (`torch.Tensor` of shape `(M,)`): each row's distance to its nearest other row, at most its ceiling.
        ceiling (`torch.Tensor` of shape `(M,)`): Inf; -1, which is below every distance, for rows with NaN or Inf.
    """
    scale, is_zero, ceiling = row_statistics(features)
    if out is None:
        out = torch.empty(len(features), len(features), dtype=scale.dtype, device=features.device)
    distances = gram_matrix_(out, scaled_rows(features, scale))
    inverse_norm = inverse_norms(distances.diagonal(), is_zero)
    nearest = torch.empty_like(scale)
    # In place and, on a CPU, block by block, so that each block is read once while it is in the cache.
    rows_per_block = len(features) if features.is_cuda else max(1, 2**20 // len(features))
    for start in range(0, len(features), rows_per_block):
        rows = slice(start, start + rows_per_block)
        block = to_distances_(distances[rows], inverse_norm[rows], inverse_norm, is_zero[rows], is_zero)
        diagonal = block.diagonal(start)
        diagonal.fill_(math.inf)
        torch.amin(block, dim=1, out=nearest[rows])
        diagonal.fill_(-math.inf)
    return distances, torch.minimum(nearest, ceiling, out=nearest), ceiling


def padded_cosine_distances(features: list[torch.Tensor]):
    """`cosine_distances` of several images, with M the largest number of rows: padding is below all that can be picked.

    Returns:
        distances (`torch.Tensor` of shape `(images, M, M)`), nearest and ceiling (`(images, M)`).
    """
    if len(features) == 1:
        return tuple(result.unsqueeze(0) for result in cosine_distances(features[0]))
    size = max(map(len, features))
    padded = []
    for image in features:
        # Each image's own product, not a batched one: the kernel that it gets alone, and so the same picks.
        distances, nearest, ceiling = cosine_distances(image)
        missing = size - len(image)
        square = pad(distances, (0, missing, 0, missing), value=-math.inf)
        padded.append((square, *(pad(vector, (0, missing), value=-math.inf) for vector in (nearest, ceiling))))
    return tuple(torch.stack(results) for results in zip(*padded))


def row_statistics(features: torch.Tensor):
    """What the distances need to know of each row.

    Returns:
        scale (`torch.Tensor` of shape `(M,)`): a power of two that brings the row's largest entry to about 1; NaN for
        rows with NaN or Inf. Scaling by it is exact, keeps the squares from over- and underflowing, and leaves products
        of half precision features exact in float32; dividing by the norm before the product would not.
        is_zero (`torch.Tensor` of shape `(M,)`): 1 for zero rows, 0 for others.
        ceiling (`torch.Tensor` of shape `(M,)`): see `cosine_distances`.
    """
    dtype = distance_dtype(features)
    largest = torch.maximum(features.amax(dim=1), -features.amin(dim=1)).to(dtype)
    is_zero = torch.eq(largest, 0, out=torch.empty_like(largest))
    largest = largest + is_zero
    limit = 126 if dtype == torch.float32 else 1022
    # x = mantissa * 2**exponent, so this quotient is 2**-exponent, without rounding.
    scale = (torch.frexp(largest).mantissa / largest).clamp_(2.0**-limit, 2.0**limit)
    return scale, is_zero, (scale * math.inf).nan_to_num_(nan=-1.0, posinf=math.inf)


def scaled_rows(features: torch.Tensor, scale: torch.Tensor) -> torch.Tensor:
    """The rows of `features` times `scale`, in the dtype in which they are multiplied with each other."""
    if multiplies_halves(features):
        # Products of float16 stay far from the ends of float32: they need no scaling, which could underflow.
        return features if features.dtype == torch.float16 else features * scale.to(features.dtype).unsqueeze(1)
    return features * scale.unsqueeze(1)


def gram_matrix_(out: torch.Tensor, features: torch.Tensor) -> torch.Tensor:
    """`out = features @ features.T`, on a CPU at three quarters of its cost: the product is symmetric."""
    half = len(features) // 2
    if features.is_cuda or half < 4 * SMALL:  # too little to save
        return matrix_product_(out, features, features)
    matrix_product_(out[:half], features[:half], features)
    matrix_product_(out[half:, half:], features[half:], features[half:])
    out[half:, :half] = out[:half, half:].T
    return out


def matrix_product_(out: torch.Tensor, left: torch.Tensor, right: torch.Tensor) -> torch.Tensor:
    """`out = left @ right.T` with nothing rounded below the dtype of `out`.

    Autocast keeps its hands off products that are written into a given tensor.
    """
    if min(len(left), len(right)) < SMALL:
        left, right = left.double(), right.double()
        return out.copy_(left.new_empty(out.shape).addmm_(left, right.T, beta=0))
    if left.dtype != out.dtype:
        return torch.mm(left, right.T, out.dtype, out=out)
    return out.addmm_(left, right.T, beta=0)


def inverse_norms(squared_norms: torch.Tensor, is_zero: torch.Tensor) -> torch.Tensor:
    """1 / norm, and 1 for zero rows."""
    return (squared_norms + is_zero).sqrt_().reciprocal_()


def to_distances_(products, inverse_norm_left, inverse_norm_right, is_zero_left, is_zero_right) -> torch.Tensor:
    """Turn products of rows, of shape `(left, right)`, into cosine distances, in place."""
    # A zero row gets a direction of its own: at distance 0 of other zero rows, 1 of all others.
    products.addr_(is_zero_left, is_zero_right)
    products.mul_(-inverse_norm_left.unsqueeze(1)).mul_(inverse_norm_right).add_(1)
    # 1 - cos of two equal rows is rounding noise: as 0, duplicates tie and the lowest index wins.
    return torch.threshold_(products, NOISE, 0).nan_to_num_(nan=math.inf, posinf=math.inf)


def distance_dtype(features: torch.Tensor) -> torch.dtype:
    """float32 where a float32 matrix product is one, float64 where settings let it round its inputs (TF32, bf16).

    bfloat16 features survive that rounding unchanged, so they take the fast way.
    """
    if features.dtype == torch.float64:
        return torch.float64
    is_exact = features.dtype == torch.bfloat16 or multiplies_halves(features) or float32_products_are_exact()
    return torch.float32 if is_exact else torch.float64


def multiplies_halves(features: torch.Tensor) -> bool:
    """Whether `features` are multiplied as they are, into float32."""
    is_half = features.dtype in (torch.bfloat16, torch.float16)
    return is_half and features.is_cuda and MULTIPLIES_HALVES_INTO_FLOAT32


@torch.compiler.assume_constant_result
def float32_products_are_exact() -> bool:
    """Whether the process keeps float32 matrix products in float32, however it says so."""
    backends = (torch.backends.cuda.matmul, torch.backends.mkldnn.matmul)
    if all(hasattr(backend, "fp32_precision") for backend in backends):
        return all(backend.fp32_precision in ("none", "ieee") for backend in backends)
    return torch.get_float32_matmul_precision() == "highest"  # before torch 2.9
