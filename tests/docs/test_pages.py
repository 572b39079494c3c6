"""Every command and block of the docs pages runs on stand-ins, or says why not and is parsed.

pocket-llava stands in for LLaVA-1.5, a tiny random model for LLaVA-NeXT-Video. test_hub_commands.py runs the commands
that speak to the Hub.
"""

import re

import pytest
import transformers
from PIL import Image

from divprune_hf import convert_checkpoint
from divprune_hf.cli import main
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.questions import read_questions
from tests.helpers.doc_blocks import (
    HUB_COMMANDS,
    MARKER,
    PAGES,
    ROOT,
    blocks_of,
    check_named,
    check_names_what_exists,
    check_parses,
    code_spans,
)


ALL_PAGES = [ROOT / "README.md", *PAGES]
LOCAL_COMMANDS = ("convert", "ask", "demo")


def named(page):
    return page.stem


def shown(block):
    return block.place


def blocks(language, marked):
    return [block for page in PAGES for block in blocks_of(page, language, marked)]


@pytest.fixture(scope="module")
def stand_in(tmp_path_factory):
    """A variant of pocket-llava."""
    return convert_checkpoint(pocket_llava(), tmp_path_factory.mktemp("docs") / "variant")


@pytest.fixture
def stand_ins(tmp_path, monkeypatch, stand_in, request):
    """A working folder where the names of the pages mean small models and files; `stand_ins(about_videos)` fills it."""
    monkeypatch.chdir(tmp_path)

    def fill(about_videos):
        links = {"llava-hf/llava-1.5-7b-hf": pocket_llava(), "org/llava-1.5-7b-divprune": stand_in}
        links["photo.png"] = pocket_llava() / "examples" / "scene_00.png"
        if about_videos:
            links["clip.mp4"] = request.getfixturevalue("video_files")[0]
            checkpoint = request.getfixturevalue("make_checkpoint")(family="llava_next_video")
            links["llava-hf/LLaVA-NeXT-Video-7B-hf"] = checkpoint.base
            links["org/llava-next-video-7b-divprune"] = checkpoint.variant
        for name, target in links.items():
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).symlink_to(target)

    return fill


@pytest.mark.parametrize("page", [page for page in PAGES if blocks_of(page, "console", marked=False)], ids=named)
def test_console_commands_run(page, stand_ins):
    runnable = [words for block in blocks_of(page, "console", marked=False) for words in block.commands]
    stand_ins("clip.mp4" in {word for words in runnable for word in words})
    for words in runnable:
        assert words[0] == "divprune-hf" and words[1] in LOCAL_COMMANDS + HUB_COMMANDS, f"{words}: mark this block"
        if words[1] in HUB_COMMANDS:
            check_parses(words, page.name)
            continue
        assert main(words[1:]) == 0
        if "--show" in words:
            assert Image.open(words[words.index("--show") + 1]).width > 4 * 24


@pytest.mark.parametrize("block", blocks("python", marked=False), ids=shown)
def test_python_blocks_run(block, stand_ins):
    stand_ins("clip.mp4" in block.text)
    exec(compile(block.text, block.place, "exec"), {"__name__": "__main__"})


@pytest.mark.parametrize("block", blocks("python", marked=True), ids=shown)
def test_marked_python_blocks_compile_and_run_where_they_can(block, stand_ins):
    code = compile(block.text, block.place, "exec")
    if block.reason == "transformers 5" and int(transformers.__version__.split(".")[0]) >= 5:
        stand_ins("clip.mp4" in block.text)
        exec(code, {})


@pytest.mark.parametrize("block", blocks("console", marked=True), ids=shown)
def test_marked_commands_are_those_of_the_package(block):
    for words in block.commands:
        check_names_what_exists(words, block.place)


def test_the_question_of_the_docs_is_one(stand_ins, tmp_path):
    stand_ins(about_videos=False)
    (block,) = blocks("json", marked=False)
    (tmp_path / "questions.jsonl").write_text(block.text, encoding="utf-8")
    (question,) = read_questions(tmp_path / "questions.jsonl")
    assert question.accepts("Yes, there is.") and not question.accepts("no")


@pytest.mark.parametrize("page", ALL_PAGES, ids=named)
def test_commands_in_sentences_are_those_of_the_package(page):
    for span in code_spans(page):
        if span.startswith("divprune-hf "):
            check_named(span, page.name)


@pytest.mark.parametrize("page", PAGES, ids=named)
def test_every_marker_stands_above_a_block_and_every_block_is_of_a_known_kind(page):
    markers = re.findall(MARKER, page.read_text(encoding="utf-8"))
    assert len(markers) == len(blocks_of(page, marked=True))
    assert {block.language for block in blocks_of(page)} <= {"console", "python", "json"}
