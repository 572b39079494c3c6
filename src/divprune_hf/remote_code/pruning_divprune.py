# SPDX-License-Identifier: Apache-2.0
"""The seam with transformers: the stock `forward` asks `self.get_image_features`, and gets the kept features alone.

One fact is relied on, which no release of transformers has changed: the inner model's forward calls this method, and
puts what it returns where the placeholders are, in order. Counts come from the processor as `num_image_tokens_kept` and
`num_video_tokens_kept`; without them the model's own config decides. Everything behind is the stock model.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import PretrainedConfig

from .configuration_divprune import overridden_config
from .covering_radius import covering_radius
from .layer_pruning import LayerMixin, Pool
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
from .signatures import MadeFromStock
from .token_positions import PositionsMixin
from .token_selection import Flattened, feature_list, kept_counts, select_tokens
from .transformers_surface import HAS_IMAGE_HOOK, INNER_METHODS, VIDEO_METHODS
from .unused_layers import VisionLayersMixin


class DivPruneModelMixin(MadeFromStock, PositionsMixin, LayerMixin, VisionLayersMixin, PlaceholdersWithoutWaiting):
    """Common part of the families' inner models.

    Modifications:
    - `get_image_features` returns the kept features of each image, (K, width), instead of all of them, (M, width);
    - `forward` and `get_image_features` take `num_image_tokens_kept` (int64, `(num_images,)`), which the processor
      writes; without it the budget is `config.divprune_config`;
    - `select_image_tokens` is new;
    - the language model gets position ids with gaps where `config.divprune_config.positions` is "original";
    - all features reach the language model, and a deeper layer drops tokens, where `config.divprune_config.layer` is 1
      or more: its hidden states and the logits are those of the tokens that stay;
    - vision layers above the deepest one in `vision_feature_layer` do not run: the last hidden state and the hidden
      states of these layers are None in what `get_image_features` returns, unless the call or the config asks for all
      hidden states or attentions, or for a tuple;
    - a prompt that does not fit the features, row by row, raises one clear `ValueError`.
    """

    extended = {
        "forward": (IMAGE.counts,),
        "get_image_features": (IMAGE.counts,),
        "select_image_tokens": (IMAGE.counts, "return_radius"),
        "get_placeholder_mask": (),
    }
    taking_what = {"select_image_tokens": "get_image_features"}
    needed = INNER_METHODS

    def __init__(self, config: PretrainedConfig, divprune_config: Any = None) -> None:
        super().__init__(overridden_config(config, divprune_config))
        self._install_hooks()

    def _install_hooks(self) -> None:
        """Let the language model follow settings that concern its inside; a head's constructor calls it too."""
        self._install_positions()
        self._install_layer()
        self._install_vision_layers()

    def forward(self, **inputs: Any) -> Any:
        """Run the stock forward on the kept features; a ContextVar tells `get_image_features` about the prompt."""
        given = [inputs.pop(modality.counts, None) for modality in MODALITIES]
        present = [modality for modality in MODALITIES if inputs.get(modality.pixels) is not None]
        prompt_ids, embeds = inputs.get("input_ids"), inputs.get("inputs_embeds")
        if not present or (prompt_ids is None) == (embeds is None):
            return self._with_places_used(super().forward(**inputs))
        # Read before the vision tower is launched, so that nothing waits for it.
        rows = {modality: self._placeholders(modality, prompt_ids, embeds).sum(-1).tolist() for modality in present}
        counts = {modality: to_counts(values, modality) for modality, values in zip(MODALITIES, given)}
        for modality in present:
            if (counts_of_inputs := counts[modality]) is not None and not self.config.divprune_config.layer:
                inputs_of_each_row(rows[modality], counts_of_inputs, modality)
        told = PROMPT.set(Prompt(self, rows, counts, num_prompts=len(rows[present[0]])))
        try:
            return self._with_places_used(super().forward(**inputs))
        finally:
            PROMPT.reset(told)

    def get_image_features(self, **inputs: Any) -> Any:
        """Return the stock method's output with each image's kept features, (K, width), in place of all, (M, width)."""
        return self._get_kept_features(IMAGE, super().get_image_features, inputs)

    def select_image_tokens(self, **inputs: Any) -> Any:
        """Return which visual tokens of each image are kept; takes what `get_image_features` takes.

        Args:
            pixel_values (`torch.Tensor`): one row per image, as the processor returns it.
            image_sizes (`torch.LongTensor` of shape `(num_images, 2)`): height and width of each picture in pixels,
                for the families that see pictures at any resolution.
            num_image_tokens_kept (`torch.LongTensor` of shape `(num_images,)`, *optional*): the budget of each image;
                without it `config.divprune_config` decides.
            return_radius (`bool`): also return `torch.Tensor` of shape `(num_images,)`: see `covering_radius.py`.

        Returns:
            A list with one `torch.LongTensor` of shape `(K,)` per image: indices into its M visual tokens, ascending
            or in the order of picking, as `config.divprune_config.order` says; with `return_radius` a tuple of it and
            the radii.
        """
        return self._select_tokens(IMAGE, super().get_image_features, inputs)

    def get_placeholder_mask(self, **inputs: Any) -> Any:
        """Mark placeholders as the stock model does, with an error that says what to do."""
        prompt = prompt_of(self)
        fitting = prompt.fitting if prompt is not None else set()
        for modality in MODALITIES:
            features = inputs.get(modality.features)
            if features is not None and modality not in fitting:
                mask = self._placeholders(modality, inputs["input_ids"], inputs["inputs_embeds"])
                check_fit(int(mask.sum()), features.numel() // inputs["inputs_embeds"].shape[-1], modality)
            if features is not None and prompt is not None:
                self._place(prompt, modality, inputs)
        masks = super().get_placeholder_mask(**inputs)
        # Known for one look only: a prompt may grow, and be looked at again.
        fitting -= {modality for modality in fitting if inputs.get(modality.features) is not None}
        return masks

    def _placeholders(self, modality: Modality, input_ids: Any, inputs_embeds: Any) -> torch.Tensor:
        """Mark the placeholders of the prompt: `torch.BoolTensor` of shape `(batch, sequence)`."""
        token_id = getattr(self.config, modality.token_id)
        if input_ids is not None:
            return input_ids == token_id
        token = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def _checked_inputs(self, modality: Modality, inputs: dict[str, Any]) -> dict[str, Any]:
        """Return the arguments of the stock method; a family that can say more than "wrong shape" overrides this."""
        return inputs

    def _encode_and_select(
        self, modality: Modality, get_all_features: Callable[..., Any], inputs: dict[str, Any], as_tuple: bool = False
    ) -> tuple[Any, list[torch.Tensor], list[torch.Tensor | None]]:
        """Return what the stock method returns, the features of each input as a list, and for each the picks.

        Picks are None where everything is kept and there is nothing to select. With `as_tuple` all vision layers run.
        """
        counts, prompt = to_counts(inputs.pop(modality.counts, None), modality), prompt_of(self)
        rows = None
        if prompt is not None:  # told once: a second call by somebody else is about other pixels
            told, rows = prompt.counts.pop(modality, None), prompt.placeholders.pop(modality, None)
            counts = told if counts is None else counts
        if HAS_IMAGE_HOOK:  # transformers 5, where a config may turn the output into a tuple; 4.57 returns a list
            inputs["return_dict"] = True
        inputs = self._checked_inputs(modality, inputs)
        # By position: before 5.18 the pixels of a video are called `pixel_values` here.
        pixels = [inputs.pop(name) for name in (modality.pixels, IMAGE.pixels) if name in inputs]
        outputs = self._read_vision_layers(get_all_features, pixels, inputs, as_tuple)
        all_features = feature_list(outputs)
        num_available = [len(features) for features in all_features]
        counts = kept_counts(self.config, modality, num_available, counts)
        in_prompt = num_available if self.config.divprune_config.layer else counts
        if prompt is not None and rows is not None:
            inputs_of_each_row(rows, in_prompt, modality)
            prompt.fitting.add(modality)
        if self.config.divprune_config.layer:
            self._tell_pool(modality, Pool(num_available, counts, pixels[0], inputs.get("image_sizes")))
            return outputs, all_features, [None] * len(counts)
        return outputs, all_features, self._select(all_features, counts, pixels[0], inputs.get("image_sizes"))

    def _select(self, *arguments: Any) -> list[torch.Tensor | None]:
        """See `select_tokens`. The one place where tokens are picked: the benchmarks' oracle puts its own here."""
        return select_tokens(self.config, *arguments)

    def _get_kept_features(self, modality: Modality, get_all_features: Callable[..., Any], inputs: dict) -> Any:
        return_dict = inputs.pop("return_dict", None)
        return_dict = self.config.return_dict if return_dict is None else return_dict
        as_tuple = HAS_IMAGE_HOOK and not return_dict
        outputs, all_features, all_picks = self._encode_and_select(modality, get_all_features, inputs, as_tuple)
        self._tell_picks(modality, all_features, all_picks)
        kept_features = [
            features if picks is None else features.index_select(0, picks)
            for features, picks in zip(all_features, all_picks)
        ]
        if isinstance(outputs, (list, tuple)):
            return kept_features
        is_list = isinstance(outputs.pooler_output, (list, tuple))
        outputs.pooler_output = kept_features if is_list else Flattened(kept_features)
        return outputs.to_tuple() if as_tuple else outputs

    @torch.no_grad()
    def _select_tokens(self, modality: Modality, get_all_features: Callable[..., Any], inputs: dict) -> Any:
        inputs.pop("return_dict", None)
        return_radius = inputs.pop("return_radius", False)
        _, all_features, all_picks = self._encode_and_select(modality, get_all_features, inputs)
        indices = [
            torch.arange(len(features), device=features.device) if picks is None else picks
            for features, picks in zip(all_features, all_picks)
        ]
        return (indices, torch.stack(list(map(covering_radius, all_features, all_picks)))) if return_radius else indices


class DivPruneVideoModelMixin(DivPruneModelMixin):
    """Common part of the inner models of families that take videos.

    Modifications:
    - `get_video_features` returns the kept features of each video, (K, width). All frames of a video are one pool, so
      what repeats from frame to frame is what is dropped;
    - `forward` and `get_video_features` take `num_video_tokens_kept` (int64, `(num_videos,)`);
    - `select_video_tokens` is new.
    """

    extended = {
        **DivPruneModelMixin.extended,
        "forward": (IMAGE.counts, VIDEO.counts),
        "get_video_features": (VIDEO.counts,),
    }
    needed = VIDEO_METHODS

    def get_video_features(self, **inputs: Any) -> Any:
        """Return the stock method's output with each video's kept features, (K, width): its frames are one pool."""
        return self._get_kept_features(VIDEO, super().get_video_features, inputs)

    def select_video_tokens(
        self,
        pixel_values_videos: torch.Tensor,
        num_video_tokens_kept: Any = None,
        return_radius: bool = False,
        **inputs: Any,
    ) -> Any:
        """Return which visual tokens of each video are kept.

        Args:
            pixel_values_videos (`torch.Tensor` of shape `(num_videos, num_frames, channels, height, width)`).
            num_video_tokens_kept (`torch.LongTensor` of shape `(num_videos,)`, *optional*): the budget of each video;
                without it `config.divprune_config` decides.
            return_radius (`bool`): also return `torch.Tensor` of shape `(num_videos,)`: see `covering_radius.py`.

        Returns:
            A list with one `torch.LongTensor` of shape `(K,)` per video: indices into its M visual tokens, frame by
            frame, ascending or in the order of picking, as `config.divprune_config.order` says; with `return_radius` a
            tuple of it and the radii.
        """
        inputs |= {VIDEO.pixels: pixel_values_videos, VIDEO.counts: num_video_tokens_kept}
        inputs["return_radius"] = return_radius
        return self._select_tokens(VIDEO, super().get_video_features, inputs)
