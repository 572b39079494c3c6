# SPDX-License-Identifier: Apache-2.0
"""A pruned model that generates: prompts are compared with their images and counts before anything is encoded."""

import inspect
from typing import Any

import torch
from transformers import Cache, PretrainedConfig

from .checkpoint_keys import read_base_checkpoints
from .compat_generation import GenerationCompat
from .prompt_counts import IMAGE, MODALITIES, PROMPT, VIDEO, Prompt, check_fit, inputs_of_each_row, to_counts
from .pruning_divprune import overridden_config
from .signatures import by_name, stock_base
from .transformers_surface import HEAD_METHODS, check_methods


class DivPruneHeadMixin(GenerationCompat):
    """What the families' models with a language modelling head share.

    A family names its inner model as `inner_class`.
    """

    inner_class: type
    extended: dict[str, tuple[str, ...]] = {"forward": (IMAGE.counts,), "generate": ()}

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = stock_base(cls)
        if stock is None:
            return
        check_methods(stock, HEAD_METHODS)
        for name, names in cls.extended.items():
            setattr(cls, name, by_name(getattr(cls, name), getattr(stock, name), names))
        read_base_checkpoints(cls, stock)

    def __init__(self, config: PretrainedConfig, divprune_config: Any = None) -> None:
        super().__init__(overridden_config(config, divprune_config))
        # The stock constructor has made the stock inner model: the same weights and modules, without our methods.
        self.model.__class__ = self.inner_class

    def forward(self, **inputs: Any) -> Any:
        """As the stock model's; the counts go on to the inner model."""
        return super().forward(**inputs)

    def select_image_tokens(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """See the inner model's `select_image_tokens`."""
        return self.model.select_image_tokens(*args, **kwargs)

    def generate(self, **inputs: Any) -> Any:
        """As the stock model's. Placeholders, counts and images that do not fit each other raise a `ValueError`."""
        prompt_ids = inputs.get("input_ids", inputs.get("inputs"))
        # The images of earlier turns are in the cache, those of a finished `inputs_embeds` in there.
        has_cache = any(isinstance(value, Cache) for value in inputs.values()) or inputs.get("past_key_values")
        if prompt_ids is None or inputs.get("inputs_embeds") is not None or has_cache:
            return super().generate(**inputs)
        encoded = inputs.get("mm_encoder_outputs") or {}
        rows = {}
        for modality in MODALITIES:
            if not hasattr(self.config, modality.token_id) or encoded.get(modality.name) is not None:
                continue
            placeholders = self.model._placeholders(modality, prompt_ids, None).sum(-1).tolist()
            counts = to_counts(inputs.get(modality.counts), modality)
            if inputs.get(modality.pixels) is None:
                check_fit(sum(placeholders), 0, modality)
            elif counts is not None:
                inputs_of_each_row(placeholders, counts, modality)
            rows[modality] = placeholders
        told = PROMPT.set(Prompt(self.model, placeholders=rows))
        try:
            return super().generate(**inputs)
        finally:
            PROMPT.reset(told)

    def _get_candidate_generator(self, **arguments: Any) -> Any:
        """As the stock model's, but a model that drafts is handed of our inputs only what it takes."""
        drafter = arguments.get("assistant_model")
        if drafter is not None:
            not_taken = set(inspect.signature(self.forward).parameters) - set(
                inspect.signature(drafter.forward).parameters
            )
            model_kwargs = arguments["model_kwargs"]
            arguments["model_kwargs"] = {k: v for k, v in model_kwargs.items() if k not in not_taken}
        return super()._get_candidate_generator(**arguments)


class DivPruneVideoHeadMixin(DivPruneHeadMixin):
    """What the heads of families that take videos share besides."""

    extended = {**DivPruneHeadMixin.extended, "forward": (IMAGE.counts, VIDEO.counts)}

    def select_video_tokens(self, *args: Any, **kwargs: Any) -> list[torch.Tensor]:
        """See the inner model's `select_video_tokens`."""
        return self.model.select_video_tokens(*args, **kwargs)
