"""Accuracies and their differences, with 95 % confidence intervals by a bootstrap over pictures.

Questions about one picture are not independent, so the bootstrap draws whole pictures. It is paired: every selector,
budget and seed is judged on the same draws.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from transformers import PretrainedConfig

from divprune_hf.cards.flops import flops_by_layer, prompt_flops
from divprune_hf.evaluation.questions import Question
from divprune_hf.evaluation.settings import Setting


NUM_DRAWS = 5000
INTERVAL = (2.5, 97.5)  # percentiles
DOWNSAMPLING = "pool"


class Bootstrap:
    """Draws of pictures, and the statistics of marks under them.

    Args:
        questions: the questions, some of which are about the same picture.
        seed: the seed of the draws.
    """

    def __init__(self, questions: Sequence[Question], seed: int = 0) -> None:
        numbers = {image: number for number, image in enumerate(dict.fromkeys(q.image for q in questions))}
        self.picture = np.array([numbers[question.image] for question in questions])
        self.kinds = np.array([question.kind for question in questions])
        draws = np.random.default_rng(seed).multinomial(
            len(numbers), np.full(len(numbers), 1 / len(numbers)), size=NUM_DRAWS
        )
        # The number of times that each draw has each picture; the first row is the sample itself.
        self.weights = np.vstack([np.ones(len(numbers)), draws])

    def accuracies(self, marks: np.ndarray, kind: str, among: np.ndarray | None = None) -> np.ndarray:
        """Return the accuracy of the sample and of each draw, `(1 + NUM_DRAWS,)`.

        Args:
            marks: 1 for each question that was answered right, otherwise 0.
            kind: the kind of questions to count. A draw without such a question gives NaN.
            among: marks those of all questions that count, bool; all of the kind by default.
        """
        chosen = self.kinds == kind if among is None else (self.kinds == kind) & among
        num_pictures = self.weights.shape[1]
        right = np.bincount(self.picture[chosen], marks[chosen], minlength=num_pictures)
        asked = np.bincount(self.picture[chosen], minlength=num_pictures)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.weights @ right) / (self.weights @ asked)


def with_interval(name: str, values: np.ndarray) -> dict[str, float]:
    """Return a statistic and its confidence interval.

    Args:
        name: the key of the statistic in the result.
        values: the statistic of the sample, then those of the draws.
    """
    low, high = np.nanpercentile(values[1:], INTERVAL)
    # Rounded: a mean over seeds would otherwise differ from its equals in the last bit.
    return {key: round(float(value), 6) + 0.0 for key, value in ((name, values[0]), ("ci_low", low), ("ci_high", high))}


def flop_ratio(text_config: PretrainedConfig, answered: Mapping[str, Any], chosen: np.ndarray) -> float:
    """Return the language model's FLOPs over the chosen prompts, as a share of those with all visual tokens."""
    columns = [np.array(answered[name])[chosen].tolist() for name in ("text_tokens", "visual_tokens", "kept_tokens")]
    unpruned = sum(prompt_flops(text_config, text, visual) for text, visual, _ in zip(*columns))
    if (shares := answered.get("shares_by_layer")) is not None:
        prompts = Counter(zip(*columns[:2]))
        return sum(
            flops_by_layer(text_config, text, [round(share * visual) for share in shares]) * times
            for (text, visual), times in prompts.items()
        ) / unpruned  # fmt: skip
    layer = answered.get("layer", 0)
    pruned = sum(prompt_flops(text_config, text, visual, kept, layer=layer) for text, visual, kept in zip(*columns))
    return pruned / unpruned


def evaluate(
    questions: Sequence[Question], answered: Mapping[Setting, Mapping[str, Any]], text_config: PretrainedConfig
) -> dict[str, list[dict[str, Any]]]:
    """Return all figures of a run.

    Args:
        questions: what was asked.
        answered: what `answer_questions` returned, by setting.
        text_config: the language model's config, for its FLOPs.

    Returns:
        dict of "results" (one row per setting and kind of question), "means" (over the seeds of a selector that draws)
        "differences" (the first method minus each other one, at equal budgets, averaged over seeds) and "details" (see
        `scores_of_details`).
    """
    bootstrap = Bootstrap(questions)
    kinds = list(dict.fromkeys(question.kind for question in questions))
    methods = list(dict.fromkeys(setting.method for setting in answered))
    budgets = list(dict.fromkeys(setting.budget for setting in answered))
    marks = {
        setting: np.array([question.accepts(answer) for question, answer in zip(questions, record["answers"])], float)
        for setting, record in answered.items()
    }
    results: list[dict[str, Any]] = []
    means: list[dict[str, Any]] = []
    differences: list[dict[str, Any]] = []
    for kind in kinds:
        chosen = bootstrap.kinds == kind
        unpruned = next((bootstrap.accuracies(marks[s], kind) for s in answered if s.keeps_all), None)
        for budget in budgets:
            over_seeds = {}
            for method in methods:
                settings = [s for s in answered if (s.method, s.budget) == (method, budget)]
                draws = {setting: bootstrap.accuracies(marks[setting], kind) for setting in settings}
                of_method = {
                    "selector": settings[0].selector,
                    "positions": settings[0].positions,
                    "layer": settings[0].layer,
                }
                common: dict[str, Any] = {"budget": budget, "kind": kind, "questions": int(chosen.sum())}
                common["flop_ratio"] = flop_ratio(text_config, answered[settings[0]], chosen)
                for setting in settings:
                    row = {**of_method, "seed": setting.seed, **common}
                    results.append({**row, **with_interval("accuracy", draws[setting])})
                over_seeds[method] = np.mean(list(draws.values()), axis=0)
                mean = {**of_method, "method": method, "seeds": len(settings), **common}
                for name in ("visual_tokens", "kept_tokens"):
                    mean[name] = float(np.array(answered[settings[0]][name])[chosen].mean())
                mean |= with_interval("accuracy", over_seeds[method])
                if unpruned is not None and unpruned[0] > 0:
                    share = with_interval("share", over_seeds[method] / np.where(unpruned > 0, unpruned, np.nan))
                    mean["of_unpruned"] = share["share"]
                    mean["of_unpruned_ci_low"], mean["of_unpruned_ci_high"] = share["ci_low"], share["ci_high"]
                means.append(mean)
            for other in methods[1:]:
                gap = with_interval("difference", over_seeds[methods[0]] - over_seeds[other])
                differences.append({"selector": methods[0], "other": other, "budget": budget, "kind": kind, **gap})
    details = scores_of_details(bootstrap, marks)
    return {"results": results, "means": means, "differences": differences, "details": details}


def scores_of_details(bootstrap: Bootstrap, marks: Mapping[Setting, np.ndarray]) -> list[dict[str, Any]]:
    """Return the second score: how many of the questions about details each method answers.

    Those are the questions that the model answers with all tokens and does not answer when the picture is downsampled
    to the same budget (`DOWNSAMPLING`). Other questions are answered by all methods, or by none.

    Args:
        bootstrap: of all questions.
        marks: of each setting, 1 for each question that was answered right, otherwise 0.

    Returns:
        One row for each method, budget and kind of question; none without a run of all tokens and of downsampling.
    """
    unpruned = next((marks[setting] for setting in marks if setting.keeps_all), None)
    downsampled = {setting.budget: marks[setting] for setting in marks if setting.selector == DOWNSAMPLING}
    rows: list[dict[str, Any]] = []
    if unpruned is None:
        return rows
    for kind in dict.fromkeys(bootstrap.kinds.tolist()):
        for budget, with_downsampling in downsampled.items():
            among = (unpruned == 1) & (with_downsampling == 0)
            number = int(among[bootstrap.kinds == kind].sum())
            methods = dict.fromkeys(s.method for s in marks if s.budget == budget and s.selector != DOWNSAMPLING)
            for method in methods if number else ():
                seeds = [values for s, values in marks.items() if (s.method, s.budget) == (method, budget)]
                accuracies = np.mean([bootstrap.accuracies(values, kind, among) for values in seeds], axis=0)
                row = {"method": method, "budget": budget, "kind": kind, "questions": number}
                rows.append({**row, **with_interval("accuracy", accuracies)})
    return rows
