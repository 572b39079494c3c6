# SPDX-License-Identifier: Apache-2.0
"""What `generate` asks of a pruned model: its images and videos go along when rows are repeated."""

import inspect

import torch

from .pruning_divprune import MODALITIES, check_fit, to_counts


def inputs_of_each_row(modality, placeholders_per_row, counts):
    """How many images (or videos) each row of a batch holds, given its placeholders and all kept counts in order."""
    check_fit(sum(placeholders_per_row), sum(counts), modality)
    inputs_per_row, current = [], 0
    for num_placeholders in placeholders_per_row:
        first, filled = current, 0
        while filled < num_placeholders:
            filled += counts[current]
            current += 1
        check_fit(num_placeholders, filled, modality)
        inputs_per_row.append(current - first)
    return inputs_per_row


class DivPruneHeadMixin:
    """What the families' models with a language modelling head share."""

    def select_image_tokens(self, *args, **kwargs):
        """See the inner model's `select_image_tokens`."""
        return self.model.select_image_tokens(*args, **kwargs)

    def _maybe_prepare_encoder_kwargs_for_generation(
        self, inputs_tensor, model_kwargs, model_input_name, generation_config
    ):
        """As the parent's where images are needed more than once, or in parts; elsewhere the prefill encodes them.

        transformers 5.23 encodes them first and then reads the prompt on the host, which waits for the vision tower;
        transformers 4.57 and 5.10 always encode in the prefill.
        """
        num_rows = max(generation_config.num_beams, generation_config.num_return_sequences)
        has_parts = generation_config.prefill_chunk_size is not None
        if num_rows == 1 and generation_config.use_cache and not has_parts:
            return model_kwargs
        return super()._maybe_prepare_encoder_kwargs_for_generation(
            inputs_tensor, model_kwargs, model_input_name, generation_config
        )

    def _get_candidate_generator(self, *, model_kwargs, assistant_model=None, **kwargs):
        """As the parent's, but a model that drafts is handed images and their counts only if it takes them."""
        if assistant_model is not None:
            taken = inspect.signature(assistant_model.forward).parameters
            ours = {name for kind in MODALITIES for name in (kind.pixels, kind.counts, *kind.companions)}
            model_kwargs = {k: v for k, v in model_kwargs.items() if k in taken or k not in ours}
        return super()._get_candidate_generator(model_kwargs=model_kwargs, assistant_model=assistant_model, **kwargs)

    def _expand_inputs_for_generation(self, expand_size=1, is_encoder_decoder=False, input_ids=None, **model_kwargs):
        """As the parent's, but a row with several images gets them all again: [a, b] -> [a, b, a, b].

        transformers 4.57 repeats image by image ([a, a, b, b]), which hands a row the images of another.
        """
        repeated = {}
        has_ids = input_ids is not None and input_ids.numel() > 0
        prompt = (input_ids, None) if has_ids else (None, model_kwargs.get("inputs_embeds"))
        for modality in MODALITIES:
            encoded = (model_kwargs.get("mm_encoder_outputs") or {}).get(modality.name)
            pixels = model_kwargs.get(modality.pixels)
            if encoded is None and pixels is None:
                # The images of earlier turns are in the cache, those of a finished `inputs_embeds` in there.
                finished = any(model_kwargs.get(name) is not None for name in ("past_key_values", "inputs_embeds"))
                if has_ids and not finished and hasattr(self.config, modality.token_id):
                    check_fit(int(self.model._placeholders(modality, *prompt).sum()), 0, modality)
                continue
            if expand_size == 1:
                continue
            placeholders = self.model._placeholders(modality, *prompt).sum(-1).tolist()
            if encoded is not None:
                # transformers 5 has encoded the images already and repeats them row by row, if the counts fit.
                inputs_of_each_row(modality, placeholders, [len(features) for features in encoded.pooler_output])
                continue
            names = {modality.pixels, modality.counts, *modality.companions} & set(model_kwargs)
            inputs = {name: model_kwargs.pop(name) for name in names}
            order = repeated_order(modality, placeholders, inputs, expand_size)
            repeated |= {k: None if v is None else torch.as_tensor(v)[order] for k, v in inputs.items()}
        input_ids, model_kwargs = super()._expand_inputs_for_generation(
            expand_size=expand_size, is_encoder_decoder=is_encoder_decoder, input_ids=input_ids, **model_kwargs
        )
        return input_ids, {**model_kwargs, **repeated}


def repeated_order(modality, placeholders_per_row, inputs, expand_size):
    """Which image (or video) goes where when each row is repeated `expand_size` times: a list of their numbers."""
    counts = to_counts(inputs.get(modality.counts))
    if counts is None:
        # Without counts they must be one to a row, or of one size, so that they share placeholders equally.
        num_inputs, num_placeholders = len(inputs[modality.pixels]), sum(placeholders_per_row)
        sizes_differ = any(inputs.get(name) is not None for name in modality.companions)
        if sum(num > 0 for num in placeholders_per_row) == num_inputs:
            counts = [num for num in placeholders_per_row if num > 0]
        elif num_placeholders % num_inputs or sizes_differ:
            raise ValueError(
                f"Got {num_placeholders} {modality.name} placeholders for {num_inputs} {modality.name}s without "
                f"`{modality.counts}`, expected the counts that the processor returned: pass them to `generate`."
            )
        else:
            counts = [num_placeholders // num_inputs] * num_inputs
    order, first = [], 0
    for num_inputs in inputs_of_each_row(modality, placeholders_per_row, counts):
        order += list(range(first, first + num_inputs)) * expand_size
        first += num_inputs
    return order
