# SPDX-License-Identifier: Apache-2.0
"""A pruned model that generates: prompts are compared with their images and counts before anything is encoded."""

import inspect
from typing import Any

import torch
from transformers import Cache, PretrainedConfig

from .compat_generation import GenerationCompat
from .configuration_divprune import overridden_config
from .kept_slots import Kept, labels_of_kept
from .layer_pruning import SEEN
from .prompt_counts import IMAGE, MODALITIES, PROMPT, VIDEO, Modality, Prompt, check_fit, inputs_of_each_row, to_counts
from .signatures import MadeFromStock
from .transformers_surface import HEAD_METHODS


class DivPruneHeadMixin(MadeFromStock, GenerationCompat):
    """Common part of the models with a language modelling head; a family names its inner model `inner_class`.

    Modifications:
    - the inner model is the family's pruned one;
    - `forward` and `generate` take `num_image_tokens_kept`;
    - `select_image_tokens` and `select_prompt_tokens` are new;
    - the loss is that of the tokens that a deeper layer keeps, where `config.divprune_config.layer` is 1 or more;
    - `generate` compares the placeholders of each row with images and counts before it encodes anything;
    - a model that drafts gets only the inputs that it takes.
    """

    inner_class: type
    extended: dict[str, tuple[str, ...]] = {"forward": (IMAGE.counts,), "generate": ()}
    needed = HEAD_METHODS

    def __init__(self, config: PretrainedConfig, divprune_config: Any = None) -> None:
        super().__init__(overridden_config(config, divprune_config))
        # The stock constructor has made the stock inner model: the same weights and modules, without our methods.
        self.model.__class__ = self.inner_class
        self.model._install_hooks()

    def forward(self, **inputs: Any) -> Any:
        """Run the stock forward; the counts go on to the inner model."""
        labels = inputs.get("labels")
        if labels is None or not self.config.divprune_config.layer:
            return super().forward(**inputs)
        return self._forward_with_labels(labels, {**inputs, "labels": None, "return_dict": True})

    def _forward_with_labels(self, labels: torch.Tensor, inputs: dict[str, Any]) -> Any:
        """Run the stock forward, and compute the loss over the tokens that a deeper layer has kept."""
        outputs, kept = self._forward_and_kept(inputs)
        if kept is not None:
            labels = labels_of_kept(labels, kept)
        vocab_size = self.config.get_text_config().vocab_size
        outputs.loss = self.loss_function(logits=outputs.logits, labels=labels, vocab_size=vocab_size)
        return outputs

    def _forward_and_kept(self, inputs: dict[str, Any]) -> tuple[Any, Kept | None]:
        """Run the stock forward; return its outputs and what a deeper layer has kept, None if all."""
        seen: list[Kept] = []
        told = SEEN.set(seen)
        try:
            return super().forward(**inputs), seen[0] if seen else None
        finally:
            SEEN.reset(told)

    @torch.no_grad()
    def select_prompt_tokens(self, **inputs: Any) -> list[torch.Tensor]:
        """Return which tokens of each prompt reach the last layer, where `layer` drops some.

        Args:
            inputs: those of `forward`.

        Returns:
            A list with one `torch.LongTensor` per row: the indices of its tokens, padding left out where any is
            dropped.
        """
        _, kept = self._forward_and_kept(inputs)
        if kept is None:
            batch, length = inputs["input_ids"].shape
            return [torch.arange(length, device=inputs["input_ids"].device)] * batch
        return [slots[valid] for slots, valid in zip(kept.slots, kept.valid)]

    def init_continuous_batching(self, *args: Any, **kwargs: Any) -> Any:
        """Prepare continuous batching as the stock model does, whose cache has one length for all layers."""
        layer = self.config.divprune_config.layer
        if layer:
            raise ValueError(
                f"Got layer={layer} for continuous batching, whose cache has the same length in all layers, expected 0."
            )
        return super().init_continuous_batching(*args, **kwargs)

    def select_image_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """See the inner model's `select_image_tokens`."""
        return self.model.select_image_tokens(*args, **kwargs)

    def generate(self, **inputs: Any) -> Any:
        """Generate as the stock model does. Placeholders, counts and images that do not fit raise a `ValueError`."""
        prompt_ids = inputs.get("inputs") if inputs.get("input_ids") is None else inputs["input_ids"]
        embeds = inputs.get("inputs_embeds")
        self.model._check_positions_in_generate(inputs.get("generation_config") or self.generation_config, inputs)
        # The images of earlier turns are in the cache, those of a finished `inputs_embeds` in there.
        has_cache = any(isinstance(value, Cache) for value in inputs.values()) or inputs.get("past_key_values")
        rows = {} if prompt_ids is None or embeds is not None or has_cache else self._checked_rows(prompt_ids, inputs)
        first = prompt_ids if embeds is None else embeds
        told = PROMPT.set(Prompt(self.model, rows, num_prompts=0 if first is None else len(first)))
        try:
            return super().generate(**inputs)
        finally:
            PROMPT.reset(told)

    def _checked_rows(self, prompt_ids: torch.Tensor, inputs: dict[str, Any]) -> dict[Modality, list[int]]:
        """Return the number of placeholders in each row of a prompt; raise a `ValueError` where images do not fit."""
        encoded = inputs.get("mm_encoder_outputs") or {}
        rows = {}
        for modality in MODALITIES:
            if not hasattr(self.config, modality.token_id) or encoded.get(modality.name) is not None:
                continue
            placeholders = self.model._placeholders(modality, prompt_ids, None).sum(-1).tolist()
            counts = to_counts(inputs.get(modality.counts), modality)
            if inputs.get(modality.pixels) is None:
                check_fit(sum(placeholders), 0, modality)
            elif counts is not None and not self.config.divprune_config.layer:
                inputs_of_each_row(placeholders, counts, modality)
            rows[modality] = placeholders
        return rows

    def _get_candidate_generator(self, **arguments: Any) -> Any:
        """Make the stock generator of candidates; a model that drafts is handed only the inputs that it takes."""
        drafter = arguments.get("assistant_model")
        if drafter is not None:
            ours, taken = (inspect.signature(model.forward).parameters for model in (self, drafter))
            model_kwargs = arguments["model_kwargs"]
            arguments["model_kwargs"] = {k: v for k, v in model_kwargs.items() if k in taken or k not in ours}
        return super()._get_candidate_generator(**arguments)


class DivPruneVideoHeadMixin(DivPruneHeadMixin):
    """Common part of the heads of families that take videos.

    Modifications:
    - `forward` and `generate` take `num_video_tokens_kept`;
    - `select_video_tokens` is new.
    """

    extended: dict[str, tuple[str, ...]] = {**DivPruneHeadMixin.extended, "forward": (IMAGE.counts, VIDEO.counts)}

    def select_video_tokens(self, *args: Any, **kwargs: Any) -> Any:
        """See the inner model's `select_video_tokens`."""
        return self.model.select_video_tokens(*args, **kwargs)
