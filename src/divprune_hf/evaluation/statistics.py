"""Accuracies and their differences, with 95 % confidence intervals by a bootstrap over pictures.

Questions about one picture are not independent, so whole pictures are drawn. The bootstrap is paired: every selector,
budget and seed is judged on the same draws.
"""

import numpy as np

from divprune_hf.cards.flops import prompt_flops
from divprune_hf.evaluation.answers import Setting
from divprune_hf.evaluation.questions import Question


NUM_DRAWS = 5000
INTERVAL = (2.5, 97.5)


class Bootstrap:
    """Draws of pictures, and the statistics of 0/1 marks (right or wrong, one per question) under them."""

    def __init__(self, questions: list[Question], seed: int = 0):
        numbers = {image: number for number, image in enumerate(dict.fromkeys(q.image for q in questions))}
        self.picture = np.array([numbers[question.image] for question in questions])
        self.kinds = np.array([question.kind for question in questions])
        # How often each picture comes in each draw; the first row is the sample itself.
        draws = np.random.default_rng(seed).multinomial(
            len(numbers), np.full(len(numbers), 1 / len(numbers)), size=NUM_DRAWS
        )
        self.weights = np.vstack([np.ones(len(numbers)), draws])

    def accuracies(self, marks: np.ndarray, kind: str) -> np.ndarray:
        """The accuracy of the sample and of each draw: `(1 + NUM_DRAWS,)`, NaN for draws without such a question."""
        chosen = self.kinds == kind
        pictures = self.weights.shape[1]
        right = np.bincount(self.picture[chosen], marks[chosen], minlength=pictures)
        asked = np.bincount(self.picture[chosen], minlength=pictures)
        with np.errstate(invalid="ignore", divide="ignore"):
            return (self.weights @ right) / (self.weights @ asked)


def with_interval(name: str, values: np.ndarray) -> dict:
    """A statistic (its value on the sample comes first, then those on the draws) and its confidence interval."""
    low, high = np.nanpercentile(values[1:], INTERVAL)
    # Rounded: a mean over seeds would otherwise differ from its equals in the last bit.
    return {key: round(float(value), 6) + 0.0 for key, value in ((name, values[0]), ("ci_low", low), ("ci_high", high))}


def flop_ratio(text_config, answered: dict, chosen: np.ndarray) -> float:
    """Prefill of the language model over the chosen prompts, as a share of what it is with all visual tokens."""
    columns = [np.array(answered[name])[chosen].tolist() for name in ("text_tokens", "visual_tokens", "kept_tokens")]
    pruned = sum(prompt_flops(text_config, text, visual, kept) for text, visual, kept in zip(*columns))
    return pruned / sum(prompt_flops(text_config, text, visual) for text, visual, _ in zip(*columns))


def evaluate(questions: list[Question], answered: dict[Setting, dict], text_config) -> dict:
    """All figures of a run.

    Args:
        questions: what was asked.
        answered: what `answer_questions` returned, by setting.
        text_config: the language model's, for its FLOPs.

    Returns:
        dict of "results" (one row per setting and kind of question), "means" (over the seeds of "random") and
        "differences" (the first selector minus each other one, at equal budgets, averaged over seeds).
    """
    bootstrap = Bootstrap(questions)
    kinds = list(dict.fromkeys(question.kind for question in questions))
    selectors = list(dict.fromkeys(setting.selector for setting in answered))
    budgets = list(dict.fromkeys(setting.budget for setting in answered))
    marks = {
        setting: np.array([question.accepts(answer) for question, answer in zip(questions, record["answers"])], float)
        for setting, record in answered.items()
    }
    results, means, differences = [], [], []
    for kind in kinds:
        chosen = bootstrap.kinds == kind
        unpruned = next((bootstrap.accuracies(marks[s], kind) for s in answered if s.keeps_all), None)
        for budget in budgets:
            over_seeds = {}
            for selector in selectors:
                settings = [s for s in answered if (s.selector, s.budget) == (selector, budget)]
                draws = {setting: bootstrap.accuracies(marks[setting], kind) for setting in settings}
                common = {"budget": budget, "kind": kind, "questions": int(chosen.sum())}
                common["flop_ratio"] = flop_ratio(text_config, answered[settings[0]], chosen)
                for setting in settings:
                    row = {"selector": selector, "seed": setting.seed, **common}
                    results.append({**row, **with_interval("accuracy", draws[setting])})
                over_seeds[selector] = np.mean(list(draws.values()), axis=0)
                mean = {"selector": selector, "seeds": len(settings), **common}
                for name in ("visual_tokens", "kept_tokens"):
                    mean[name] = float(np.array(answered[settings[0]][name])[chosen].mean())
                mean |= with_interval("accuracy", over_seeds[selector])
                if unpruned is not None and unpruned[0] > 0:
                    share = with_interval("share", over_seeds[selector] / np.where(unpruned > 0, unpruned, np.nan))
                    mean["of_unpruned"] = share["share"]
                    mean["of_unpruned_ci_low"], mean["of_unpruned_ci_high"] = share["ci_low"], share["ci_high"]
                means.append(mean)
            for other in selectors[1:]:
                gap = with_interval("difference", over_seeds[selectors[0]] - over_seeds[other])
                differences.append({"selector": selectors[0], "other": other, "budget": budget, "kind": kind, **gap})
    return {"results": results, "means": means, "differences": differences}
