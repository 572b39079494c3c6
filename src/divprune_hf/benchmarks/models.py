"""Models of true shapes with random weights, and prompts for them."""

from typing import Any

import torch
from transformers import CLIPVisionConfig, LlamaConfig, PretrainedConfig, PreTrainedModel

from divprune_hf.benchmarks.shapes import NUM_TEXT_TOKENS, Shape
from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.remote_code.budget import keep_count
from divprune_hf.remote_code.signatures import stock_base


VIEWS: dict[str, tuple[int, ...]] = {
    "llava": (),
    "llava_next": (5,),
    "llava_next_video": (8,),
    "llava_onevision": (5,),
}  # dimensions of `pixel_values` between batch and RGB


def stock_classes(family: str) -> tuple[Any, Any]:
    """Return the config and the model with a language modelling head that a family's are made from."""
    return stock_base(FAMILIES[family].config_class), stock_base(FAMILIES[family].head_class)


def build_models(shape: Shape, device: torch.device, dtype: torch.dtype) -> tuple[Any, Any]:
    """Return the stock model and ours, on the same weights in the same memory."""
    family = FAMILIES[shape.family]
    config_class, stock_class = stock_classes(shape.family)
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


def random_model(
    model_class: type[PreTrainedModel], config: PretrainedConfig, device: torch.device, dtype: torch.dtype
) -> PreTrainedModel:
    """Return a model with random weights, made where and as what it will run."""
    default = torch.get_default_dtype()
    torch.set_default_dtype(dtype)
    try:
        with torch.device(device):
            return model_class(config)
    finally:
        torch.set_default_dtype(default)


def build_inputs(
    shape: Shape,
    config: PretrainedConfig,
    batch: int,
    budget: float | None,
    device: torch.device,
    dtype: torch.dtype,
) -> dict[str, torch.Tensor]:
    """Return a batch of prompts with one random image or video each.

    Args:
        shape: the shape that the model was built from.
        config: the model's config.
        batch: the number of prompts.
        budget: the share of visual tokens to keep; `None` for the stock model's prompt.
        device: where the inputs go.
        dtype: the dtype of the pixels.
    """
    num_kept = shape.num_available if budget is None else keep_count(shape.num_available, retention_ratio=budget)
    generator = torch.Generator().manual_seed(0)
    size = config.vision_config.image_size
    is_video = shape.family == "llava_next_video"
    placeholder = config.video_token_id if is_video else config.image_token_id
    text = torch.randint(0, min(1000, config.text_config.vocab_size), (batch, NUM_TEXT_TOKENS), generator=generator)
    placeholders = [config.image_token_id, getattr(config, "video_token_id", config.image_token_id)]
    text[torch.isin(text, torch.tensor(placeholders))] = min(placeholders) - 1
    visual = torch.full((batch, num_kept), placeholder)
    input_ids = torch.cat([text[:, :5], visual, text[:, 5:]], dim=1)
    pixels = torch.randn(batch, *VIEWS[shape.family], 3, size, size, generator=generator)
    inputs = {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}
    inputs["pixel_values_videos" if is_video else "pixel_values"] = pixels.to(dtype)
    if VIEWS[shape.family] and not is_video:
        inputs["image_sizes"] = torch.tensor([[2 * size, 2 * size]] * batch)
    if budget is not None:
        inputs["num_video_tokens_kept" if is_video else "num_image_tokens_kept"] = torch.tensor([num_kept] * batch)
    return {name: value.to(device) for name, value in inputs.items()}
