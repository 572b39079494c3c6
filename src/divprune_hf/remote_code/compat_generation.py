# SPDX-License-Identifier: Apache-2.0
"""Additions that `generate` needs before transformers 5.23. Delete this file and its one base class with their support.

From 5.23 on `generate` encodes images first, repeats them row by row and splits them for a prefill in parts. Before,
a row with several images got those of other rows under beams, and a prefill in parts answered wrongly or not at all.
"""

import inspect
from typing import Any

import torch
from transformers.generation import utils

from .prompt_counts import MODALITIES, Modality, inputs_of_each_row, to_counts
from .transformers_surface import Stock


# 5.23 is told by its newest part.
ENCODES_FIRST = hasattr(utils, "_slice_mm_encoder_output")
# 4.57 hands pixels to the model at the beginning of a prompt, 5 in the first step of each call. In a chat that goes on
# with its cache, 4.57 drops the pixels of a new picture, and reads its placeholders as text.
PREPARES_INPUTS = inspect.signature(utils.GenerationMixin.prepare_inputs_for_generation).parameters
SEES_NEW_PICTURES = "is_first_iteration" in PREPARES_INPUTS


class GenerationBefore523(Stock):
    """A model with a language modelling head that encodes images in the prefill, and repeats them for each row."""

    def generate(self, **inputs: Any) -> Any:
        """Generate as the stock model does; refuse a prompt with pictures that it would read in parts."""
        config = inputs.get("generation_config") or self.generation_config
        size = inputs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if size is not None and any(inputs.get(modality.pixels) is not None for modality in MODALITIES):
            raise ValueError(
                f"Got prefill_chunk_size={size} for a prompt with images or videos, expected None: before version 5.23 "
                "transformers cannot read such a prompt in parts."
            )
        if not SEES_NEW_PICTURES:
            self._check_no_new_pictures(inputs)
        return super().generate(**inputs)

    def _check_no_new_pictures(self, inputs: dict[str, Any]) -> None:
        """Raise a `ValueError` for placeholders behind what is in the cache."""
        length = cached_length(inputs.get("past_key_values"))
        embeds = inputs.get("inputs_embeds")
        prompt_ids = inputs.get("inputs") if inputs.get("input_ids") is None else inputs["input_ids"]
        if not length or (prompt_ids is None and embeds is None):
            return
        prompt = (prompt_ids, None) if embeds is None else (None, embeds)
        for modality in MODALITIES:
            if not hasattr(self.config, modality.token_id):
                continue
            num_placeholders = int(self.model._placeholders(modality, *prompt)[:, length:].sum())
            if num_placeholders:
                raise ValueError(
                    f"Got {num_placeholders} {modality.name} placeholders behind the {length} tokens in the cache, "
                    f"expected all {modality.name}s in the part that is in the cache: this version of transformers "
                    f"drops new {modality.name}s there. Pass the whole chat without the cache, or use transformers 5."
                )

    def _maybe_prepare_encoder_kwargs_for_generation(self, inputs_tensor: Any, model_kwargs: Any, *args: Any) -> Any:
        return model_kwargs  # the prefill encodes

    def _expand_inputs_for_generation(
        self, expand_size: int = 1, is_encoder_decoder: bool = False, input_ids: Any = None, **model_kwargs: Any
    ) -> tuple:
        """Repeat inputs as the stock model does, but all images of a row again: [a, b] -> [a, b, a, b]."""
        repeated: dict[str, Any] = {}
        has_ids = input_ids is not None and input_ids.numel() > 0
        prompt = (input_ids, None) if has_ids else (None, model_kwargs.get("inputs_embeds"))
        for modality in MODALITIES if expand_size > 1 else ():
            if model_kwargs.get(modality.pixels) is None:
                continue
            placeholders = self.model._placeholders(modality, *prompt).sum(-1).tolist()
            names = {modality.pixels, modality.counts, *modality.companions} & set(model_kwargs)
            inputs = {name: model_kwargs.pop(name) for name in names}
            # Placeholders are all visual tokens where a deeper layer drops some: the counts do not tell images apart.
            counts = None if self.config.divprune_config.layer else inputs.get(modality.counts)
            order = repeated_order(modality, placeholders, {**inputs, modality.counts: counts}, expand_size)
            repeated |= {k: None if v is None else torch.as_tensor(v)[order] for k, v in inputs.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **repeated}


def cached_length(cache: Any) -> int:
    """Return how many tokens of the prompt a cache holds, which may be one of the tuples of old releases."""
    if cache is None or isinstance(cache, tuple):
        return cache[0][0].shape[-2] if cache else 0
    return int(cache.get_seq_length())


def repeated_order(modality: Modality, placeholders: list[int], inputs: dict[str, Any], expand_size: int) -> list[int]:
    """Return which image (or video) goes where when each row is repeated `expand_size` times, as a list of numbers."""
    counts = to_counts(inputs.get(modality.counts), modality)
    num_inputs, num_placeholders = len(inputs[modality.pixels]), sum(placeholders)
    if counts is not None and len(counts) != num_inputs:
        raise ValueError(
            f"Got {modality.counts}={counts} for {num_inputs} {modality.name}s, expected one count for each."
        )
    if counts is None:
        # Without counts they must be one to a row, or of one size, so that they share placeholders equally.
        sizes_differ = any(inputs.get(name) is not None for name in modality.companions)
        if sum(num > 0 for num in placeholders) == num_inputs:
            counts = [num for num in placeholders if num > 0]
        elif num_placeholders % num_inputs or sizes_differ:
            raise ValueError(
                f"Got {num_placeholders} {modality.name} placeholders for {num_inputs} {modality.name}s without "
                f"`{modality.counts}`, expected the counts that the processor returned: pass them to `generate`. With "
                "layer=1 or more they do not help: pass one image per row, or use transformers 5.23."
            )
        else:
            counts = [num_placeholders // num_inputs] * num_inputs
    order, first = [], 0
    for num_inputs_of_row in inputs_of_each_row(placeholders, counts, modality):
        order += list(range(first, first + num_inputs_of_row)) * expand_size
        first += num_inputs_of_row
    return order


class NothingToAdd(Stock):
    """No additions: transformers 5.23 and later need none."""


GenerationCompat: Any = NothingToAdd if ENCODES_FIRST else GenerationBefore523
