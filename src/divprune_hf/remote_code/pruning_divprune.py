# SPDX-License-Identifier: Apache-2.0
"""The one seam with transformers: all visual tokens in, the kept ones out, and every count checked.

Counts travel as `num_image_tokens_kept` from the processor through `generate` and `forward` to `get_image_features`;
without them the model's own config decides. Everything after the seam is the stock model on a shorter sequence.
"""

import functools
import inspect

import torch

from .configuration_divprune import HAS_IMAGE_HOOK, DivPruneConfig
from .max_min_diversity import keep_count, select_diverse_tokens


# What the parents' `forward` hands on to `get_image_features`, besides the pixels.
IMAGE_FEATURE_ARGUMENTS = {"vision_feature_layer", "vision_feature_select_strategy", "image_sizes"}


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
    """The features of each image: transformers 4.57 returns the list itself, 5 an output that holds it."""
    return outputs if isinstance(outputs, (list, tuple)) else outputs.pooler_output


def check_fit(num_placeholders, num_features):
    """Raise the one error that says that prompt and features do not belong together."""
    if num_placeholders != num_features:
        raise ValueError(
            f"Got {num_placeholders} image placeholders in the prompt for {num_features} kept visual tokens, expected "
            "as many. Use the processor that was saved with this model (AutoProcessor.from_pretrained on the same "
            "folder or repo), and pass everything it returns to the model, `num_image_tokens_kept` included."
        )


def images_of_each_row(placeholders_per_row, counts):
    """How many images each row of a batch holds, given its placeholders and the kept counts of all images in order."""
    check_fit(sum(placeholders_per_row), sum(counts))
    images_per_row, image = [], 0
    for num_placeholders in placeholders_per_row:
        first, filled = image, 0
        while filled < num_placeholders:
            filled += counts[image]
            image += 1
        check_fit(num_placeholders, filled)
        images_per_row.append(image - first)
    return images_per_row


class DivPruneModelMixin:
    """What the families' inner models share.

    A family overrides `get_image_features`, `select_image_tokens` and `forward` under its parent's signatures, and
    passes the parent's method to the helpers below.
    """

    def _use(self, config, divprune_config):
        """`from_pretrained(..., config=config, divprune_config=...)` and `pipeline` hand the override to `__init__`."""
        if divprune_config is not None:
            config.divprune_config = DivPruneConfig.merged(config.divprune_config, divprune_config)
        return config

    def _encode_and_select(self, get_all_image_features, num_image_tokens_kept=None, **kwargs):
        """All features, as the parent returns them and as a list, and for each image the indices to keep.

        Indices are None where an image keeps everything and there is nothing to select.
        """
        counts = to_counts(num_image_tokens_kept)  # before the vision tower is launched, so that nothing waits for it
        if HAS_IMAGE_HOOK:  # transformers 5, where a config may turn the output into a tuple; 4.57 returns a list
            kwargs["return_dict"] = True
        outputs = get_all_image_features(**kwargs)
        image_features = feature_list(outputs)
        available = [len(features) for features in image_features]
        config = self.config.divprune_config
        if counts is None:
            counts = [keep_count(num_available, **config.budget) for num_available in available]
        if len(counts) != len(available) or any(not 1 <= kept <= m for kept, m in zip(counts, available)):
            raise ValueError(
                f"Got num_image_tokens_kept={counts} for images of {available} visual tokens, expected one count per "
                "image, at least 1 and at most the visual tokens of the image."
            )
        indices = [
            None if count == len(features) else select_diverse_tokens(features, count, config.order)
            for features, count in zip(image_features, counts)
        ]
        return outputs, image_features, indices

    def _get_kept_image_features(self, get_all_image_features, return_dict=None, **kwargs):
        outputs, image_features, indices = self._encode_and_select(get_all_image_features, **kwargs)
        kept = [
            features if picks is None else features.index_select(0, picks)
            for features, picks in zip(image_features, indices)
        ]
        if outputs is image_features:
            return kept
        outputs.pooler_output = kept
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()

    @torch.no_grad()
    def _select_image_tokens(self, get_all_image_features, **kwargs):
        _, image_features, indices = self._encode_and_select(get_all_image_features, **kwargs)
        return [
            torch.arange(len(features), device=features.device) if picks is None else picks
            for features, picks in zip(image_features, indices)
        ]

    def _image_placeholders(self, input_ids, inputs_embeds):
        """Where the prompt has image placeholders: `torch.BoolTensor` of shape `(batch, sequence)`."""
        if input_ids is not None:
            return input_ids == self.config.image_token_id
        token = torch.full((), self.config.image_token_id, dtype=torch.long, device=inputs_embeds.device)
        return (inputs_embeds == self.get_input_embeddings()(token)).all(-1)

    def get_placeholder_mask(self, input_ids, inputs_embeds, image_features=None, **kwargs):
        """As the parent's, with an error that says what to do."""
        if image_features is not None:
            check_fit(int(self._image_placeholders(input_ids, inputs_embeds).sum()), len(image_features))
        return super().get_placeholder_mask(input_ids, inputs_embeds, image_features=image_features, **kwargs)

    def _forward_with_kept_images(
        self,
        forward,
        input_ids=None,
        inputs_embeds=None,
        pixel_values=None,
        num_image_tokens_kept=None,
        return_dict=None,
        **kwargs,
    ):
        """Put the kept features where the prompt's placeholders are; the parent gets the finished `inputs_embeds`."""
        if pixel_values is None or (input_ids is None) == (inputs_embeds is None):
            prompt = {"input_ids": input_ids, "inputs_embeds": inputs_embeds, "pixel_values": pixel_values}
            return forward(return_dict=return_dict, **prompt, **kwargs)
        placeholders = self._image_placeholders(input_ids, inputs_embeds)
        num_placeholders = int(placeholders.sum())  # before the vision tower is launched, like the counts
        if inputs_embeds is None:
            inputs_embeds = self.get_input_embeddings()(input_ids)
        image_arguments = {name: kwargs.pop(name) for name in IMAGE_FEATURE_ARGUMENTS & set(kwargs)}
        outputs = self.get_image_features(
            pixel_values=pixel_values, num_image_tokens_kept=num_image_tokens_kept, return_dict=True, **image_arguments
        )
        image_features = torch.cat(list(feature_list(outputs))).to(inputs_embeds.device, inputs_embeds.dtype)
        check_fit(num_placeholders, len(image_features))
        mask = placeholders.unsqueeze(-1).to(inputs_embeds.device)
        inputs_embeds = inputs_embeds.masked_scatter(mask, image_features)
        outputs = forward(inputs_embeds=inputs_embeds, return_dict=True, **kwargs)
        outputs["image_hidden_states"] = image_features  # as an item: 4.57 leaves late attributes out of tuples
        return_dict = self.config.return_dict if return_dict is None else return_dict
        return outputs if return_dict else outputs.to_tuple()


class DivPruneHeadMixin:
    """What the families' models with a language modelling head share."""

    def select_image_tokens(self, *args, **kwargs):
        """See the inner model's `select_image_tokens`."""
        return self.model.select_image_tokens(*args, **kwargs)

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """As the parent's, but a row with several images gets them all again: [a, b] -> [a, b, a, b].

        transformers 4.57 repeats image by image ([a, a, b, b]), which hands a row the images of another.
        """
        repeated = {}
        if expand_size > 1:
            has_ids = input_ids is not None and input_ids.numel() > 0
            prompt = (input_ids, None) if has_ids else (None, model_kwargs.get("inputs_embeds"))
            encoded = (model_kwargs.get("mm_encoder_outputs") or {}).get("image")
            if encoded is not None:
                # transformers 5 has encoded the images already and repeats them row by row, if the counts fit.
                placeholders = self.model._image_placeholders(*prompt).sum(-1).tolist()
                images_of_each_row(placeholders, [len(features) for features in encoded.pooler_output])
            elif model_kwargs.get("pixel_values") is not None:
                names = {"pixel_values", "image_sizes", "num_image_tokens_kept"} & set(model_kwargs)
                repeated = {name: model_kwargs.pop(name) for name in names}
                placeholders = self.model._image_placeholders(*prompt).sum(-1).tolist()
                order = self._repeat_images(placeholders, repeated, expand_size)
                repeated = {k: None if v is None else torch.as_tensor(v)[order] for k, v in repeated.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **repeated}

    def _repeat_images(self, placeholders_per_row, image_inputs, expand_size):
        """Which image goes where when each row is repeated `expand_size` times: a list of image numbers."""
        counts = to_counts(image_inputs.get("num_image_tokens_kept"))
        if counts is None:
            # Images without counts must be one to a row, or of one size, so that they share placeholders equally.
            num_images, num_placeholders = len(image_inputs["pixel_values"]), sum(placeholders_per_row)
            if sum(num > 0 for num in placeholders_per_row) == num_images:
                counts = [num for num in placeholders_per_row if num > 0]
            elif num_placeholders % num_images or image_inputs.get("image_sizes") is not None:
                raise ValueError(
                    f"Got {num_placeholders} image placeholders for {num_images} images without "
                    "`num_image_tokens_kept`, expected the counts that the processor returned: pass them to `generate`."
                )
            else:
                counts = [num_placeholders // num_images] * num_images
        order, first = [], 0
        for num_images in images_of_each_row(placeholders_per_row, counts):
            order += list(range(first, first + num_images)) * expand_size
            first += num_images
        return order


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
