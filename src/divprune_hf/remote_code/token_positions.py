# SPDX-License-Identifier: Apache-2.0
"""Positions of kept tokens: `positions="original"` leaves each where it stood among all tokens of its image.

The language model reads places from position ids. "compact" numbers what is left anew, as the paper does: 56 kept
tokens stand at 56 positions in a row, wherever they were. "original" gives the kept token with index i of M the i-th of
M positions, and what follows the image goes on behind all M. Only position ids differ: sequence, cache and cost are the
same.

Slots number the tokens of the pruned sequence. A *lead* is the position of a token minus its slot: zero before the
first image, M - K behind an image of which K tokens are kept. The lead at the end of a prompt is kept with the cache,
so new tokens and later turns go on from there.
"""

from typing import Any

import torch
import transformers
from torch.nn.functional import pad
from transformers import Cache

from .prompt_counts import Modality, Prompt, prompt_of
from .transformers_surface import Stock


# The attribute of a cache that holds the lead of the next token, int64, (batch, 1).
CACHED_LEAD = "divprune_lead"


def lead_steps(picks: torch.Tensor | None, num_available: int) -> torch.Tensor:
    """Return by how much the lead grows at each kept token of an image, and last behind the image: int64, (K + 1,).

    Args:
        picks: indices of the kept tokens among all M, (K,); None if all are kept.
        num_available: M.
    """
    if picks is None:
        return torch.zeros(num_available + 1, dtype=torch.long)
    # What follows an image stands at its position M.
    leads = pad(picks, (0, 1), value=num_available) - torch.arange(len(picks) + 1, device=picks.device)
    return torch.cat((leads[:1], leads.diff()))


def leads_of_prompt(
    placeholders: torch.Tensor, images: list[tuple[torch.Tensor | None, int]], num_prompts: int
) -> torch.Tensor:
    """Return the lead of each slot that the images (or videos) of a batch cause, and last that of the next: (B, S + 1).

    Args:
        placeholders: marks the placeholders of the images, bool, (B, S).
        images: of each image in order, its picks (None if all are kept) and its number of visual tokens M.
        num_prompts: number of prompts that the images belong to. B is a multiple of it: `generate` repeats each prompt
            for beams and samples, one after another.
    """
    repeats, device = len(placeholders) // num_prompts, placeholders.device
    at_tokens, behind_tokens = [], []
    for picks, num_available in images:
        steps = lead_steps(picks, num_available).to(device)
        at_tokens.append(steps[:-1])
        behind_tokens.append(pad(steps[-1:], (len(steps) - 2, 0)))
    prompts = placeholders[::repeats]
    nothing = torch.zeros(prompts.shape, dtype=torch.long, device=device)
    steps = pad(nothing.masked_scatter(prompts, torch.cat(at_tokens)), (0, 1))
    steps[:, 1:] += nothing.masked_scatter(prompts, torch.cat(behind_tokens))
    leads = steps.cumsum(-1)
    return leads if repeats == 1 else leads.repeat_interleave(repeats, dim=0)


def check_positions_in_vllm(positions: str) -> None:
    """Raise a `ValueError` unless positions are those that vLLM makes itself."""
    if positions != "compact":
        raise ValueError(
            f"Got positions={positions!r} in vLLM, which makes position ids itself, expected 'compact': convert "
            "the base without --positions, or run this model with transformers."
        )


def is_compiled_step(values: torch.Tensor) -> bool:
    """Tell whether a compiled decode step runs, of which there is nothing to tell; `values` are (B, S, width)."""
    return torch.compiler.is_compiling() and values.shape[1] == 1


class PositionsMixin(Stock):
    """The part of an inner model that hands position ids to its language model.

    Facts of a call are in the ContextVar `PROMPT`, those of a chat in its cache, and none on a module.
    """

    def _install_positions(self) -> None:
        """Put hooks before and behind the language model, where the config asks for other positions than the stock's.

        Raises:
            ValueError: the model is built for an engine that makes position ids itself.
        """
        positions = self.config.divprune_config.positions
        if positions == "compact" or self._has_position_hooks():
            return
        if getattr(self.config.get_text_config(), "_attn_implementation", None) == "vllm":
            check_positions_in_vllm(positions)
        self.language_model.register_forward_pre_hook(self._with_positions, with_kwargs=True)
        self.language_model.register_forward_hook(self._remember_lead)

    def _has_position_hooks(self) -> bool:
        hooks = self.language_model._forward_pre_hooks.values()
        return any(getattr(hook, "__func__", None) is PositionsMixin._with_positions for hook in hooks)

    def _check_positions_in_generate(self, config: Any, inputs: dict[str, Any]) -> None:
        """Raise a `ValueError` for a prompt that is read in parts, of which one may end within an image."""
        settings = self.config.divprune_config
        size = inputs.get("prefill_chunk_size", getattr(config, "prefill_chunk_size", None))
        if size is not None and (settings.positions != "compact" or settings.layer):
            setting = f"layer={settings.layer}" if settings.layer else f"positions={settings.positions!r}"
            raise ValueError(
                f"Got prefill_chunk_size={size} for a model with {setting}, expected None: kept tokens and their "
                "positions are known for a whole prompt."
            )

    def _tell_picks(
        self, modality: Modality, all_features: list[torch.Tensor], all_picks: list[torch.Tensor | None]
    ) -> None:
        """Tell the running `forward` or `generate` the picks of each image, which its positions follow from.

        Raises:
            ValueError: nothing runs that could use them, or the model was built without the hooks.
        """
        positions, prompt = self.config.divprune_config.positions, prompt_of(self)
        if positions == "compact":
            return
        if prompt is None or not self._has_position_hooks():
            raise ValueError(
                f"Got positions={positions!r} and a call of get_{modality.name}_features "
                f"{'on its own' if prompt is None else 'of a model that was loaded without it'}, expected a call of "
                "forward or generate of a model that was loaded with this setting: from_pretrained(..., "
                "divprune_config={'positions': 'original'}). Which tokens are kept is told by select_"
                f"{modality.name}_tokens. Engines that make position ids themselves need positions='compact'."
            )
        prompt.picks[modality] = [(picks, len(features)) for features, picks in zip(all_features, all_picks)]

    def _place(self, prompt: Prompt, modality: Modality, inputs: dict[str, Any]) -> None:
        """Note where features go, when they are about to be put in place.

        Raises:
            ValueError: it is not known which tokens of which images they are.
        """
        settings = self.config.divprune_config
        if settings.positions == "compact" and settings.layer == 0:
            return
        if modality not in (prompt.pools if settings.layer else prompt.picks):
            setting = f"layer={settings.layer}" if settings.layer else f"positions={settings.positions!r}"
            raise ValueError(
                f"Got finished {modality.name} features for a model with {setting}, expected {modality.pixels}: where "
                "kept tokens stand follows from their selection."
            )
        prompt.placed[modality] = self._placeholders(modality, inputs["input_ids"], inputs["inputs_embeds"])

    def _with_places_used(self, outputs: Any) -> Any:
        """Return the outputs of a forward whose hooks have followed the settings.

        Raises:
            RuntimeError: they have not run, so that `positions` or `layer` had no effect.
        """
        settings = self.config.divprune_config
        # Asked in this order: before torch 2.14 a ContextVar breaks a compiled graph.
        if (settings.positions == "compact" and settings.layer == 0) or torch.compiler.is_compiling():
            return outputs
        prompt = prompt_of(self)
        if prompt is not None and prompt.placed:
            raise RuntimeError(
                f"Got positions={settings.positions!r} and layer={settings.layer}, but the language model did not run "
                f"its hooks: transformers {transformers.__version__} seems to call it in another way. Use a release "
                "that was tested, or the defaults of both settings."
            )
        return outputs

    def _with_positions(self, language_model: Any, args: tuple, inputs: dict[str, Any]) -> Any:
        """Return the arguments of the language model with the positions of its tokens, as a forward pre-hook."""
        cache = next((value for value in inputs.values() if isinstance(value, Cache)), None)
        lead = getattr(cache, CACHED_LEAD, None)
        prompt = None if is_compiled_step(inputs["inputs_embeds"]) else prompt_of(self)
        if prompt is not None and prompt.placed:
            if any(picks is not None for modality in prompt.placed for picks, _ in prompt.picks[modality]):
                of_modalities = [
                    leads_of_prompt(placeholders, prompt.picks[modality], prompt.num_prompts)
                    for modality, placeholders in prompt.placed.items()
                ]
                leads = of_modalities[0] if len(of_modalities) == 1 else torch.stack(of_modalities).sum(0)
                leads = leads if lead is None else leads + lead
                lead, prompt.lead = leads[:, :-1], leads[:, -1:]
            prompt.placed = {}
        if lead is None:
            return None
        embeds, position_ids = inputs["inputs_embeds"], inputs.get("position_ids")
        if position_ids is None:
            first = 0 if cache is None else cache.get_seq_length()
            position_ids = torch.arange(embeds.shape[1], device=embeds.device).unsqueeze(0) + first
        inputs = {**inputs, "position_ids": position_ids + lead.to(position_ids.device)}
        if cache is None and inputs.get("attention_mask") is None:
            # Stock masks would take the gaps for borders of packed sequences.
            inputs["attention_mask"] = torch.ones(embeds.shape[:2], dtype=torch.long, device=embeds.device)
        return args, inputs

    def _remember_lead(self, language_model: Any, args: tuple, outputs: Any) -> None:
        """Keep the lead of the next token with the cache that a prompt has filled, as a forward hook."""
        prompt = None if is_compiled_step(outputs[0]) else prompt_of(self)
        if prompt is None or prompt.lead is None:
            return
        for value in outputs.values() if isinstance(outputs, dict) else outputs:
            if isinstance(value, Cache):
                setattr(value, CACHED_LEAD, prompt.lead)
        prompt.lead = None
