"""Model shapes that the benchmarks measure, as a table of sizes. Nothing heavy is imported: commands read the names."""

from dataclasses import dataclass, field, replace
from typing import Any


NUM_TEXT_TOKENS = 35  # LLaVA's system prompt and a short question
CLIP_LARGE = {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 24,
    "num_attention_heads": 16,
    "image_size": 336,
    "patch_size": 14,
    "projection_dim": 768,
}
VIT_SMALL = {
    **CLIP_LARGE,
    "hidden_size": 384,
    "intermediate_size": 1536,
    "num_hidden_layers": 12,
    "num_attention_heads": 6,
}
VICUNA_7B = {
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "vocab_size": 32064,
}
VICUNA_13B = {
    **VICUNA_7B,
    "hidden_size": 5120,
    "intermediate_size": 13824,
    "num_hidden_layers": 40,
    "num_attention_heads": 40,
    "num_key_value_heads": 40,
}
LLAMA_TINY = {
    **VICUNA_7B,
    "hidden_size": 1024,
    "intermediate_size": 2816,
    "num_hidden_layers": 12,
    "num_attention_heads": 16,
    "num_key_value_heads": 16,
}


@dataclass(frozen=True)
class Shape:
    """The sizes of a model, and the visual tokens of one prompt: a square image, a picture of 672 x 672, or 8 frames.

    Args:
        family: a key of `FAMILIES`.
        vision: fields of the vision tower's config.
        text: fields of the language model's config.
        num_available: visual tokens of the prompt (M).
        trained: use the weights and sizes of pocket-llava.
    """

    family: str
    vision: dict[str, Any] = field(default_factory=dict)
    text: dict[str, Any] = field(default_factory=dict)
    num_available: int = 576
    trained: bool = False


SHAPES = {
    "llava-1.5-7b": Shape("llava", CLIP_LARGE, VICUNA_7B),
    "llava-1.5-13b": Shape("llava", CLIP_LARGE, VICUNA_13B),
    # 576 of the base view, 48 x 48 of four crops, and a newline token for each of their 48 rows.
    "llava-1.6-7b": Shape("llava_next", CLIP_LARGE, VICUNA_7B, num_available=2928),
    "llava-next-video-7b": Shape("llava_next_video", CLIP_LARGE, VICUNA_7B, num_available=1152),
    "tiny-cpu": Shape("llava", VIT_SMALL, LLAMA_TINY),
    "pocket": Shape("llava", num_available=256, trained=True),
}
# Half a billion parameters: more than a process takes by itself, and quick to write.
LOADING_SHAPES = {
    "half-billion": replace(SHAPES["tiny-cpu"], text={**LLAMA_TINY, "num_hidden_layers": 32}),
    **SHAPES,
}
