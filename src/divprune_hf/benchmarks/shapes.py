"""Models of true shapes with random weights, and prompts for them: what `benchmark_generation.py` measures."""

from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import (
    CLIPVisionConfig,
    LlamaConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    LlavaNextConfig,
    LlavaNextForConditionalGeneration,
    LlavaNextVideoConfig,
    LlavaNextVideoForConditionalGeneration,
)

from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.remote_code.budget import keep_count


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
STOCK_CLASSES = {
    "llava": (LlavaConfig, LlavaForConditionalGeneration),
    "llava_next": (LlavaNextConfig, LlavaNextForConditionalGeneration),
    "llava_next_video": (LlavaNextVideoConfig, LlavaNextVideoForConditionalGeneration),
}


@dataclass(frozen=True)
class Shape:
    """A model's sizes, and the media of one prompt: a square image, a picture of 672 x 672, or 8 frames."""

    family: str
    vision: dict = field(default_factory=dict)
    text: dict = field(default_factory=dict)
    num_visual_tokens: int = 576
    trained: bool = False


SHAPES = {
    "llava-1.5-7b": Shape("llava", CLIP_LARGE, VICUNA_7B),
    "llava-1.5-13b": Shape("llava", CLIP_LARGE, VICUNA_13B),
    # 576 of the base view, 48 x 48 of four crops, and a newline token for each of their 48 rows.
    "llava-1.6-7b": Shape("llava_next", CLIP_LARGE, VICUNA_7B, num_visual_tokens=2928),
    "llava-next-video-7b": Shape("llava_next_video", CLIP_LARGE, VICUNA_7B, num_visual_tokens=1152),
    "tiny-cpu": Shape("llava", VIT_SMALL, LLAMA_TINY),
    "pocket": Shape("llava", num_visual_tokens=256, trained=True),
}


def build_models(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """The stock model and ours, on the same weights in the same memory."""
    family = FAMILIES[shape.family]
    config_class, stock_class = STOCK_CLASSES[shape.family]
    if shape.trained:
        stock = stock_class.from_pretrained(pocket_llava(), dtype=dtype).to(device)
        config = config_class.from_pretrained(pocket_llava())
    else:
        config = config_class(vision_config=CLIPVisionConfig(**shape.vision), text_config=LlamaConfig(**shape.text))
        stock = random_model(stock_class, config, device, dtype)
    settings = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    ours = random_model(family.head_class, family.config_class(**settings), device, dtype)
    ours.load_state_dict(stock.state_dict(), assign=True)
    return stock.eval(), ours.eval()


def random_model(model_class, config, device, dtype):
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return model_class(config)
    finally:
        torch.set_default_dtype(default)


def build_inputs(shape: Shape, config, batch: int, budget: float | None, device, dtype) -> dict[str, torch.Tensor]:
    """A batch of prompts with one random image or video each; `budget` is a share to keep, None stock's prompt."""
    kept = shape.num_visual_tokens if budget is None else keep_count(shape.num_visual_tokens, retention_ratio=budget)
    generator = torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    is_video = shape.family == "llava_next_video"
    placeholder = config.video_token_id if is_video else config.image_token_id
    text = torch.randint(0, min(1000, config.text_config.vocab_size), (batch, NUM_TEXT_TOKENS), generator=generator)
    text[text == placeholder] = placeholder - 1
    visual = torch.full((batch, kept), placeholder)
    input_ids = torch.cat([text[:, :5], visual, text[:, 5:]], dim=1)
    views = {"llava": (), "llava_next": (5,), "llava_next_video": (8,)}[shape.family]
    pixels = torch.randn(batch, *views, 3, size, size, generator=generator)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    inputs["pixel_values_videos" if is_video else "pixel_values"] = pixels.to(dtype)
    if shape.family == "llava_next":
        inputs["image_sizes"] = torch.tensor([[2 * size, 2 * size]] * batch)
    if budget is not None:
        inputs["num_video_tokens_kept" if is_video else "num_image_tokens_kept"] = torch.tensor([kept] * batch)
    return {name: value.to(device) for name, value in inputs.items()}
