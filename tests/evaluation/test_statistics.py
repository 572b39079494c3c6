"""The bootstrap over pictures, against its definition written as a loop, and against what is known exactly."""

from pathlib import Path

import numpy as np
import pytest
from transformers import LlamaConfig

from divprune_hf.evaluation.questions import Question
from divprune_hf.evaluation.settings import Setting
from divprune_hf.evaluation.statistics import NUM_DRAWS, Bootstrap, evaluate, with_interval


def questions_about(num_pictures, per_picture, kind="presence"):
    return [
        Question(Path(f"{picture}.png"), f"{number}?", ("yes",), kind)
        for picture in range(num_pictures)
        for number in range(per_picture)
    ]


def test_draws_are_of_whole_pictures():
    questions = questions_about(7, 3) + questions_about(4, 1, "counting")
    marks = np.random.default_rng(0).integers(0, 2, len(questions)).astype(float)
    bootstrap = Bootstrap(questions)
    for kind in ("presence", "counting"):
        values = bootstrap.accuracies(marks, kind)
        for weights, value in zip(bootstrap.weights[:50], values[:50]):
            drawn = [
                mark
                for question, mark in zip(questions, marks)
                for _ in range(int(weights[int(question.image.stem)]))
                if question.kind == kind
            ]
            assert value == pytest.approx(np.mean(drawn)) if drawn else np.isnan(value)
    assert (bootstrap.weights[1:].sum(1) == 7).all() and (bootstrap.weights[0] == 1).all()


def test_the_interval_is_that_of_the_normal_approximation():
    """400 pictures with one question each, 300 right: 0.75, with a standard error of sqrt(0.75 * 0.25 / 400)."""
    questions = questions_about(400, 1)
    marks = np.array([1.0] * 300 + [0.0] * 100)
    row = with_interval("accuracy", Bootstrap(questions).accuracies(marks, "presence"))
    error = 1.96 * (0.75 * 0.25 / 400) ** 0.5
    assert row["accuracy"] == 0.75
    assert row["ci_low"] == pytest.approx(0.75 - error, abs=0.006)
    assert row["ci_high"] == pytest.approx(0.75 + error, abs=0.006)


def test_questions_about_one_picture_are_not_taken_for_independent():
    """Ten questions about each of 40 pictures, right or wrong together, tell no more than 40 questions."""
    marks = np.array([1.0] * 30 + [0.0] * 10)
    one = with_interval("accuracy", Bootstrap(questions_about(40, 1)).accuracies(marks, "presence"))
    ten = with_interval("accuracy", Bootstrap(questions_about(40, 10)).accuracies(marks.repeat(10), "presence"))
    assert one == ten


def test_differences_are_paired():
    """Two selectors that are right about the same pictures differ by nothing, with certainty, however few they are."""
    questions = questions_about(30, 2)
    text_config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2)

    def answered(answers, kept):
        columns = {"text_tokens": [10] * 60, "visual_tokens": [100] * 60, "kept_tokens": [kept] * 60}
        return {"answers": answers, **columns}

    half = ["yes", "no"] * 30
    third = ["yes"] * 60
    records = {
        Setting("max_min", 10): answered(half, 10),
        Setting("random", 10, 0): answered(half, 10),
        Setting("random", 10, 1): answered(third, 10),
        Setting("uniform", 10): answered(half, 10),
        Setting("max_min", 1.0): answered(third, 100),
        Setting("random", 1.0, 0): answered(third, 100),
        Setting("random", 1.0, 1): answered(third, 100),
        Setting("uniform", 1.0): answered(third, 100),
    }
    report = evaluate(questions, records, text_config)
    gaps = {(row["other"], row["budget"]): row for row in report["differences"]}
    assert (gaps["uniform", 10]["ci_low"], gaps["uniform", 10]["ci_high"]) == (0, 0)
    assert gaps["random", 10]["difference"] == pytest.approx(0.5 - 0.75)
    (mean,) = (row for row in report["means"] if (row["selector"], row["budget"]) == ("random", 10))
    assert mean["seeds"] == 2 and mean["of_unpruned"] == pytest.approx(0.75)
    assert len(report["results"]) == len(records) and NUM_DRAWS >= 1000

    wrong = {setting: answered(["no"] * 60, record["kept_tokens"][0]) for setting, record in records.items()}
    report = evaluate(questions, wrong, text_config)
    assert all(row["accuracy"] == 0 and "of_unpruned" not in row for row in report["means"])


def test_details_are_what_all_tokens_tell_and_downsampling_does_not():
    questions = questions_about(4, 5) + questions_about(4, 1, "counting")
    text_config = LlamaConfig(hidden_size=32, intermediate_size=64, num_hidden_layers=2)

    def answered(right):
        columns = {"text_tokens": [10] * 24, "visual_tokens": [100] * 24, "kept_tokens": [10] * 24}
        return {"answers": ["yes" if number in right else "no" for number in range(24)], **columns}

    records = {
        Setting("max_min", 10): answered({0, 1, 2, 11}),
        Setting("random", 10, 0): answered({0}),
        Setting("random", 10, 1): answered({0, 1}),
        Setting("pool", 10): answered({0, 20}),
    }
    everything = answered({0, 1, 2, 3, 20})
    unpruned = {setting: Setting(setting.selector, 1.0, setting.seed) for setting in records}
    records |= dict.fromkeys(unpruned.values(), everything)
    details = evaluate(questions, records, text_config)["details"]
    # Of 0, 1, 2 and 3, which all tokens answer, pooling answers the first; of the counting ones, all that they answer.
    assert [(row["method"], row["budget"], row["kind"], row["questions"]) for row in details] == [
        ("max_min", 10, "presence", 3),
        ("random", 10, "presence", 3),
    ]
    assert [row["accuracy"] for row in details] == pytest.approx([2 / 3, (0 + 1 / 3) / 2], abs=1e-6)
    assert all(row["ci_low"] <= row["accuracy"] <= row["ci_high"] for row in details)
    assert evaluate(questions, {s: r for s, r in records.items() if s.budget != 1.0}, text_config)["details"] == []
    assert evaluate(questions, {s: r for s, r in records.items() if s.selector != "pool"}, text_config)["details"] == []
