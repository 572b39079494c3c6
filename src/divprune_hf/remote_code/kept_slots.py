# SPDX-License-Identifier: Apache-2.0
"""Tokens that the deeper layers hold after some were dropped: their slots, and what is gathered for them.

Slots number the tokens of the unpruned prompt, which are their positions too. Rows of a batch may keep different
numbers: shorter ones are filled up in front with dropped tokens, which nothing attends to.
"""

from dataclasses import dataclass

import torch
from torch.nn.functional import pad


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


def labels_of_kept(labels: torch.Tensor, kept: Kept) -> torch.Tensor:
    """Return the labels of the tokens that a prompt kept, (B, q); what fills up predicts nothing: -100."""
    fills_up = ~kept.valid[:, kept.num_before :].to(labels.device)
    predicted_by_it = pad(fills_up, (1, 0))[:, :-1]
    return gathered(labels, kept.queries).masked_fill(fills_up | predicted_by_it, -100)
