"""lmms-eval's own command with `--model divprune_hf`: every answer is the package's, and every failure ends the run."""

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from PIL import Image

from divprune_hf import convert_checkpoint
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.answers import answer_questions
from divprune_hf.evaluation.questions import read_questions
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.loading import load_pruned
from tests.helpers.doc_blocks import ROOT, blocks_of


pytest.importorskip("lmms_eval", reason="lmms-eval is installed apart: docs/evaluation.md")

from lmms_eval.api.instance import Instance

from divprune_hf.engines import lmms_eval as engine
from divprune_hf.engines.lmms_questions import score, write_task


HELD_OUT = ROOT / "tests" / "data" / "pocket_heldout" / "questions.jsonl"
EVERY = 15  # 200 of the 3,000 questions
# The scores were measured once by a plugin written apart from this one.
SCORES = {
    "retention_ratio=0.098": (Setting("max_min", 0.098), 0.745),
    "num_tokens=64": (Setting("max_min", 64), 0.760),
    "retention_ratio=1.0": (Setting("max_min", 1.0), 0.875),
    "num_tokens=25,positions=original": (Setting("max_min", 25, positions="original"), None),
}
STOCK = "num_tokens=64 of the stock base"


def started(folder):
    """Return how a process of lmms-eval is started: without network, with its caches in a folder."""
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(folder / "hub")}
    return {"capture_output": True, "text": True, "env": {**os.environ, **offline}, "timeout": 600}


def lmms_eval(model_args, tasks, out):
    """Run the command of lmms-eval."""
    command = [sys.executable, "-m", "lmms_eval", "--model", "divprune_hf", "--model_args", model_args]
    command += ["--tasks", "pocket", "--include_path", str(tasks), "--device", "cpu", "--output_path", str(out)]
    return subprocess.run(command, **started(out))


def results_of(out):
    """Return the content of results.json and the samples, in the order of the questions."""
    (results,) = Path(out).glob("*/*_results.json")
    (samples,) = Path(out).glob("*/*_samples_pocket.jsonl")
    lines = [json.loads(line) for line in samples.read_text(encoding="utf-8").splitlines()]
    return json.loads(results.read_text(encoding="utf-8")), sorted(lines, key=lambda line: line["doc_id"])


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tasks")
    assert write_task(HELD_OUT, folder, name="pocket", every=EVERY) == "pocket"
    return folder


@pytest.fixture(scope="module")
def few(tmp_path_factory):
    """A task of 30 questions about pictures of its own."""
    folder = tmp_path_factory.mktemp("few")
    lines = HELD_OUT.read_text(encoding="utf-8").splitlines()[:30]
    for name in {json.loads(line)["image"] for line in lines}:
        shutil.copy(HELD_OUT.parent / name, folder)
    (folder / "pocket.jsonl").write_text("\n".join(lines), encoding="utf-8")
    write_task(folder / "pocket.jsonl", folder / "tasks")
    return folder


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    return convert_checkpoint(pocket_llava(), tmp_path_factory.mktemp("lmms") / "variant", {"num_tokens": 40})


@pytest.fixture(scope="module")
def reference():
    return load_pruned(pocket_llava(), device="cpu", positions="original")


@pytest.fixture(scope="module")
def measured(variant, tasks, tmp_path_factory):
    """Results and samples by settings, of one command that runs one configuration after another."""
    folder = tmp_path_factory.mktemp("measured")
    common = {"model": "divprune_hf", "tasks": "pocket", "include_path": str(tasks), "device": "cpu"}
    models = {**dict.fromkeys(SCORES, variant), STOCK: pocket_llava()}
    configs = [
        {
            **common,
            "model_args": f"pretrained={model},{settings.partition(' ')[0]}",
            "batch_size": 24,
            "output_path": str(folder / str(number)),
            "log_samples": True,
        }
        for number, (settings, model) in enumerate(models.items())
    ]
    (folder / "configs.yaml").write_text(yaml.safe_dump(configs), encoding="utf-8")
    run = subprocess.run(
        [sys.executable, "-m", "lmms_eval", "--config", str(folder / "configs.yaml")],
        **started(folder),
    )
    assert run.returncode == 0, run.stderr[-4000:]
    return {settings: results_of(folder / str(number)) for number, settings in enumerate(models)}


@pytest.mark.parametrize("settings", SCORES)
def test_every_answer_is_that_of_evaluate(settings, measured, reference):
    setting, known = SCORES[settings]
    results, samples = measured[settings]
    questions = read_questions(HELD_OUT)[::EVERY]
    answered = answer_questions(*reference, questions, setting, batch_size=7, max_new_tokens=16)
    assert [sample["filtered_resps"] for sample in samples] == answered["answers"]
    prompts = [text + kept for text, kept in zip(answered["text_tokens"], answered["kept_tokens"])]
    assert [sample["token_counts"][0]["input_tokens"] for sample in samples] == prompts
    right = [question.accepts(answer) for question, answer in zip(questions, answered["answers"])]
    figures = results["results"]["pocket"]
    assert figures["accuracy,none"] == pytest.approx(sum(right) / len(right))
    assert known is None or figures["accuracy,none"] == pytest.approx(known)
    for kind in ("presence", "position", "counting"):
        of_kind = [value for value, question in zip(right, questions) if question.kind == kind]
        assert figures[f"{kind},none"] == pytest.approx(sum(of_kind) / len(of_kind))


def test_a_stock_base_is_pruned_in_memory(measured):
    base, variant = (
        [(line["filtered_resps"], line["token_counts"]) for line in measured[settings][1]]
        for settings in (STOCK, "num_tokens=64")
    )
    assert base == variant


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"num_tokens": 0}, "Got num_tokens=0, expected an integer of at least 1"),
        ({"num_tokens": 5, "retention_ratio": 0.5}, "expected one budget"),
        ({"positions": "sideways"}, "Got positions='sideways'"),
        ({"dtype": "float31"}, "Got dtype=float31"),
        ({"frames_of_video": True}, "which takes pictures only"),
        ({"batch_size": "auto"}, "Got batch_size='auto'"),
        ({"max_batch_size": 4}, "Got divprune settings"),
        ({"pretrained": "nowhere"}, "nowhere"),
        ({"pretrained": ""}, "Got no model"),
    ],
)
def test_a_wrong_argument_ends_the_process(arguments, message, variant, capsys):
    with pytest.raises(SystemExit, match=f"^divprune_hf: error: .*{re.escape(message)}"):
        engine.DivPruneHf(**{"pretrained": str(variant), "device": "cpu", **arguments})
    assert "Traceback" in capsys.readouterr().err


def test_a_wrong_argument_fails_the_command(variant, few, tmp_path):
    run = lmms_eval(f"pretrained={variant},num_token=5", few / "tasks", tmp_path)
    assert run.returncode == 1
    assert run.stderr.splitlines()[-1].startswith("divprune_hf: error: Got divprune settings ['num_token'], expected")
    assert not list(tmp_path.glob("*/*_results.json"))


def test_a_failure_in_the_middle_ends_the_run(variant, few, tmp_path):
    folder = tmp_path / "few"
    shutil.copytree(few, folder)
    write_task(folder / "pocket.jsonl", folder / "tasks")
    last = sorted(folder.glob("*.png"))[-1]
    last.write_bytes(b"no picture")
    run = lmms_eval(f"pretrained={variant}", folder / "tasks", tmp_path / "out")
    assert run.returncode == 1 and last.name in run.stderr.splitlines()[-1]
    assert not list((tmp_path / "out").glob("*/*_results.json"))


def test_the_commands_of_the_page_run(few, variant, tmp_path, monkeypatch):
    """What docs/evaluation.md shows about a task of one's own; its first command has other tasks."""
    page = ROOT / "docs" / "evaluation.md"
    (block,) = blocks_of(page, "python")
    lines = [words for found in blocks_of(page, "console") for words in found.commands if words[0] == "lmms-eval"]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "llava-1.5-7b-divprune").symlink_to(variant)
    for path in few.iterdir():
        if path.is_file():
            shutil.copy(path, "questions.jsonl" if path.suffix == ".jsonl" else tmp_path)
    exec(compile(block.text, block.place, "exec"), {})
    run = subprocess.run([sys.executable, "-m", "lmms_eval", *lines[1][1:]], **started(tmp_path))
    assert run.returncode == 0 and "|mine |none" in run.stdout.replace("  ", " "), run.stdout[-2000:]
    stock_args = [words[words.index("--model_args") + 1] for words in lines]
    assert len(lines) == 2 and stock_args[0] == stock_args[1]


def asked(model, rows, split="test"):
    """Return answers to (context, generation arguments, visuals), asked in one call."""
    model.task_dict = {"some": {split: [visuals for _, _, visuals in rows]}}
    requests = [
        Instance(
            "generate_until",
            (context, kwargs, lambda visuals: visuals, index, "some", split),
            index,
            {"task": "some", "doc_id": index, "repeats": 1},
        )
        for index, (context, kwargs, _) in enumerate(rows)
    ]
    return model.generate_until(requests)


def alone(model, text, max_new_tokens, **media):
    """Return the answer to a prompt that the test wrote, asked alone."""
    inputs = model.processor(text=[text], **media, return_tensors="pt")
    output = model.model.generate(**inputs, max_new_tokens=max_new_tokens, do_sample=False)
    new = output[0, inputs["input_ids"].shape[1] :]
    return model.processor.tokenizer.decode(new, skip_special_tokens=True).strip(), inputs["input_ids"].shape[1]


@pytest.fixture(scope="module")
def tiny(make_checkpoint):
    return engine.DivPruneHf(pretrained=make_checkpoint().variant, device="cpu", batch_size="3")


def test_rows_of_every_kind_share_batches(tiny, photos):
    one, two = photos
    short, long = {"max_new_tokens": 3}, {"max_new_tokens": 9, "temperature": 0, "image_aspect_ratio": "original"}
    rows = [
        ("w1 w2", short, [one]),
        ("w3", long, []),  # no picture
        ("w4 w5 w6", short, [one, two]),  # its pictures stand first
        ("w7 <image> w8 <image> w9", long, [two, one]),  # as many placeholders as pictures: they stay
        ("w1 <image> w3", long, [one, two]),  # one too few: it is text
        ("w5 w6", short, [two.convert("L")]),
        ("w9 w9", long, [one]),
    ]
    texts = [
        "USER : <image> w1 w2 ASSISTANT :",
        "USER : w3 ASSISTANT :",
        "USER : <image> <image> w4 w5 w6 ASSISTANT :",
        "USER : w7 <image> w8 <image> w9 ASSISTANT :",
        "USER : <image> <image> w1 < image> w3 ASSISTANT :",
        "USER : <image> w5 w6 ASSISTANT :",
        "USER : <image> w9 w9 ASSISTANT :",
    ]
    answers = asked(tiny, rows)
    for (_, kwargs, visuals), text, answer in zip(rows, texts, answers):
        pictures = {"images": [picture.convert("RGB") for picture in visuals]} if visuals else {}
        expected, length = alone(tiny, text, kwargs["max_new_tokens"], **pictures)
        assert (answer.text, answer.token_counts.input_tokens) == (expected, length)
    assert len({answer.text for answer in answers}) > 4


def test_an_answer_ends_at_the_texts_of_its_task(tiny, photos):
    (whole,) = asked(tiny, [("w1 w2", {"max_new_tokens": 9}, photos[:1])])
    third, fifth = whole.text.split()[2], whole.text.split()[4]
    for until in (third, [fifth, third], [third, "", "\n\n"]):
        (answer,) = asked(tiny, [("w1 w2", {"max_new_tokens": 9, "until": until}, photos[:1])])
        assert answer.text == whole.text.split(third)[0].strip() and answer.text


def test_what_the_system_says_stands_in_front(make_checkpoint, photos, tmp_path):
    (tmp_path / "system.txt").write_text("w8 w7\n", encoding="utf-8")
    folder = make_checkpoint().variant
    for prompt in ("w8 w7", str(tmp_path / "system.txt")):
        model = engine.DivPruneHf(pretrained=folder, device="cpu", system_prompt=prompt)
        (answer,) = asked(model, [("w1", {"max_new_tokens": 8}, photos[:1])])
        expected, length = alone(model, "SYSTEM : w8 w7 USER : <image> w1 ASSISTANT :", 8, images=photos[:1])
        assert (answer.text, answer.token_counts.input_tokens) == (expected, length)


@pytest.mark.parametrize("kwargs", [{"do_sample": True, "temperature": 2.0}, {"temperature": 2.0}])
def test_a_task_may_sample(tiny, photos, kwargs):
    texts = set()
    for seed in range(4):
        torch.manual_seed(seed)
        texts.add(asked(tiny, [("w1 w2", {"max_new_tokens": 6, **kwargs}, photos[:1])])[0].text)
    assert len(texts) > 1


@pytest.mark.parametrize("kwargs", [{"do_sample": False, "temperature": 2.0}, {"temperature": 0, "top_p": 0.5}])
def test_greedy_tasks_do_not_sample(tiny, photos, kwargs, recwarn):
    texts = {asked(tiny, [("w1 w2", {"max_new_tokens": 6, **kwargs}, photos[:1])])[0].text for _ in range(3)}
    assert texts == {alone(tiny, "USER : <image> w1 w2 ASSISTANT :", 6, images=photos[:1])[0]}


def test_videos_and_frames(make_checkpoint, video_files, clips, photos):
    """Files of videos, also shorter ones, and pictures that are the frames of one."""
    from divprune_hf.inference.videos import read_video

    folder = make_checkpoint(family="llava_next_video").variant
    options = {"device": "cpu", "batch_size": 4, "frames_of_video": True, "video_num_tokens": 11}
    model = engine.DivPruneHf(pretrained=folder, num_frames=4, **options)
    frames = [Image.fromarray(frame) for frame in clips[1][:5]]
    kwargs = {"max_new_tokens": 6}
    rows = [("w1", kwargs, [str(video_files[0])]), ("w2 w3", kwargs, frames), ("w4", kwargs, photos[:1])]
    videos = [{"videos": [read_video(video_files[0], 4)]}, {"videos": [clips[1][:5]]}]
    media = [*videos, {"images": photos[:1]}]
    texts = ["USER : <video> w1 ASSISTANT :", "USER : <video> w2 w3 ASSISTANT :", "USER : <image> w4 ASSISTANT :"]
    for answer, text, given in zip(asked(model, rows), texts, media):
        assert (answer.text, answer.token_counts.input_tokens) == alone(model, text, 6, **given)
        if "videos" in given:
            assert answer.token_counts.input_tokens - len(text.split()) == 11  # BOS comes in, the placeholder goes


@pytest.mark.parametrize("visuals", [["clip.mp4"], [{"array": [0.0], "sampling_rate": 1}]])
def test_what_a_model_cannot_take_ends_the_run(tiny, visuals, video_files, capsys):
    given = [str(video_files[0])] if visuals == ["clip.mp4"] else visuals
    with pytest.raises(SystemExit, match="Got a"):
        asked(tiny, [("w1", {}, given)])


@pytest.mark.parametrize("method", ["loglikelihood", "generate_until_multi_round"])
def test_other_kinds_of_tasks_end_the_run(tiny, method, capsys):
    with pytest.raises(SystemExit, match="expected one of the output type generate_until"):
        getattr(tiny, method)([])


@pytest.mark.parametrize(("answer", "right"), [("Yes, there is.", 1.0), ("yes", 1.0), ("no", 0.0), ("yes it is", 0.0)])
def test_an_answer_counts_in_all_and_in_its_kind(answer, right):
    document = {"image": "a.png", "question": "Is there a bag?", "answers": ["yes"], "kind": "presence"}
    assert score(document, [answer]) == {"accuracy": right, "presence": right}


def test_the_task_is_plain_data(tasks):
    text = (tasks / "pocket.yaml").read_text(encoding="utf-8")
    plain = yaml.safe_load(text.replace("!function ", ""))
    assert Path(plain["dataset_kwargs"]["data_files"]["test"]).is_absolute()
    lines = (tasks / "pocket.jsonl").read_text(encoding="utf-8").splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    stored = [json.loads(line) for line in HELD_OUT.read_text(encoding="utf-8").splitlines()]
    assert (
        len(lines) == 200
        and first["question"] == stored[0]["question"]
        and last["question"] == stored[2985]["question"]
    )
    assert Path(last["image"]) == HELD_OUT.parent / stored[2985]["image"]
