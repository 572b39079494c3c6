"""Change the budget of a loaded model."""

from typing import Any

from transformers import PreTrainedModel, ProcessorMixin

from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


def set_budget(
    model: PreTrainedModel,
    processor: ProcessorMixin,
    *,
    num_tokens: int | None = None,
    retention_ratio: float | None = None,
    video_num_tokens: int | None = None,
    video_retention_ratio: float | None = None,
) -> None:
    """Set the budget of a loaded model, in the model and its processor alike.

    For the budget of a single call, pass the same names to the processor instead.

    Args:
        model: a pruned model, as `AutoModelForImageTextToText.from_pretrained` returns it.
        processor: its processor.
        num_tokens (`int`, *optional*): number of visual tokens to keep per image.
        retention_ratio (`float`, *optional*): share of the visual tokens to keep per image, above 0 and at most 1.
        video_num_tokens, video_retention_ratio (*optional*): the same per video, all its frames together.

    Raises:
        ValueError: no budget, two budgets or an impossible one, or a model or processor that does not prune. Neither
            of the two is changed in these cases.
    """
    override = {
        "num_tokens": num_tokens,
        "retention_ratio": retention_ratio,
        "video_num_tokens": video_num_tokens,
        "video_retention_ratio": video_retention_ratio,
    }
    if all(value is None for value in override.values()):
        raise ValueError(f"Got no budget, expected one of {', '.join(override)}.")
    config: Any = check_prunes("model", model, getattr(model, "config", None))
    pruning: Any = check_prunes("processor", processor, processor)
    settings = DivPruneConfig.merged(config.divprune_config, override, takes_videos=config.takes_videos)
    of_processor = DivPruneConfig.merged(pruning.divprune_config, override, takes_videos=pruning.takes_videos)
    # The head and its inner model share one config object. Keep the class of its settings, which may be remote code's.
    config.divprune_config = type(config.divprune_config)(**settings.to_block())
    pruning.divprune_config = of_processor.to_block()


def check_prunes(part: str, given: object, holder: object) -> object:
    """Return the holder of the settings; raise a `ValueError` that names the type of `given` if it has none."""
    if not hasattr(holder, "divprune_config"):
        raise ValueError(
            f"Got a {part} of type {type(given).__name__}, which does not prune; "
            "expected one loaded from a converted checkpoint (divprune-hf convert BASE OUT)."
        )
    return holder
