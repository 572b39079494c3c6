"""Budgets in vLLM's `mm_processor_kwargs`: those of the engine's start, and those of a request.

vLLM merges both into one dict. There a `retention_ratio` of a request would stand beside the `num_tokens` of the start,
and the processor could not tell whose wish is the later one.
"""

from collections.abc import Mapping
from typing import Any

from divprune_hf.remote_code.call_arguments import check_call
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.layer_pruning import check_layer_in_vllm
from divprune_hf.remote_code.settings import BUDGETS, PER_CALL
from divprune_hf.remote_code.token_positions import check_positions_in_vllm


# The dicts in which transformers' processors take arguments of one kind of input.
SCOPES = ("images_kwargs", "videos_kwargs")


def with_budget_of_request(merged: Mapping[str, Any], request: Mapping[str, Any]) -> dict[str, Any]:
    """Return merged arguments in which a budget of the request replaces that of the start, in whichever form.

    Args:
        merged: what vLLM makes of the arguments of the start and of the request.
        request: the arguments of the request.
    """
    asked = budgets_in(request)
    replaced = {name for names in BUDGETS if asked & set(names) for name in names}
    kept = without(merged, replaced)
    for scope in SCOPES:
        if isinstance(kept.get(scope), Mapping):
            kept[scope] = without(kept[scope], replaced) | of_names(request.get(scope), replaced)
    return kept | of_names(request, replaced)


def budgets_in(arguments: Mapping[str, Any]) -> set[str]:
    """Return the names of the budgets that are given, by themselves or in one of `SCOPES`."""
    holders = [arguments, *(arguments.get(scope) for scope in SCOPES)]
    return {name for holder in holders for name, value in of_names(holder, set(PER_CALL)).items() if value is not None}


def of_names(arguments: Any, names: set[str]) -> dict[str, Any]:
    """Return the arguments with these names; none of what is no dict."""
    return {name: value for name, value in arguments.items() if name in names} if isinstance(arguments, Mapping) else {}


def without(arguments: Mapping[str, Any], names: set[str]) -> dict[str, Any]:
    """Return the arguments without these names."""
    return {name: value for name, value in arguments.items() if name not in names}


def check_arguments(processor: Any, arguments: Mapping[str, Any] | None) -> None:
    """Raise a `ValueError` for arguments of a start or of a request that have no effect, or an impossible budget.

    Args:
        processor: a pruned model's.
        arguments: `mm_processor_kwargs`.
    """
    given = dict(arguments or {})
    check_call(processor, given)
    for holder in (given, *(given.get(scope) for scope in SCOPES)):
        budget = of_names(holder, set(PER_CALL))
        DivPruneConfig.merged(processor.divprune_config, budget, takes_videos=processor.takes_videos)


def check_start(processor: Any, config: Any, arguments: Mapping[str, Any] | None) -> None:
    """Raise a `ValueError` for settings of an engine's start that would have no effect, or no possible one.

    Args:
        processor: a pruned model's.
        config: the model's, after `hf_overrides`.
        arguments: the start's `mm_processor_kwargs`.
    """
    check_positions_in_vllm(config.divprune_config.positions)
    check_layer_in_vllm(config.divprune_config.layer)
    check_arguments(processor, arguments)
    for_model, for_processor = (
        DivPruneConfig.merged(block, takes_videos=processor.takes_videos)
        for block in (config.divprune_config, processor.divprune_config)
    )
    if (for_model.budget, for_model.video_budget) != (for_processor.budget, for_processor.video_budget):
        raise ValueError(
            f"Got the budget {for_model.to_block()} for the model and {for_processor.to_block()} for its processor, "
            "expected the same: hf_overrides reach the model alone. Give the budget in mm_processor_kwargs."
        )
