# SPDX-License-Identifier: Apache-2.0
"""Placeholders of a prompt and kept visual tokens: their numbers, told to the seam and compared.

Features of one picture must never land in another row, so the comparison is made row by row.
"""

from contextvars import ContextVar
from dataclasses import dataclass, field
from numbers import Integral
from typing import Any


@dataclass(frozen=True)
class Modality:
    """One kind of visual input, and what transformers and `DivPruneConfig` call what belongs to it."""

    name: str
    pixels: str
    companions: tuple[str, ...]
    features: str
    token_id: str
    counts: str
    budget: str


IMAGE = Modality(
    name="image",
    pixels="pixel_values",
    companions=("image_sizes",),
    features="image_features",
    token_id="image_token_id",
    counts="num_image_tokens_kept",
    budget="budget",
)
VIDEO = Modality(
    name="video",
    pixels="pixel_values_videos",
    companions=(),
    features="video_features",
    token_id="video_token_id",
    counts="num_video_tokens_kept",
    budget="video_budget",
)
MODALITIES = (IMAGE, VIDEO)


@dataclass
class Prompt:
    """Facts about the prompt, which a running `forward` or `generate` tells the methods that make features.

    Attributes:
        model: the inner model that answers.
        placeholders: of each modality, the number of placeholders in each row of the prompt.
        counts: of each modality, the number of kept tokens of each input, or None where the processor did not say.
        fitting: the modalities whose features fit the placeholders row by row, until they are put in place.
        num_prompts: the number of rows; `generate` repeats each for beams and samples after it has told this.
        picks: of each modality whose features were made, for each input its picks, None if all are kept, and M.
        placed: of each modality whose features were just put in place, where: bool, `(batch, sequence)`.
        lead: the position of the next token minus its slot, int64, `(batch, 1)`, until it is kept with the cache.
        pools: of each modality whose tokens a deeper layer drops, what it chooses from (layer_pruning.py).
        padding: the attention mask, `(batch, sequence)`, if the language model got one of this form.
        kept: the tokens that the deeper layers hold, while they read the prompt.
        num_vision_layers: how many layers of the vision tower run, while it does, if not all (unused_layers.py).
    """

    model: Any
    placeholders: dict[Modality, list[int]]
    counts: dict[Modality, list[int] | None] = field(default_factory=dict)
    fitting: set[Modality] = field(default_factory=set)
    num_prompts: int = 0
    picks: dict[Modality, list[tuple[Any, int]]] = field(default_factory=dict)
    placed: dict[Modality, Any] = field(default_factory=dict)
    lead: Any = None
    pools: dict[Modality, Any] = field(default_factory=dict)
    padding: Any = None
    kept: Any = None
    num_vision_layers: int | None = None


# Per thread and per task: a plain attribute of the model would mix up threads.
PROMPT: ContextVar[Prompt | None] = ContextVar("divprune_prompt", default=None)


def prompt_of(model: Any) -> Prompt | None:
    """The prompt that `model` is answering in this thread, if any."""
    prompt = PROMPT.get()
    return prompt if prompt is not None and prompt.model is model else None


def to_counts(counts: Any, modality: Modality) -> list[int] | None:
    """Kept counts as a list of ints, or None. The one place where they are read from a device.

    Raises:
        ValueError: something other than whole numbers of at least 1.
    """
    if counts is None:
        return None
    values = counts.flatten().tolist() if hasattr(counts, "tolist") else list(counts)
    if not all(isinstance(value, Integral) and not isinstance(value, bool) and int(value) >= 1 for value in values):
        raise ValueError(
            f"Got {modality.counts}={values}, expected whole numbers of at least 1, one per {modality.name}: how many "
            "visual tokens of each are kept. Pass what the processor returned."
        )
    return [int(value) for value in values]


def check_fit(num_placeholders: int, num_features: int, modality: Modality) -> None:
    """Raise the one `ValueError` that says that prompt and features do not belong together."""
    if num_placeholders != num_features:
        raise ValueError(
            f"Got {num_placeholders} {modality.name} placeholders in the prompt for {num_features} kept visual tokens, "
            "expected as many. Use the processor that was saved with this model (AutoProcessor.from_pretrained on the "
            f"same folder or repo), and pass everything it returns to the model, `{modality.counts}` included."
        )


def inputs_of_each_row(placeholders: list[int], counts: list[int], modality: Modality) -> list[int]:
    """Return how many images (or videos) each row of a batch holds.

    Args:
        placeholders: how many placeholders each row has.
        counts: how many visual tokens each image keeps, in the order of the rows.

    Raises:
        ValueError: the images that follow one another do not fill the rows one by one.
    """
    check_fit(sum(placeholders), sum(counts), modality)
    inputs_per_row, current = [], 0
    for num_placeholders in placeholders:
        first, filled = current, 0
        while filled < num_placeholders:
            filled += counts[current]
            current += 1
        if filled != num_placeholders:
            raise ValueError(
                f"Got {placeholders} {modality.name} placeholders in the rows of the prompt for {modality.name}s that "
                f"keep {counts} visual tokens, expected each row to hold whole {modality.name}s. Pass everything that "
                f"the processor returned to the model, `{modality.counts}` in its order."
            )
        inputs_per_row.append(current - first)
    return inputs_per_row
