"""Changing the budget of a loaded model."""

from transformers import PreTrainedModel, ProcessorMixin

from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


def set_budget(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    num_tokens: int | None = None,
    retention_ratio: float | None = None,
    video_num_tokens: int | None = None,
    video_retention_ratio: float | None = None,
) -> None:
    """Set how many visual tokens per image and video a loaded model keeps, in the model and its processor alike.

    For the budget of a single call pass the same names to the processor instead.

    Args:
        model: a pruned model, as `AutoModelForImageTextToText.from_pretrained` returns it.
        processor: its processor.
        num_tokens (`int`, *optional*): number of visual tokens to keep per image.
        retention_ratio (`float`, *optional*): share of the visual tokens to keep per image, above 0 and at most 1.
        video_num_tokens, video_retention_ratio: the same per video, all its frames together.

    Raises:
        ValueError: no budget, two budgets or an impossible one, or a model or processor that does not prune. Neither
            of the two is changed then.
    """
    override = {
        "num_tokens": num_tokens,
        "retention_ratio": retention_ratio,
        "video_num_tokens": video_num_tokens,
        "video_retention_ratio": video_retention_ratio,
    }
    if all(value is None for value in override.values()):
        raise ValueError(f"Got no budget, expected one of {', '.join(override)}.")
    for part, holder in (("model", getattr(model, "config", None)), ("processor", processor)):
        if not hasattr(holder, "divprune_config"):
            raise ValueError(
                f"Got a {part} of type {type(model if part == 'model' else processor).__name__}, which does not prune; "
                "expected one loaded from a converted checkpoint (divprune-hf convert BASE OUT)."
            )
    merged = DivPruneConfig.merged(model.config.divprune_config, override, model.config.takes_videos)
    processor_block = DivPruneConfig.merged(processor.divprune_config, override, processor.takes_videos).to_block()
    # One and the same config object serves the head and its inner model; keep its class, which may be remote code's.
    model.config.divprune_config = type(model.config.divprune_config)(**merged.to_block())
    processor.divprune_config = processor_block
