"""Checks of safetensors files by their headers alone, as strict as those of the format's own reader."""

import math
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from divprune_hf.checkpoints.json_files import exists, parse_json, regular_file


LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format
DTYPE_BITS = {
    "F4": 4,
    **dict.fromkeys(("F6_E2M3", "F6_E3M2"), 6),
    **dict.fromkeys(("BOOL", "U8", "I8", "F8_E5M2", "F8_E4M3", "F8_E8M0", "F8_E4M3FNUZ", "F8_E5M2FNUZ"), 8),
    **dict.fromkeys(("I16", "U16", "F16", "BF16"), 16),
    **dict.fromkeys(("I32", "U32", "F32"), 32),
    **dict.fromkeys(("I64", "U64", "F64", "C64"), 64),
}


@dataclass(frozen=True)
class Span:
    """A tensor's shape, and the range of its bytes, counted from the end of the header."""

    name: str
    shape: tuple[int, ...]
    start: int
    end: int


def check_shard(path: Path) -> dict[str, tuple[int, ...]]:
    """Check that a safetensors file has the layout of its header; return the shapes of its tensors, by name.

    Raises:
        ValueError: names the file and what is wrong with it.
    """
    if not exists(path):
        raise ValueError(f"{path} is missing, expected all shards of the checkpoint.")
    path = regular_file(path)
    size = path.stat().st_size
    invalid = f"{path} has no valid safetensors header"
    with path.open("rb") as file:
        prefix = file.read(8)
        header_size = struct.unpack("<Q", prefix)[0] if len(prefix) == 8 else size
        if header_size > min(size - 8, LARGEST_HEADER):
            raise ValueError(f"{invalid}: is it truncated, or a download pointer?")
        try:
            header = parse_json(file.read(header_size), path)
        except ValueError as error:
            raise ValueError(f"{invalid}: is it truncated, or a download pointer? {error}") from None
    spans = tensor_spans(header, invalid)
    expected = 8 + header_size + max(span.end for span in spans)
    if size != expected:
        raise ValueError(
            f"{path} is truncated or damaged: it has {size} bytes, its header says {expected}. Download it again."
        )
    return {span.name: span.shape for span in spans}


def tensor_spans(header: dict[str, Any], invalid: str) -> list[Span]:
    """Return the tensors of a header in the order of their bytes.

    Args:
        header: the JSON object at the beginning of a file.
        invalid: the first words of an error.

    Raises:
        ValueError: an entry is impossible, or the tensors overlap or leave gaps.
    """
    metadata = header.get("__metadata__", {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError(f"{invalid}: __metadata__ is no object of texts.")
    spans = [tensor_span(name, entry, invalid) for name, entry in header.items() if name != "__metadata__"]
    if not spans:
        raise ValueError(f"{invalid}: it names no tensors.")
    spans.sort(key=lambda span: (span.start, span.end))
    end = 0
    for span in spans:
        if span.start != end:
            what = "overlaps the tensor before it" if span.start < end else f"leaves a gap of {span.start - end} bytes"
            raise ValueError(f"{invalid}: {span.name!r} starts at byte {span.start} and {what}.")
        end = span.end
    return spans


def tensor_span(name: str, entry: Any, invalid: str) -> Span:
    """Return one entry of a header; raise a `ValueError` unless its shape and dtype take the bytes that it names."""
    if not isinstance(entry, dict) or set(entry) != {"dtype", "shape", "data_offsets"}:
        raise ValueError(f"{invalid}: {name!r} is no object of dtype, shape and data_offsets.")
    dtype, shape, offsets = entry["dtype"], entry["shape"], entry["data_offsets"]
    if not isinstance(dtype, str) or dtype not in DTYPE_BITS:
        raise ValueError(f"{invalid}: {name!r} has the dtype {dtype!r}, which the format does not know.")
    if not is_list_of_sizes(shape):
        raise ValueError(f"{invalid}: {name!r} has the shape {shape!r}, expected a list of whole numbers.")
    if not is_list_of_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise ValueError(f"{invalid}: {name!r} has data_offsets {offsets!r}, expected a start and an end.")
    bits = math.prod(shape) * DTYPE_BITS[dtype]
    if bits != 8 * (offsets[1] - offsets[0]):
        raise ValueError(
            f"{invalid}: {name!r} of dtype {dtype} and shape {shape} does not take {offsets[1] - offsets[0]} bytes."
        )
    return Span(name, tuple(shape), *offsets)


def is_list_of_sizes(candidate: Any) -> bool:
    """Tell whether this is a list of whole numbers that are not negative."""
    return isinstance(candidate, list) and all(type(number) is int and number >= 0 for number in candidate)


def tensor_shapes(folder: str | Path, weights: list[str]) -> list[tuple[int, ...]]:
    """Return the shape of every tensor in the files that `weight_files` lists."""
    shards = [name for name in weights if name.endswith(".safetensors")]
    return [shape for name in shards for shape in check_shard(Path(folder) / name).values()]
