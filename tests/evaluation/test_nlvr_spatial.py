"""Questions from NLVR: against the pixels of real pictures, balanced, and hard to answer without a look."""

import json
import re
from collections import Counter
from pathlib import Path

import pytest
from PIL import Image

from divprune_hf.evaluation.nlvr_spatial import BOXES, NUMBERS, read_scenes, write_questions
from divprune_hf.evaluation.questions import read_questions
from tests.helpers.commands import run_command


NLVR = Path(__file__).parents[1] / "data" / "nlvr"
PIXELS = {"yellow": (255, 255, 0), "blue": (0, 153, 255), "black": (0, 0, 0)}
STRUCTURED = {"Yellow": "yellow", "#0099ff": "blue", "Black": "black"}


def test_the_sample_is_small_and_says_where_it_comes_from():
    pictures = list(NLVR.rglob("*.png"))
    assert len(pictures) == 200 and sum(path.stat().st_size for path in NLVR.rglob("*") if path.is_file()) < 2e6
    readme = (NLVR / "README.md").read_text()
    assert "CC-BY-4.0" in readme and "Suhr" in readme


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    out = tmp_path_factory.mktemp("nlvr") / "questions"
    result = run_command("nlvr-questions", NLVR, out)
    assert result.returncode == 0, result.stderr
    assert re.fullmatch(rf"{re.escape(str(out))}/questions.jsonl: \d+ questions\n", result.stdout)
    return out


def test_boxes_are_where_the_pictures_show_them():
    """Each thing's colour is at its place: the boxes are 100 pixels wide, with 50 between them."""
    for line in (NLVR / "dev" / "dev.json").read_text().splitlines():
        example = json.loads(line)
        path = NLVR / "dev" / "images" / example["directory"] / f"dev-{example['identifier']}-0.png"
        picture = Image.open(path).convert("RGB")
        for index, box in enumerate(example["structured_rep"]):
            for thing in box:
                middle = thing["size"] // 2
                pixel = picture.getpixel((150 * index + thing["x_loc"] + middle, thing["y_loc"] + middle))
                assert max(abs(a - b) for a, b in zip(pixel, PIXELS[STRUCTURED[thing["color"]]])) < 60
    assert len(read_scenes(NLVR, "dev")) == 200


def test_answers_are_true_of_what_nlvr_says_is_there(made):
    """Read anew from the original file: nothing of the code under test but its texts."""
    boxes = {}
    for line in (NLVR / "dev" / "dev.json").read_text().splitlines():
        example = json.loads(line)
        boxes[f"dev-{example['identifier']}-0.png"] = [
            Counter(f"{STRUCTURED[thing['color']]} {thing['type']}" for thing in box)
            for box in example["structured_rep"]
        ]
    questions = read_questions(made / "questions.jsonl")
    for question in questions:
        there, text = boxes[question.image.name], question.text.removesuffix(" Answer yes or no.")
        everywhere = sum(there, Counter())
        if found := re.fullmatch(r"Is there a (\w+ \w+) in the (\w+) box\?", text):
            true, kind = found[1] in there[BOXES.index(found[2])], "place"
            assert found[1] in everywhere  # to know that it is there is no answer
        elif found := re.fullmatch(r"(?:Is|Are) there exactly (\w+) (\w+ \w+?)s?\?", text):
            true, kind = everywhere[found[2]] == NUMBERS.index(found[1]), "number"
            assert everywhere[found[2]] > 0 and abs(everywhere[found[2]] - NUMBERS.index(found[1])) <= 1
        else:
            found = re.fullmatch(r"Is there a (\w+ \w+)\?", text)
            true, kind = found[1] in everywhere, "presence"
        assert question.kind == kind and question.answers == (("yes" if true else "no"),)
    counts = Counter((question.kind, question.answers) for question in questions)
    assert all(counts[kind, ("yes",)] == counts[kind, ("no",)] > 100 for kind in ("presence", "number", "place"))


def test_pictures_are_whole_in_a_square(made):
    for path in sorted(made.glob("*.png"))[:5]:
        square = Image.open(path)
        original = next(NLVR.rglob(path.name))
        assert square.size == (400, 400)
        assert square.crop((0, 150, 400, 250)).tobytes() == Image.open(original).convert("RGB").tobytes()
        assert square.getpixel((0, 0)) == square.getpixel((399, 399)) == (255, 255, 255)


def test_the_same_seed_gives_the_same_questions(made, tmp_path):
    write_questions(NLVR, tmp_path / "again")
    write_questions(NLVR, tmp_path / "other", seed=1)
    texts = [(folder / "questions.jsonl").read_text() for folder in (made, tmp_path / "again", tmp_path / "other")]
    assert texts[0] == texts[1] != texts[2]
    write_questions(NLVR, tmp_path / "bare", form="")
    bare = (tmp_path / "bare" / "questions.jsonl").read_text()
    assert bare == texts[0].replace(" Answer yes or no.", "") != texts[0]


def test_bad_folders_are_refused_and_nothing_is_written(tmp_path):
    out = tmp_path / "out"
    assert "expected the folder nlvr of" in run_command("nlvr-questions", tmp_path, out).stderr
    (tmp_path / "dev" / "images").mkdir(parents=True)
    for text, message in (
        ('{"identifier": "1-0"}', "line 1 is no example of NLVR v1"),
        ("[1", "line 1 is no example of NLVR v1"),
        ((NLVR / "dev" / "dev.json").read_text(), "has no picture that dev.json is about"),
    ):
        (tmp_path / "dev" / "dev.json").write_text(text)
        result = run_command("nlvr-questions", tmp_path, out)
        assert result.returncode == 2 and message in result.stderr and not out.exists()
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    result = run_command("nlvr-questions", NLVR, out)
    assert result.returncode == 2 and "is not empty" in result.stderr and len(list(out.iterdir())) == 1
