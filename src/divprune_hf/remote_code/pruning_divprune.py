# SPDX-License-Identifier: Apache-2.0
"""The seam with transformers: the stock `forward` asks `self.get_image_features`, and gets the kept features alone.

That the inner model's forward calls this method, and puts what it returns where the placeholders are, in order, is
what no release of transformers has changed. Counts come from the processor as `num_image_tokens_kept` and
`num_video_tokens_kept`; without them the model's own config decides. Everything behind is the stock model.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PretrainedConfig

from .baseline_selectors import select_baseline_tokens
from .checkpoint_keys import read_base_checkpoints
from .configuration_divprune import DivPruneConfig
from .max_min_diversity import select_diverse_tokens_of_images
from .no_waiting import PlaceholdersWithoutWaiting
from .prompt_counts import (
    IMAGE,
    MODALITIES,
    PROMPT,
    VIDEO,
    Modality,
    Prompt,
    check_fit,
    inputs_of_each_row,
    prompt_of,
    to_counts,
)
from .signatures import by_name, stock_base
from .token_budget import keep_count
from .transformers_surface import HAS_IMAGE_HOOK, INNER_METHODS, VIDEO_METHODS, check_methods


Features = list[torch.Tensor]


def feature_list(outputs: Any) -> Features:
    """The features of each image or video, (M, width): transformers 4.57 returns them bare, 5 in an output.

    A video comes as (frames, M / frames, width) where it was not flattened yet.
    """
    bare = isinstance(outputs, (list, tuple))
    return [features.flatten(0, -2) for features in (outputs if bare else outputs.pooler_output)]


def overridden_config(config: PretrainedConfig, divprune_config: Any) -> PretrainedConfig:
    """`from_pretrained(..., config=config, divprune_config=...)` and `pipeline` hand the override to `__init__`."""
    if divprune_config is not None:
        blocks = config.divprune_config, divprune_config
        config.divprune_config = DivPruneConfig.merged(*blocks, takes_videos=config.takes_videos)
    return config


class DivPruneModelMixin(PlaceholdersWithoutWaiting):
    """What the families' inner models share; each takes what its stock class takes, and the kept counts."""

    extended = {
        "forward": (IMAGE.counts,),
        "get_image_features": (IMAGE.counts,),
        "select_image_tokens": (IMAGE.counts,),
        "get_placeholder_mask": (),
    }
    stock_methods = {"select_image_tokens": "get_image_features"}
    needed_methods = (INNER_METHODS,)

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        stock = stock_base(cls)
        if stock is None:
            return
        for methods in cls.needed_methods:
            check_methods(stock, methods)
        for name, names in cls.extended.items():
            stock_method = getattr(stock, cls.stock_methods.get(name, name))
            setattr(cls, name, by_name(getattr(cls, name), stock_method, names))
        read_base_checkpoints(cls, stock)

    def __init__(self, config: PretrainedConfig, divprune_config: Any = None) -> None:
        super().__init__(overridden_config(config, divprune_config))

    def forward(self, **inputs: Any) -> Any:
        """As the stock model's, on the kept features: what the prompt is gets told to `get_image_features`."""
        given = [inputs.pop(modality.counts, None) for modality in MODALITIES]
        present = [modality for modality in MODALITIES if inputs.get(modality.pixels) is not None]
        prompt_ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if not present or (prompt_ids is None) == (embeds is None):
            return super().forward(**inputs)
        # Read before the vision tower is launched, so that nothing waits for it.
        rows = {modality: self._placeholders(modality, prompt_ids, embeds).sum(-1).tolist() for modality in present}
        counts = {modality: to_counts(values, modality) for modality, values in zip(MODALITIES, given)}
        for modality in present:
            if counts[modality] is not None:
                inputs_of_each_row(rows[modality], counts[modality], modality)
        told = PROMPT.set(Prompt(self, counts, rows))
        try:
            return super().forward(**inputs)
        finally:
            PROMPT.reset(told)

    def get_image_features(self, **inputs: Any) -> Any:
        """As the stock model's, with the kept features of each image, (K, width), in place of all, (M, width)."""
        return self._get_kept_features(IMAGE, super().get_image_features, inputs)

    def select_image_tokens(self, **inputs: Any) -> Features:
        """Which visual tokens of each image are kept; takes what `get_image_features` takes.

        Args:
            pixel_values (`torch.Tensor`): one row per image, as the processor returns it.
            image_sizes (`torch.LongTensor` of shape `(num_images, 2)`): height and width of each picture in pixels,
                for the families that see pictures at any resolution.
            num_image_tokens_kept (`torch.LongTensor` of shape `(num_images,)`, *optional*): the budget of each image;
                without it `config.divprune_config` decides.

        Returns:
            A list with one `torch.LongTensor` of shape `(K,)` per image: indices into its M visual tokens, ascending
            or in the order of picking, as `config.divprune_config.order` says.
        """
        return self._select_tokens(IMAGE, super().get_image_features, inputs)

    def get_placeholder_mask(self, **inputs: Any) -> Any:
        """As the stock model's, with an error that says what to do."""
        prompt = prompt_of(self)
        for modality in MODALITIES:
            kept = inputs.get(modality.features)
            if kept is not None and (prompt is None or modality not in prompt.fitting):
                mask = self._placeholders(modality, inputs["input_ids"], inputs["inputs_embeds"])
                check_fit(int(mask.sum()), kept.numel() // inputs["inputs_embeds"].shape[-1], modality)
        return super().get_placeholder_mask(**inputs)

    def _placeholders(self, modality: Modality, input_ids: Any, inputs_embeds: Any) -> torch.Tensor:
        """Where the prompt has placeholders: `torch.BoolTensor` of shape `(batch, sequence)`."""
        token_id = getattr(self.config, modality.token_id)
        if input_ids is not None:
            return input_ids == token_id
        token = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def _checked_inputs(self, modality: Modality, inputs: dict[str, Any]) -> dict[str, Any]:
        """What the stock method gets; a family that can say more than "wrong shape" overrides this."""
        return inputs

    def _encode_and_select(self, modality: Modality, get_all_features: Callable[..., Any], inputs: dict[str, Any]):
        """All features, as the stock method returns them and as a list, and for each the indices to keep.

        Indices are None where everything is kept and there is nothing to select.
        """
        counts, prompt, rows = inputs.pop(modality.counts, None), prompt_of(self), None
        if prompt is not None:
            told = prompt.counts.pop(modality, None)
            counts, rows = told if counts is None else counts, prompt.placeholders.pop(modality, None)
        counts = to_counts(counts, modality)
        if HAS_IMAGE_HOOK:  # transformers 5, where a config may turn the output into a tuple; 4.57 returns a list
            inputs["return_dict"] = True
        inputs = self._checked_inputs(modality, inputs)
        # By position: before 5.18 the pixels of a video are called `pixel_values` here.
        pixels = [inputs.pop(name) for name in (modality.pixels, IMAGE.pixels) if name in inputs]
        outputs = get_all_features(*pixels, **inputs)
        all_features = feature_list(outputs)
        available = [len(features) for features in all_features]
        if counts is None:
            budget = getattr(self.config.divprune_config, modality.budget)
            counts = [keep_count(num_available, **budget) for num_available in available]
            if rows is not None:
                inputs_of_each_row(rows, counts, modality)
        if len(counts) != len(available) or any(kept > m for kept, m in zip(counts, available)):
            raise ValueError(
                f"Got {modality.counts}={counts} for {modality.name}s of {available} visual tokens, expected one count "
                f"per {modality.name}, at most the visual tokens of the {modality.name}."
            )
        if prompt is not None and rows is not None:
            prompt.fitting.add(modality)
        return outputs, all_features, self._select(all_features, counts, pixels[0], inputs.get("image_sizes"))

    def _select(self, all_features: Features, counts: list[int], pixels: Any, image_sizes: Any) -> list:
        """The indices to keep of each image or video, all at once; None where everything is kept."""
        settings = self.config.divprune_config
        if settings.selector != "max_min":
            return select_baseline_tokens(self.config, pixels, image_sizes, all_features, counts)
        pruned = [i for i, features in enumerate(all_features) if counts[i] < len(features)]
        features, budgets = ([values[i] for i in pruned] for values in (all_features, counts))
        picks = dict(zip(pruned, select_diverse_tokens_of_images(features, budgets, settings.order) if pruned else []))
        return [picks.get(i) for i in range(len(counts))]

    def _get_kept_features(self, modality: Modality, get_all_features: Callable[..., Any], inputs: dict) -> Any:
        return_dict = inputs.pop("return_dict", None)
        outputs, all_features, indices = self._encode_and_select(modality, get_all_features, inputs)
        kept = [
            features if picks is None else features.index_select(0, picks)
            for features, picks in zip(all_features, indices)
        ]
        if isinstance(outputs, (list, tuple)):
            return kept
        outputs.pooler_output = kept
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()

    @torch.no_grad()
    def _select_tokens(self, modality: Modality, get_all_features: Callable[..., Any], inputs: dict) -> Features:
        inputs.pop("return_dict", None)
        _, all_features, indices = self._encode_and_select(modality, get_all_features, inputs)
        return [
            torch.arange(len(features), device=features.device) if picks is None else picks
            for features, picks in zip(all_features, indices)
        ]


class DivPruneVideoModelMixin(DivPruneModelMixin):
    """What the inner models of families that take videos share besides."""

    extended = {
        **DivPruneModelMixin.extended,
        "forward": (IMAGE.counts, VIDEO.counts),
        "get_video_features": (VIDEO.counts,),
    }
    needed_methods = (INNER_METHODS, VIDEO_METHODS)

    def get_video_features(self, **inputs: Any) -> Any:
        """As the stock model's, with the kept features of each video, (K, width): all its frames are one pool."""
        return self._get_kept_features(VIDEO, super().get_video_features, inputs)

    def select_video_tokens(
        self, pixel_values_videos: torch.Tensor, num_video_tokens_kept: Any = None, **inputs: Any
    ) -> Features:
        """Which visual tokens of each video are kept.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(num_videos, num_frames, channels, height, width)`).
            num_video_tokens_kept (`torch.LongTensor` of shape `(num_videos,)`, *optional*): the budget of each video;
                without it `config.divprune_config` decides.

        Returns:
            A list with one `torch.LongTensor` of shape `(K,)` per video: indices into its M visual tokens, frame by
            frame, ascending or in the order of picking, as `config.divprune_config.order` says.
        """
        inputs |= {VIDEO.pixels: pixel_values_videos, VIDEO.counts: num_video_tokens_kept}
        return self._select_tokens(VIDEO, super().get_video_features, inputs)
