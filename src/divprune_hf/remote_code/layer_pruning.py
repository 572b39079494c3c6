# SPDX-License-Identifier: Apache-2.0
"""Pruning at a deeper layer: `layer=l` drops visual tokens where they enter decoder layer l (the paper ablates layers).

The prompt has a placeholder for each of the M visual tokens, and layers 0 to l - 1 see all of them. Hooks in front of
layers l and above do the rest, and the decoder stays the stock one: in front of layer l the hidden states of each image
are one pool, of which K are kept, and everything that layers l and above read along (mask, rotary embeddings, cache
slots) is gathered in the same way. Their keys and values are short in fact.

Slots number the tokens of the unpruned prompt, which are their positions too. Rows of a batch may keep different
numbers: shorter ones are filled up in front with dropped tokens, which nothing attends to.
"""

import functools
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import torch
from torch.nn.functional import pad
from transformers import Cache

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


@dataclass(frozen=True)
class Kept:
    """The tokens that layers l and above hold, and those of them that the running forward brings.

    Attributes:
        slots: the slot of each held token, int64, (B, n).
        valid: whether it is a token of its row, bool, (B, n); the others fill up.
        num_slots: number of slots that are accounted for; later tokens follow without gaps.
        queries: which of the running forward's tokens were kept, int64, (B, q).
        num_before: number of tokens that were held before it.
        is_even: True if all are valid.
    """

    slots: torch.Tensor
    valid: torch.Tensor
    num_slots: int
    queries: torch.Tensor
    num_before: int
    is_even: bool

    def up_to(self, num_slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return `slots` and `valid` when so many slots are in use: later tokens, or rejected drafts, have no gaps."""
        added = num_slots - self.num_slots
        if added <= 0:
            held = self.slots.shape[1] + added
            return self.slots[:, :held], self.valid[:, :held]
        new = torch.arange(self.num_slots, num_slots, device=self.slots.device).expand(len(self.slots), added)
        return torch.cat((self.slots, new), 1), pad(self.valid, (0, added), value=True)


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


def kept_of_prompt(stays: torch.Tensor, padding: torch.Tensor | None, before: Kept | None, num_slots: int) -> Kept:
    """Return what layers l and above hold with a prompt.

    Args:
        stays: which of its tokens stay, bool, (B, S).
        padding: marks padding by 0, (B, at least S); None without padding.
        before: what they held before.
        num_slots: number of slots with this prompt.
    """
    length = stays.shape[1]
    if padding is not None:
        stays = stays & padding[:, -length:].to(stays.device).bool()
    fewest, most = torch.stack(stays.sum(-1).aminmax()).tolist()  # one read: the size of all that follows
    # Dropped tokens first, each group in its order: the last ones are the row's own, behind what fills up.
    queries = stays.byte().argsort(dim=1, stable=True)[:, -most:]
    slots, valid, is_even, num_before = queries + (num_slots - length), stays.gather(1, queries), fewest == most, 0
    if before is not None:
        earlier_slots, earlier_valid = before.up_to(num_slots - length)
        slots, valid = torch.cat((earlier_slots, slots), 1), torch.cat((earlier_valid, valid), 1)
        is_even, num_before = is_even and before.is_even, earlier_slots.shape[1]
    return Kept(slots, valid, num_slots, queries, num_before, is_even)


def gathered(values: torch.Tensor, queries: torch.Tensor) -> torch.Tensor:
    """Return the entries of (B or 1, S, ...) that belong to queries, (B, q): (B, q, ...)."""
    index = queries.to(values.device)
    rows = torch.arange(len(index), device=values.device).unsqueeze(1)
    return values.expand(len(index), *values.shape[1:])[rows, index]


@dataclass(frozen=True)
class Step:
    """One forward of the language model.

    Attributes:
        num_slots: number of slots in use with it.
        num_new: number of tokens that it brings, before any is dropped.
        is_prompt: whether it drops some.
        is_static: whether keys are as many as the cache can hold, not as many as there are.
    """

    num_slots: int
    num_new: int
    is_prompt: bool
    is_static: bool


def mask_of_layer(mask: torch.Tensor | None, kept: Kept, step: Step) -> torch.Tensor | None:
    """Return the attention mask of layers l and above, (B, 1, q, n), from the stock one, (B or 1, 1, S, slots).

    Args:
        mask: bool or additive; None where the stock attention is causal and nothing is padded.
        kept: the tokens that the layers hold.
        step: the running forward.

    Raises:
        ValueError: a kind of mask whose entries cannot be gathered.
    """
    if mask is None and kept.is_even:
        return None
    if mask is None:
        # Rows keep different numbers, and the stock model needs no mask: causal.
        all_slots = torch.arange(step.num_slots, device=kept.slots.device)
        mask = (all_slots <= all_slots[step.num_slots - step.num_new :, None])[None, None]
    if not isinstance(mask, torch.Tensor) or mask.dim() != 4:
        raise ValueError(
            "Got an attention mask that cannot be gathered where a deeper layer drops tokens, expected that of "
            "attn_implementation='sdpa' or 'eager': load the model with one of them."
        )
    width = mask.shape[-1]
    if width != step.num_slots and not step.is_static:
        raise ValueError(
            f"Got a mask of {width} columns for {step.num_slots} tokens, expected as many: a model with a sliding "
            "window takes prompts up to its window where tokens are dropped at a deeper layer."
        )
    num_unused = width - kept.slots.shape[1] if step.is_static else step.num_slots - kept.num_slots
    slots, valid = kept.up_to(kept.num_slots + num_unused)
    valid = valid & (slots < width)
    columns = slots.clamp(max=width - 1).to(mask.device)
    new = kept.queries if step.is_prompt else torch.arange(mask.shape[2], device=slots.device).expand(len(slots), -1)
    rows = torch.arange(len(slots), device=mask.device)[:, None, None]
    chosen = mask.expand(len(slots), -1, -1, -1)[rows, 0, new.to(mask.device)[:, :, None], columns[:, None, :]]
    hidden = ~valid.to(mask.device)
    # What fills up reads everything: a row of a mask that allows nothing would give NaN.
    filling = hidden[:, kept.num_before : kept.num_before + new.shape[1]]
    blocked, free = (False, True) if mask.dtype == torch.bool else (torch.finfo(mask.dtype).min, 0)
    chosen = chosen.masked_fill(hidden[:, None, :], blocked)
    if step.is_prompt:
        chosen = chosen.masked_fill(filling[:, :, None], free)
    return chosen.unsqueeze(1)


class LayerMixin(Stock):
    """The part of an inner model that drops tokens inside its language model.

    What a call needs is in the ContextVar `PROMPT`, what a chat needs in its cache, and nothing on a module.
    """

    def _install_layer(self) -> None:
        """Put hooks in front of the language model and of its layers from l on, where the config asks for it.

        Raises:
            ValueError: the model is built for an engine that has a cache of its own.
        """
        layer = self.config.divprune_config.layer
        if layer == 0 or self._has_layer_hooks():
            return
        if getattr(self.config.get_text_config(), "_attn_implementation", None) == "vllm":
            raise ValueError(
                f"Got layer={layer} in vLLM, whose cache has the same length in all layers, expected 0: convert the "
                "base without --layer, or run this model with transformers."
            )
        self.language_model.register_forward_pre_hook(self._note_padding, with_kwargs=True)
        for index, decoder_layer in enumerate(self.language_model.layers):
            if index >= layer:
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
                "inside its language model."
            )
        prompt.pools[modality] = pool

    def _note_padding(self, language_model: Any, args: tuple, inputs: dict[str, Any]) -> None:
        """Note which tokens of a prompt are padding, as a forward pre-hook of the language model."""
        prompt, mask = prompt_of(self), inputs.get("attention_mask")
        if prompt is not None:
            prompt.padding = mask if isinstance(mask, torch.Tensor) and mask.dim() == 2 else None

    def _at_layer(self, index: int, decoder_layer: Any, args: tuple, inputs: dict[str, Any]) -> Any:
        """Return what a layer from l on reads, as its forward pre-hook."""
        (hidden_states, *rest), prompt = args, prompt_of(self)
        cache = next((value for value in inputs.values() if isinstance(value, Cache)), None)
        if index == self.config.divprune_config.layer and prompt is not None:
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


def labels_of_kept(labels: torch.Tensor, kept: Kept) -> torch.Tensor:
    """Return the labels of the tokens that a prompt kept, (B, q); what fills up predicts nothing: -100."""
    fills_up = ~kept.valid[:, kept.num_before :].to(labels.device)
    predicted_by_it = pad(fills_up, (1, 0))[:, :-1]
    return gathered(labels, kept.queries).masked_fill(fills_up | predicted_by_it, -100)
