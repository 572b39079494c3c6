"""pocket-llava's held-out set, and the accuracy that DivPrune must keep on part of it."""

from collections import Counter
from pathlib import Path

import pytest
from PIL import Image, ImageChops

from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.answers import answer_questions
from divprune_hf.evaluation.questions import read_questions
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.loading import load_pruned
from scripts.training.pocket_llava.heldout import write_heldout
from scripts.training.pocket_llava.scenes import DEFAULT_DATA


HELD_OUT = Path(__file__).parents[1] / "data" / "pocket_heldout"
# Measured on 2026-11-22 with the 200 questions below, on 2 CPU cores.
MAX_MIN, LEAD_OVER_RANDOM = 0.92, 0.28
MARGIN = 0.03


@pytest.fixture(scope="module")
def questions():
    return read_questions(HELD_OUT / "questions.jsonl")


def test_the_set_is_large_balanced_and_small_on_disk(questions):
    assert Counter(question.kind for question in questions) == {"presence": 2000, "position": 500, "counting": 500}
    assert len({question.image for question in questions}) == 500
    presence = [question for question in questions if question.kind == "presence"]
    assert len(set(presence)) == 2000
    for text in {question.text for question in presence}:
        answers = [question.answers for question in presence if question.text == text]
        assert answers.count(("yes",)) == answers.count(("no",)) > 100
    assert sum(path.stat().st_size for path in HELD_OUT.iterdir()) <= 6e6


@pytest.mark.skipif(not Path(DEFAULT_DATA).is_dir(), reason="Debian's dataset-fashion-mnist is not installed")
def test_the_script_makes_it_again_pixel_for_pixel(tmp_path):
    write_heldout(tmp_path / "again")
    names = sorted(path.name for path in HELD_OUT.iterdir())
    assert sorted(path.name for path in (tmp_path / "again").iterdir()) == names
    for name in names:
        if name.endswith(".jsonl"):
            assert (tmp_path / "again" / name).read_text() == (HELD_OUT / name).read_text()
        else:
            with Image.open(tmp_path / "again" / name) as made, Image.open(HELD_OUT / name) as kept:
                assert made.mode == kept.mode == "RGB" and ImageChops.difference(made, kept).getbbox() is None
    with pytest.raises(ValueError, match="not empty"):
        write_heldout(tmp_path / "again")


def test_divprune_keeps_its_accuracy_and_its_lead_over_random(questions):
    """Every tenth presence question, at 0.098: neither may fall by more than three points."""
    some = [question for question in questions if question.kind == "presence"][::10]
    assert len(some) == 200
    model, processor = load_pruned(pocket_llava(), device="cpu")
    accuracy = {}
    for setting in (Setting("max_min", 0.098), Setting("random", 0.098, 0)):
        answered = answer_questions(model, processor, some, setting, batch_size=20, max_new_tokens=4)
        assert set(answered["kept_tokens"]) == {25}
        right = [question.accepts(answer) for question, answer in zip(some, answered["answers"])]
        accuracy[setting.selector] = sum(right) / len(right)
    assert accuracy["max_min"] >= MAX_MIN - MARGIN
    assert accuracy["max_min"] - accuracy["random"] >= LEAD_OVER_RANDOM - MARGIN
