"""Many questions about one mosaic in one sequence, each answered as if it had been asked alone.

A sequence is the start of a user's turn, some of the mosaic's visual tokens, and the questions with their answers. A
question attends to what stands before the first one and to itself, and its positions go on where the picture ends. A
visual token keeps the position that it has among all M, whichever of them are there.
"""

from dataclasses import dataclass
from typing import Any

import torch


IGNORED = -100
START = "<|im_start|>user\n"


@dataclass
class Batch:
    """Sequences, padded on the right.

    Attributes:
        input_ids: `(batch, length)`; visual tokens are `processor.image_token_id`.
        labels: the token that each one is followed by where that is part of an answer, IGNORED elsewhere.
        position_ids: `(batch, length)`.
        attention_mask: `(batch, 1, length, length)`, True where a row attends to a column.
        presence: `(batch, length)`, True where a label belongs to a question of the kind "presence".
    """

    input_ids: torch.Tensor
    labels: torch.Tensor
    position_ids: torch.Tensor
    attention_mask: torch.Tensor
    presence: torch.Tensor

    def to(self, device: Any) -> "Batch":
        return Batch(**{name: value.to(device) for name, value in vars(self).items()})


def pack(processor: Any, turns: list[list[tuple[str, str, str]]], patches: torch.Tensor, num_patches: int) -> Batch:
    """Return the sequences of some mosaics.

    Args:
        processor: the reference model's.
        turns: for each mosaic its questions, as (kind, question, answer).
        patches: `(V,)`, which visual tokens of the `num_patches` are there.
    """

    def encode(text: str) -> list[int]:
        return processor.tokenizer(text, add_special_tokens=False).input_ids

    image_token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    start = encode(START)
    shared = start + [image_token] * len(patches)
    places = [*range(len(start)), *(patches + len(start)).tolist()]
    rows = []
    for asked in turns:
        ids, labels, positions, question, presence = list(shared), [IGNORED] * len(shared), list(places), [], []
        for number, (kind, text, answer) in enumerate(asked, start=1):
            before = encode(f"\n{text}<|im_end|>\n<|im_start|>assistant\n")
            after = encode(f"{answer}<|im_end|>")
            branch = before + after[:-1]
            ids += branch
            labels += [IGNORED] * (len(before) - 1) + after
            positions += range(len(start) + num_patches, len(start) + num_patches + len(branch))
            question += [number] * len(branch)
            presence += [kind == "presence"] * len(branch)
        rows.append((ids, labels, positions, [0] * len(shared) + question, [False] * len(shared) + presence))
    longest = max(len(row[0]) for row in rows)
    pad = processor.tokenizer.pad_token_id
    ids, labels, positions, question, presence = (
        torch.tensor([row[part] + [filler] * (longest - len(row[part])) for row in rows])
        for part, filler in enumerate((pad, IGNORED, 0, -1, False))
    )
    before_or_at = torch.ones(longest, longest, dtype=torch.bool).tril()
    seen = (question[:, None, :] == 0) | (question[:, None, :] == question[:, :, None])
    return Batch(ids, labels, positions, (before_or_at & seen).unsqueeze(1), presence)
