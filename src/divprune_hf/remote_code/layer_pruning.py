# SPDX-License-Identifier: Apache-2.0
"""Pruning at a deeper layer: `layer=l` drops visual tokens where they enter decoder layer l (the paper ablates layers).

The prompt has a placeholder for each of the M visual tokens, and layers 0 to l - 1 see all of them. Hooks in front of
layers l and above do the rest, and the decoder stays the stock one: in front of layer l the hidden states of each image
are one pool, of which K are kept, and everything that layers l and above read along (mask, rotary embeddings, cache
slots) is gathered in the same way (kept_slots.py). Their keys and values are short in fact.
"""

import functools
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from transformers import Cache

from .kept_slots import Kept, Step, gathered, kept_of_prompt, mask_of_layer
from .prompt_counts import Modality, Prompt, prompt_of
from .token_selection import select_tokens
from .transformers_surface import Stock


# The attribute of a cache that holds what its deeper layers hold: `Kept`.
CACHED_SLOTS = "divprune_slots"


@dataclass(frozen=True)
class Pool:
    """Images (or videos) of a prompt whose tokens are chosen inside the language model.

    Attributes:
        num_available: of each, the number of its visual tokens (M).
        counts: of each, the number of kept ones (K).
        pixels, image_sizes: the inputs of the vision tower, for selectors that look at them.
    """

    num_available: list[int]
    counts: list[int]
    pixels: torch.Tensor
    image_sizes: Any


# The tokens that the running forward of a head has kept, for its labels.
SEEN: ContextVar[list[Kept] | None] = ContextVar("divprune_seen", default=None)


def kept_tokens(hidden_states: torch.Tensor, prompt: Prompt, config: Any) -> torch.Tensor:
    """Return which tokens of a prompt stay: bool, (B, S).

    Args:
        hidden_states: those in front of layer l, (B, S, width).
        prompt: what is known of it; `pools` and `placed` are read.
        config: the model's.
    """
    stays = torch.ones(hidden_states.shape[:2], dtype=torch.bool, device=hidden_states.device)
    repeats = len(hidden_states) // prompt.num_prompts  # `generate` repeats each prompt for beams and samples
    prompts, stays = hidden_states[::repeats].flatten(0, 1), stays[::repeats].flatten()
    for modality, pool in prompt.pools.items():
        placeholders = prompt.placed[modality].to(stays.device)[::repeats].flatten()
        # Placeholders first, in their order: as many as there are visual tokens.
        slots = placeholders.byte().argsort(descending=True, stable=True)[: sum(pool.num_available)]
        slots_of_images = slots.split(pool.num_available)
        features = [prompts.detach()[slots] for slots in slots_of_images]
        all_picks = select_tokens(config, features, pool.counts, pool.pixels, pool.image_sizes)
        for slots, picks in zip(slots_of_images, all_picks):
            if picks is not None:
                stays[slots] = False
                stays[slots[picks]] = True
    return stays.view(-1, hidden_states.shape[1]).repeat_interleave(repeats, dim=0)


def check_layer_in_vllm(layer: int) -> None:
    """Raise a `ValueError` unless tokens are dropped where vLLM's cache allows it."""
    if layer != 0:
        raise ValueError(
            f"Got layer={layer} in vLLM, whose cache has the same length in all layers, expected 0: convert the "
            "base without --layer, or run this model with transformers."
        )


class LayerMixin(Stock):
    """The part of an inner model that drops tokens inside its language model.

    What a call needs is in the ContextVar `PROMPT`, what a chat needs in its cache, and nothing on a module.
    """

    def _install_layer(self) -> None:
        """Put hooks in front of the language model and of all its layers but the first, where the config asks for it.

        Raises:
            ValueError: the model is built for an engine that has a cache of its own.
        """
        layer = self.config.divprune_config.layer
        if layer == 0 or self._has_layer_hooks():
            return
        if getattr(self.config.get_text_config(), "_attn_implementation", None) == "vllm":
            check_layer_in_vllm(layer)
        self.language_model.register_forward_pre_hook(self._note_padding, with_kwargs=True)
        for index, decoder_layer in enumerate(self.language_model.layers[1:], start=1):
            decoder_layer.register_forward_pre_hook(functools.partial(self._at_layer, index), with_kwargs=True)

    def _has_layer_hooks(self) -> bool:
        hooks = self.language_model._forward_pre_hooks.values()
        return any(getattr(hook, "__func__", None) is LayerMixin._note_padding for hook in hooks)

    def _tell_pool(self, modality: Modality, pool: Pool) -> None:
        """Tell the running `forward` or `generate` what layer l is to choose from.

        Raises:
            ValueError: nothing runs that could choose, or the model was built without the hooks.
        """
        layer, prompt = self.config.divprune_config.layer, prompt_of(self)
        if prompt is None or not self._has_layer_hooks():
            raise ValueError(
                f"Got layer={layer} and a call of {modality.name} features or picks "
                f"{'on its own' if prompt is None else 'of a model that was loaded without it'}, expected a call of "
                "forward or generate of a model that was loaded with this setting: which tokens are kept is decided "
                "inside its language model, and select_prompt_tokens tells."
            )
        prompt.pools[modality] = pool

    def _note_padding(self, language_model: Any, args: tuple, inputs: dict[str, Any]) -> None:
        """Note which tokens of a prompt are padding, as a forward pre-hook of the language model."""
        prompt, mask = prompt_of(self), inputs.get("attention_mask")
        if prompt is not None:
            prompt.padding = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None

    def _at_layer(self, index: int, decoder_layer: Any, args: tuple, inputs: dict[str, Any]) -> Any:
        """Return what a layer from l on reads, as its forward pre-hook."""
        (hidden_states, *rest), layer, prompt = args, self.config.divprune_config.layer, prompt_of(self)
        cache = next((value for value in inputs.values() if isinstance(value, Cache)), None)
        if layer == 0 or index < layer:
            return None
        if index == layer and prompt is not None:
            prompt.kept = self._drop(hidden_states, prompt, cache, inputs) if prompt.placed else None
            if prompt.kept is not None:
                check_no_checkpointing(decoder_layer)
                hidden_states = gathered(hidden_states, prompt.kept.queries)
        is_prompt = prompt is not None and prompt.kept is not None
        kept = prompt.kept if prompt is not None and is_prompt else getattr(cache, CACHED_SLOTS, None)
        if kept is None:
            return None
        num_new = inputs["position_embeddings"][0].shape[1]
        is_static = getattr(cache, "is_compileable", False)
        step = Step(kept.num_slots if is_prompt else slots_in_use(cache, inputs), num_new, is_prompt, is_static)
        num_before = kept.num_before if is_prompt else kept.up_to(step.num_slots - num_new)[0].shape[1]
        if cache is not None and not is_static:
            remove_rejected(cache, index, num_before)
        changed: dict[str, Any] = {"attention_mask": mask_of_layer(inputs.get("attention_mask"), kept, step)}
        if is_prompt:
            changed["position_embeddings"] = tuple(gathered(e, kept.queries) for e in inputs["position_embeddings"])
            if inputs.get("position_ids") is not None:
                changed["position_ids"] = gathered(inputs["position_ids"], kept.queries)
        if inputs.get("cache_position") is not None:
            first = inputs["cache_position"][:1] - (step.num_slots - num_new - num_before)
            changed["cache_position"] = first + torch.arange(hidden_states.shape[1], device=first.device)
        return (hidden_states, *rest), {**inputs, **changed}

    def _drop(self, hidden_states: torch.Tensor, prompt: Prompt, cache: Cache | None, inputs: dict[str, Any]) -> Any:
        """Choose the tokens that stay; None if all do."""
        placed, pools = prompt.placed, prompt.pools
        if all(pools[modality].counts == pools[modality].num_available for modality in placed):
            prompt.placed = {}
            return None
        with torch.no_grad():
            stays = kept_tokens(hidden_states, prompt, self.config)
            num_slots = hidden_states.shape[1] if cache is None else slots_in_use(cache, inputs)
            kept = kept_of_prompt(stays, prompt.padding, getattr(cache, CACHED_SLOTS, None), num_slots)
        prompt.placed = {}
        if cache is not None:
            setattr(cache, CACHED_SLOTS, kept)
        seen = SEEN.get()
        if seen is not None:
            seen.append(kept)
        return kept


def slots_in_use(cache: Any, inputs: dict[str, Any]) -> int:
    """Return the number of slots with the running forward, whose tokens the first layer has cached."""
    if inputs.get("cache_position") is not None:  # before transformers 5, where static caches count what is not zero
        return int(inputs["cache_position"][-1]) + 1
    return int(cache.get_seq_length(0))


def remove_rejected(cache: Any, index: int, num_before: int) -> None:
    """Remove what a rejected draft has left in a layer's cache, which is cropped by the length of the first layer."""
    surplus = cache.get_seq_length(index) - num_before
    if surplus > 0:
        cache.layers[index].crop(-surplus)


def check_no_checkpointing(decoder_layer: Any) -> None:
    """Raise a `ValueError` where a layer would run again without the prompt that it was told about."""
    if decoder_layer.training and getattr(decoder_layer, "gradient_checkpointing", False):
        raise ValueError(
            "Got gradient checkpointing where tokens are dropped at a deeper layer, expected none: call "
            "model.gradient_checkpointing_disable(), or train with layer=0."
        )
