"""`divprune-hf evaluate` on pocket-llava: its figures, that it goes on where it stopped, what it refuses."""

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image

from divprune_hf import convert_checkpoint
from divprune_hf.cards.flops import prompt_flops
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.accuracy import AccuracyRun, measure_accuracy
from divprune_hf.evaluation.answers import answer_questions, apply_setting
from divprune_hf.evaluation.questions import normalised, read_questions
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.ask import ask
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.selectors import SELECTORS
from tests.helpers.commands import run_command


HELD_OUT = Path(__file__).parents[1] / "data" / "pocket_heldout" / "questions.jsonl"


def run(*arguments):
    pytest.importorskip("matplotlib", reason="the command draws")
    return run_command("evaluate", *arguments, "--device", "cpu")


@pytest.fixture(scope="module")
def some_questions(tmp_path_factory):
    """The questions about the first six held-out scenes, with their pictures."""
    folder = tmp_path_factory.mktemp("questions")
    entries = [json.loads(line) for line in HELD_OUT.read_text().splitlines()[:36]]
    for entry in entries:
        shutil.copy(HELD_OUT.parent / entry["image"], folder)
    (folder / "some.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    return folder / "some.jsonl"


def test_answers_are_those_of_ask(some_questions):
    """Pictures are encoded once for all their questions, in batches: the answers must not change."""
    questions = read_questions(some_questions)[:12]
    model, processor = load_pruned(pocket_llava(), device="cpu")
    for setting in (Setting("max_min", 0.098), Setting("random", 25, 1), Setting("uniform", 0.2)):
        answered = answer_questions(model, processor, questions, setting, batch_size=5, max_new_tokens=8)
        apply_setting(model, processor, setting)
        for index, question in enumerate(questions):
            alone = ask(model, processor, Image.open(question.image).convert("RGB"), question.text, max_new_tokens=8)
            assert answered["answers"][index] == alone.text
            assert answered["kept_tokens"][index] == alone.num_kept
            assert answered["visual_tokens"][index] == alone.num_available == 256
            assert answered["text_tokens"][index] == alone.num_prompt_tokens - alone.num_kept


@pytest.mark.parametrize("settings", [{"positions": "original"}, {"layer": 2}], ids=["positions", "layer"])
def test_answers_follow_settings_of_the_inside(some_questions, settings):
    """One loaded model takes them in turn; each answer is that of a model that was loaded so."""
    questions = [question for question in read_questions(some_questions) if question.kind == "position"]
    model, processor = load_pruned(pocket_llava(), device="cpu")
    answers = []
    for setting in (Setting("max_min", 25), Setting("max_min", 25, **settings), Setting("max_min", 25)):
        answered = answer_questions(model, processor, questions, setting, batch_size=4, max_new_tokens=8)
        answers.append(answered["answers"])
    alone, of_alone = load_pruned(pocket_llava(), device="cpu", num_tokens=25, **settings)
    for question, answer in zip(questions, answers[1], strict=True):
        picture = Image.open(question.image).convert("RGB")
        assert ask(alone, of_alone, picture, question.text, max_new_tokens=8).text == answer
    assert answers[0] == answers[2] != answers[1]


def test_a_share_of_the_flops_is_what_a_prompt_costs(some_questions):
    questions = read_questions(some_questions)[:2]
    model, processor = load_pruned(pocket_llava(), device="cpu")
    text_config = model.config.text_config
    for layer, share in ((0, 0.1), (0, 0.6), (2, 0.6)):
        setting = Setting("max_min", f"{share:.0%}", layer=layer)
        answered = answer_questions(model, processor, questions, setting, batch_size=2, max_new_tokens=2)
        (kept, _), (text, _) = answered["kept_tokens"], answered["text_tokens"]
        costs = [prompt_flops(text_config, text, 256, count, layer=layer) for count in (kept, kept + 1)]
        assert costs[0] <= share * prompt_flops(text_config, text, 256) < costs[1]
    with pytest.raises(ValueError, match="but one visual token kept from layer 3 on costs"):
        apply_setting(model, processor, Setting("max_min", "40%", layer=3), questions[0])
    with pytest.raises(ValueError, match="layer=6 for a language model of 6 layers"):
        apply_setting(model, processor, Setting("max_min", 0.5, layer=6))
    with pytest.raises(ValueError, match="without a question"):
        apply_setting(model, processor, Setting("max_min", "40%"))


def test_pictures_of_many_shapes_are_asked_about_in_batches(make_checkpoint, photos, tmp_path):
    """LLaVA-NeXT: every picture has its own number of visual tokens, and is padded to the views of the largest."""
    checkpoint = make_checkpoint(family="llava_next")
    entries = []
    for number, size in enumerate([(100, 300), (200, 200), (24, 20)]):
        photos[0].resize(size).save(tmp_path / f"{number}.png")
        for word in ("w5 w6", "w7"):
            entries.append({"image": f"{number}.png", "question": word, "answers": "w9", "kind": "any"})
    (tmp_path / "questions.jsonl").write_text("".join(json.dumps(entry) + "\n" for entry in entries))
    questions = read_questions(tmp_path / "questions.jsonl")
    for model_id in (checkpoint.base, checkpoint.variant):
        model, processor = load_pruned(model_id, device="cpu")
        for setting in (Setting("max_min", 0.25), Setting("random", 7, 2), Setting("uniform", 1.0)):
            answered = answer_questions(model, processor, questions, setting, batch_size=6, max_new_tokens=6)
            apply_setting(model, processor, setting)
            for index, question in enumerate(questions):
                alone = ask(model, processor, Image.open(question.image), question.text, max_new_tokens=6)
                assert answered["answers"][index] == alone.text
                assert answered["kept_tokens"][index] == alone.num_kept
                assert answered["visual_tokens"][index] == alone.num_available
        assert len(set(answered["visual_tokens"])) == 3


@pytest.mark.parametrize(
    ("answer", "kept"),
    [
        ("Yes.", "yes"),
        ("yes, there is a bag", "yes"),
        ("A bag", "a bag"),
        ("3.5", "3.5"),
        ("no\nUSER: what", "no"),
        ("", ""),
    ],
)
def test_an_answer_is_its_first_clause(answer, kept):
    assert normalised(answer) == kept


@pytest.fixture(scope="module")
def finished(some_questions, tmp_path_factory):
    out = tmp_path_factory.mktemp("run") / "out"
    arguments = [pocket_llava(), some_questions, "--budgets", "25", "1.0", "--seeds", "2", "--out", out]
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == (out / "table.md").read_text().strip()
    return arguments, out, json.loads((out / "results.json").read_text())


def test_results_are_the_answers_counted(finished, some_questions):
    _, out, report = finished
    assert {"results", "model", "data", "versions", "hardware", "date"} <= set(report)
    assert list(report)[-3:] == ["versions", "hardware", "date"] and report["model"] == "pocket-llava"
    questions = read_questions(some_questions)
    kinds = {question.kind for question in questions}
    rows = report["results"]
    draws = {name: (0, 1) if selector.uses_seed else (None,) for name, selector in SELECTORS.items()}
    expected = {(name, seed) for name, seeds in draws.items() for seed in seeds}
    assert {(row["selector"], row["seed"], row["budget"], row["kind"]) for row in rows} == {
        (selector, seed, budget, kind) for selector, seed in expected for budget in (25, 1.0) for kind in kinds
    }
    config = load_pruned(pocket_llava(), device="cpu")[0].config.text_config
    for row in rows:
        name = "all" if row["budget"] == 1.0 else f"{row['selector']}-25-{row['seed']}"
        answers = json.loads((out / "answers" / f"{name}.json").read_text())
        of_kind = [i for i, question in enumerate(questions) if question.kind == row["kind"]]
        right = [questions[i].accepts(answers["answers"][i]) for i in of_kind]
        assert row["questions"] == len(right) and row["accuracy"] == pytest.approx(sum(right) / len(right))
        assert 0 <= row["ci_low"] <= row["accuracy"] <= row["ci_high"] <= 1
        pruned, full = (
            sum(prompt_flops(config, answers["text_tokens"][i], 256, kept) for i in of_kind)
            for kept in (25 if row["budget"] == 25 else 256, 256)
        )
        assert row["flop_ratio"] == pytest.approx(pruned / full)
    for gap in report["differences"]:
        means = {row["selector"]: row["accuracy"] for row in report["means"] if same(row, gap)}
        assert gap["difference"] == pytest.approx(means["max_min"] - means[gap["other"]])
        assert gap["ci_low"] <= gap["difference"] + 1e-9 and gap["difference"] <= gap["ci_high"] + 1e-9
    table = (out / "table.md").read_text()
    assert "25 of 256" in table and "random, mean of 2 seeds" in table
    with Image.open(out / "accuracy_vs_budget.png") as figure:
        assert figure.format == "PNG" and min(figure.size) > 200


def same(row, other):
    return (row["budget"], row["kind"]) == (other["budget"], other["kind"])


def test_a_stopped_run_goes_on_where_it_was(finished):
    arguments, out, report = finished
    (out / "answers" / "uniform-25-None.json").unlink()
    (out / "results.json").unlink()
    kept = {path.name: path.stat().st_mtime_ns for path in (out / "answers").iterdir()}
    assert len(kept) == len(SELECTORS) + 1  # random twice, all tokens once, and one file less
    result = run(*arguments)
    assert result.returncode == 0, result.stderr
    assert all((out / "answers" / name).stat().st_mtime_ns == time for name, time in kept.items())
    again = json.loads((out / "results.json").read_text())
    assert all(again[name] == report[name] for name in ("results", "means", "differences"))


def test_a_variant_scores_as_its_base(finished, some_questions, tmp_path):
    _, _, report = finished
    variant = convert_checkpoint(pocket_llava(), tmp_path / "variant", {"num_tokens": 3})
    arguments = [variant, some_questions, "--budgets", "25", "--selectors", "max_min", "--out", tmp_path / "out"]
    assert run(*arguments).returncode == 0
    rows = json.loads((tmp_path / "out" / "results.json").read_text())["results"]
    of_base = [row for row in report["results"] if (row["selector"], row["budget"]) == ("max_min", 25)]
    assert [row["accuracy"] for row in rows] == [row["accuracy"] for row in of_base]


def test_the_folder_of_another_run_is_refused(finished, tmp_path):
    arguments, out, _ = finished
    before = (out / "results.json").read_bytes()
    other = [*arguments[:2], "--budgets", "25", "--out", out]
    result = run(*other)
    assert result.returncode == 2 and "holds another run: its budgets" in result.stderr
    assert result.stderr.count("\n") == 1 and (out / "results.json").read_bytes() == before
    (tmp_path / "notes.txt").write_text("mine")
    result = run(*arguments[:2], "--budgets", "25", "--out", tmp_path)
    assert result.returncode == 2 and "not empty" in result.stderr


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--budgets", "0.1", "--selectors", "max_mim"], "invalid choice: 'max_mim'"),
        (["--budgets", "1.5"], "retention_ratio=1.5"),
        (["--budgets", "0"], "num_tokens=0"),
        (["--budgets", "half"], "budget 'half'"),
        (["--budgets", "120%"], "budget '120%'"),
        (["--budgets", "1e%"], "budget '1e%'"),
        (["--budgets", "0.5", "--layers", "-1"], "layer=-1"),
        (["--budgets", "0.5", "--positions", "old"], "invalid choice: 'old'"),
        (["--budgets", "0.1", "--seeds", "0"], "--seeds 0"),
        (["--budgets", "0.1", "--batch-size", "0"], "--batch-size 0"),
        (["--budgets", "0.1", "--dtype", "float33"], "--dtype float33"),
        (["--budgets", "1", "1.0"], "expected one of them"),
    ],
)
def test_impossible_settings_are_refused_in_one_line(some_questions, tmp_path, flags, message):
    result = run(pocket_llava(), some_questions, *flags, "--out", tmp_path / "out")
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_an_unknown_selector_is_refused(some_questions, tmp_path):
    pytest.importorskip("matplotlib")
    options = AccuracyRun("model", some_questions, tmp_path / "out", budgets=["0.1"], selectors=["max_mim"])
    with pytest.raises(ValueError, match="selector='max_mim'"):
        measure_accuracy(options)


def test_a_missing_matplotlib_is_named_before_a_model_is_loaded(some_questions, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    arguments = [tmp_path / "no model", some_questions, "--budgets", "0.1", "--out", tmp_path / "out"]
    result = run_command("evaluate", *arguments)
    message = "divprune-hf evaluate needs matplotlib: pip install 'divprune-hf[plot]'"
    assert (result.returncode, result.stderr) == (2, f"divprune-hf: error: {message}\n")
    assert not (tmp_path / "out").exists()


def test_a_model_that_cannot_be_loaded_leaves_nothing(some_questions, tmp_path):
    (tmp_path / "model").mkdir()
    result = run(tmp_path / "model", some_questions, "--budgets", "0.1", "--out", tmp_path / "out")
    assert result.returncode == 2 and not (tmp_path / "out").exists()


ENTRY = {"image": "scene.png", "question": "Is there a bag?", "answers": ["yes"], "kind": "presence"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "has no questions"),
        ("\n\n", "has no questions"),
        (json.dumps(ENTRY), "scene.png is missing"),
        ("{", "line 1 is not JSON"),
        (json.dumps({**ENTRY, "answers": []}), "at least one accepted answer"),
        (json.dumps({**ENTRY, "answers": [3]}), "expected texts"),
        (json.dumps({"image": "scene.png"}), "expected an object with the keys"),
        ("[]", "expected an object with the keys"),
        (None, "is not a file"),
    ],
)
def test_questions_that_cannot_be_asked_are_refused_by_name(tmp_path, text, message):
    path = tmp_path / "questions.jsonl"
    if text is not None:
        path.write_text(text)
    with pytest.raises(ValueError, match=message):
        read_questions(path)
