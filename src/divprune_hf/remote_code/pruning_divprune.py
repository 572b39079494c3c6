# SPDX-License-Identifier: Apache-2.0
"""The one seam with transformers: all visual tokens in, the kept ones out, and every count checked.

Counts travel as `num_image_tokens_kept` and `num_video_tokens_kept` from the processor through `generate` and `forward`
to `get_image_features` and `get_video_features`; without them the model's own config decides. Everything after the seam
is the stock model on a shorter sequence.
"""

import functools
import inspect
from dataclasses import dataclass

import torch

from .baseline_selectors import select_baseline_tokens
from .configuration_divprune import HAS_IMAGE_HOOK, DivPruneConfig
from .image_views import checked_image_sizes
from .max_min_diversity import select_diverse_tokens_of_images
from .token_budget import keep_count


# What the parents' `forward` hands on to the methods that make features.
ENCODER_ARGUMENTS = {"vision_feature_layer", "vision_feature_select_strategy"}


@dataclass(frozen=True)
class Modality:
    """What transformers calls the inputs of one kind, and where `DivPruneConfig` has their budget."""

    name: str
    pixels: str
    companions: frozenset
    budget: str

    @property
    def counts(self):
        return f"num_{self.name}_tokens_kept"

    @property
    def token_id(self):
        return f"{self.name}_token_id"


IMAGE = Modality("image", "pixel_values", frozenset({"image_sizes"}), "budget")
VIDEO = Modality("video", "pixel_values_videos", frozenset(), "video_budget")
MODALITIES = (IMAGE, VIDEO)


def extends(parent_method, *names):
    """Decorate an override that takes its parent's arguments and, by name, `names`; it receives all of them by name.

    The signature says so too: `generate`, its check of unused arguments and `Trainer` read signatures.
    """
    parent = inspect.signature(parent_method)
    positional = [name for name in parent.parameters if name != "self"]
    parameters = list(parent.parameters.values())
    added = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None) for name in names]
    wildcard = [parameters.pop()] if parameters[-1].kind == inspect.Parameter.VAR_KEYWORD else []

    def decorate(method):
        @functools.wraps(parent_method)
        def override(self, *args, **kwargs):
            if len(args) > len(positional):
                raise TypeError(f"{method.__name__}() takes {len(positional)} positional arguments, got {len(args)}.")
            return method(self, **dict(zip(positional, args)), **kwargs)

        override.__name__, override.__qualname__ = method.__name__, method.__qualname__
        override.__doc__ = method.__doc__ or parent_method.__doc__
        override.__signature__ = parent.replace(parameters=[*parameters, *added, *wildcard])
        return override

    return decorate


def to_counts(num_tokens_kept):
    """Kept counts as a list of ints, or None. The one place where they are read from a device."""
    return num_tokens_kept.flatten().tolist() if isinstance(num_tokens_kept, torch.Tensor) else num_tokens_kept


def feature_list(outputs):
    """The features of each image or video, (M, width): transformers 4.57 returns them bare, 5 in an output.

    A video comes as (frames, M / frames, width) where it was not flattened yet.
    """
    bare = isinstance(outputs, (list, tuple))
    return [features.flatten(0, -2) for features in (outputs if bare else outputs.pooler_output)]


def check_fit(num_placeholders, num_features, modality=IMAGE):
    """Raise the one error that says that prompt and features do not belong together."""
    if num_placeholders != num_features:
        raise ValueError(
            f"Got {num_placeholders} {modality.name} placeholders in the prompt for {num_features} kept visual tokens, "
            "expected as many. Use the processor that was saved with this model (AutoProcessor.from_pretrained on the "
            f"same folder or repo), and pass everything it returns to the model, `{modality.counts}` included."
        )


class DivPruneModelMixin:
    """What the families' inner models share.

    A family overrides `get_image_features`, `select_image_tokens`, `forward` and, where it takes videos, their
    counterparts for videos, under its parent's signatures, and passes the parent's method to the helpers below.
    """

    def _use(self, config, divprune_config):
        """`from_pretrained(..., config=config, divprune_config=...)` and `pipeline` hand the override to `__init__`."""
        if divprune_config is not None:
            blocks = config.divprune_config, divprune_config
            config.divprune_config = DivPruneConfig.merged(*blocks, takes_videos=config.takes_videos)
        return config

    def _encode_and_select(self, modality, get_all_features, **kwargs):
        """All features, as the parent returns them and as a list, and for each image or video the indices to keep.

        Indices are None where everything is kept and there is nothing to select.
        """
        # Read before the vision tower is launched, so that nothing waits for it.
        counts = to_counts(kwargs.pop(modality.counts, None))
        if HAS_IMAGE_HOOK:  # transformers 5, where a config may turn the output into a tuple; 4.57 returns a list
            kwargs["return_dict"] = True
        if modality is IMAGE and hasattr(self.config, "image_grid_pinpoints"):
            kwargs["image_sizes"] = checked_image_sizes(self.config, kwargs["pixel_values"], kwargs.get("image_sizes"))
        outputs = get_all_features(**kwargs)
        all_features = feature_list(outputs)
        available = [len(features) for features in all_features]
        config = self.config.divprune_config
        if counts is None:
            counts = [keep_count(num_available, **getattr(config, modality.budget)) for num_available in available]
        if len(counts) != len(available) or any(not 1 <= kept <= m for kept, m in zip(counts, available)):
            raise ValueError(
                f"Got {modality.counts}={counts} for {modality.name}s of {available} visual tokens, expected one count "
                f"per {modality.name}, at least 1 and at most the visual tokens of the {modality.name}."
            )
        pixels = kwargs.get(modality.pixels, kwargs.get("pixel_values"))  # 4.57 calls those of a video `pixel_values`
        return outputs, all_features, self._select(all_features, counts, pixels, kwargs.get("image_sizes"))

    def _select(self, all_features, counts, pixels, image_sizes):
        """The indices to keep of each image or video, all at once; None where everything is kept."""
        settings = self.config.divprune_config
        if settings.selector != "max_min":
            return select_baseline_tokens(self.config, pixels, image_sizes, all_features, counts)
        pruned = [i for i, features in enumerate(all_features) if counts[i] < len(features)]
        features, budgets = ([values[i] for i in pruned] for values in (all_features, counts))
        picks = dict(zip(pruned, select_diverse_tokens_of_images(features, budgets, settings.order) if pruned else []))
        return [picks.get(i) for i in range(len(counts))]

    def _get_kept_features(self, modality, get_all_features, return_dict=None, **kwargs):
        outputs, all_features, indices = self._encode_and_select(modality, get_all_features, **kwargs)
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
    def _select_tokens(self, modality, get_all_features, **kwargs):
        _, all_features, indices = self._encode_and_select(modality, get_all_features, **kwargs)
        return [
            torch.arange(len(features), device=features.device) if picks is None else picks
            for features, picks in zip(all_features, indices)
        ]

    def _placeholders(self, modality, input_ids, inputs_embeds):
        """Where the prompt has placeholders: `torch.BoolTensor` of shape `(batch, sequence)`."""
        token_id = getattr(self.config, modality.token_id)
        if input_ids is not None:
            return input_ids == token_id
        token = torch.full((), token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def get_placeholder_mask(self, input_ids, inputs_embeds, **features):
        """As the parent's, with an error that says what to do."""
        for modality in MODALITIES:
            kept = features.get(f"{modality.name}_features")
            if kept is not None:
                num_placeholders = int(self._placeholders(modality, input_ids, inputs_embeds).sum())
                check_fit(num_placeholders, kept.numel() // inputs_embeds.shape[-1], modality)
        return super().get_placeholder_mask(input_ids, inputs_embeds, **features)

    def _forward_with_kept_features(self, forward, input_ids=None, inputs_embeds=None, return_dict=None, **kwargs):
        """Put the kept features where the prompt's placeholders are; the parent gets the finished `inputs_embeds`."""
        present = [modality for modality in MODALITIES if kwargs.get(modality.pixels) is not None]
        if not present or (input_ids is None) == (inputs_embeds is None):
            kwargs = {name: value for name, value in kwargs.items() if name not in (IMAGE.counts, VIDEO.counts)}
            return forward(input_ids=input_ids, inputs_embeds=inputs_embeds, return_dict=return_dict, **kwargs)
        # Counted before the vision tower is launched, like the counts.
        placeholders = {modality: self._placeholders(modality, input_ids, inputs_embeds) for modality in present}
        num_placeholders = {modality: int(places.sum()) for modality, places in placeholders.items()}
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        arguments = {name: kwargs.pop(name) for name in ENCODER_ARGUMENTS & set(kwargs)}
        hidden_states = {}
        for modality in MODALITIES:
            names = {modality.pixels, modality.counts, *modality.companions} & set(kwargs)
            inputs = {name: kwargs.pop(name) for name in names}
            if modality not in present:
                continue
            get_features = getattr(self, f"get_{modality.name}_features")
            # By position: transformers 4.57 calls the pixels of a video `pixel_values`.
            outputs = get_features(inputs.pop(modality.pixels), return_dict=True, **inputs, **arguments)
            features = torch.cat(feature_list(outputs)).to(inputs_embeds.device, inputs_embeds.dtype)
            check_fit(num_placeholders[modality], len(features), modality)
            mask = placeholders[modality].unsqueeze(-1).to(inputs_embeds.device)
            inputs_embeds = inputs_embeds.masked_scatter(mask, features)
            hidden_states[f"{modality.name}_hidden_states"] = features
        outputs = forward(inputs_embeds=inputs_embeds, return_dict=True, **kwargs)
        for name, features in hidden_states.items():
            outputs[name] = features  # as an item: 4.57 leaves late attributes out of tuples
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()


def read_base_checkpoints(model_class, conversion):
    """Let `model_class` load checkpoints of its stock parent, whose entry in transformers' table is `conversion`.

    transformers 5 renames the keys of stock checkpoints while loading, by a table that it does not apply to classes
    outside of it: the language model would be left random, with a warning. transformers 4.57 inherits its table.
    """
    try:
        from transformers import conversion_mapping
    except ImportError:
        return
    renamings = conversion_mapping.get_checkpoint_conversion_mapping(conversion)
    conversion_mapping.register_checkpoint_conversion_mapping(model_class.__name__, renamings, overwrite=True)
