"""vLLM, offline: every answer is transformers' own, and a setting without effect stops the start or the request."""

import subprocess
import sys
from types import SimpleNamespace

import pytest

from divprune_hf import convert_checkpoint
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.remote_code.settings import IMAGE_BUDGET, PER_CALL
from tests.helpers.doc_blocks import ROOT, blocks_of
from tests.helpers.tiny_models import save_tiny_base, save_tiny_base_for_pictures
from tests.helpers.vllm_processes import Reference, Request, environment, run_jobs


pytest.importorskip("vllm", reason="vLLM is tested in a stage of its own")

SCENES = tuple(str(pocket_llava() / "examples" / f"scene_{i:02}.png") for i in range(12))
BUDGETS = ({}, {"num_tokens": 1}, {"num_tokens": 40}, {"retention_ratio": 0.3}, {"retention_ratio": 1.0})
ASKED = "USER: {} ASSISTANT:".format
POCKET = [
    *(Request(ASKED("<image>\nIs there a bag?"), (SCENES[i],), BUDGETS[i % 5]) for i in range(10)),
    *(Request(ASKED("<image>\nWhat is in row 2 column 2?"), (SCENES[0],), budget) for budget in BUDGETS),
    *(
        Request(ASKED("<image>\n<image>\nHow many objects are there?"), (SCENES[1], SCENES[2]), budget)
        for budget in BUDGETS
    ),
    Request(ASKED("Is there a bag?")),
]
TINY = [
    *(Request("w1 <image> w2 w3", (scene,), budget) for scene in SCENES[:2] for budget in BUDGETS),
    *(Request("w4 <image> w5 <image>", SCENES[2:4], budget) for budget in BUDGETS),
    Request("w7 w8 w9"),
]
BAD = {
    "Got num_tokens=0, expected an integer": {"num_tokens": 0},
    "Got retention_ratio=1.5, expected a number": {"retention_ratio": 1.5},
    "Got num_token=5, which nothing": {"num_token": 5},
    "Got order='selection' in a call": {"order": "selection"},
    "Got video_num_tokens=5 for a model that takes no videos": {"video_num_tokens": 5},
}


def bad_requests():
    return [Request(POCKET[0].text, POCKET[0].pictures, budget) for budget in BAD.values()]


@pytest.fixture(scope="module")
def variants(tmp_path_factory):
    """The folders of variants, and of one with a setting that vLLM cannot follow."""
    folder = tmp_path_factory.mktemp("variants")
    bases = {name: folder / f"{name}_base" for name in ("next", "video")}
    for base in bases.values():
        base.mkdir()
    save_tiny_base(bases["next"], family="llava_next", head_dim=32)  # vLLM has no smaller heads on a CPU
    save_tiny_base_for_pictures(bases["video"], head_dim=32)
    made = {name: convert_checkpoint(base, folder / name, {"retention_ratio": 0.25}) for name, base in bases.items()}
    made["pocket"] = convert_checkpoint(pocket_llava(), folder / "pocket")
    for name, setting in (("original", {"positions": "original"}), ("deeper", {"layer": 2})):
        made[name] = convert_checkpoint(pocket_llava(), folder / name, setting)
    return {name: str(path) for name, path in made.items()}


@pytest.fixture(scope="module")
def references(variants):
    """transformers' answers, by variant."""
    return {name: Reference(variants[name]) for name in ("pocket", "next", "video")}


@pytest.fixture(scope="module")
def installed(variants, tmp_path_factory):
    """What engines answer beside the installed package, and what they print."""

    def job(name, requests=(), **rest):
        return {"arguments": {"model": variants[name], **rest.pop("arguments", {})}, "requests": requests, **rest}

    def refused(name="pocket", **arguments):
        return job(name, arguments=arguments)

    jobs = {
        "pocket": job("pocket", POCKET, rounds=2, bad=bad_requests()),
        "start": job("pocket", POCKET, arguments={"mm_processor_kwargs": {"num_tokens": 30}}),
        "next": job("next", TINY, rounds=2),
        "video": job("video", TINY),
        "two processes": job(
            "pocket",
            POCKET,
            arguments={"tensor_parallel_size": 2},
            environment={"VLLM_CPU_OMP_THREADS_BIND": "0|1"},  # one machine may be one NUMA node
        ),
        "positions": refused("original"),
        "layer": refused("deeper"),
        "override": refused(hf_overrides={"divprune_config": {"num_tokens": 13}}),
        "override same form": refused(hf_overrides={"divprune_config": {"retention_ratio": 0.3}}),
        "override unknown": refused(hf_overrides={"divprune_config": {"num_token": 13}}),
        "override by function": {**refused(), "overrides_by_function": True},
        "budget": refused(mm_processor_kwargs={"num_tokens": 0}),
        "nested budget": refused(mm_processor_kwargs={"images_kwargs": {"num_tokens": 0}}),
        "two budgets": refused(mm_processor_kwargs={"num_tokens": 3, "retention_ratio": 0.2}),
        "name": refused(mm_processor_kwargs={"num_token": 3}),
        "order": refused(mm_processor_kwargs={"order": "selection"}),
        "config": refused(mm_processor_kwargs={"divprune_config": {"num_tokens": 3}}),
    }
    return run_jobs(jobs, tmp_path_factory.mktemp("installed"))


def tokens_of(answers):
    return [{name: answer[name] for name in ("prompt", "tokens")} for answer in answers]


def expected(reference, requests, start=None):
    return [reference.answer(Request(r.text, r.pictures, r.budget or start or {})) for r in requests]


@pytest.mark.parametrize(
    ("job", "variant", "requests", "start"),
    [
        ("pocket", "pocket", POCKET, None),
        ("start", "pocket", POCKET, {"num_tokens": 30}),
        ("next", "next", TINY, None),
        ("video", "video", TINY, None),
        ("two processes", "pocket", POCKET, None),
    ],
    ids=["pocket-llava", "a budget at the start", "LLaVA-NeXT", "LLaVA-NeXT-Video", "tensor parallel"],
)
def test_answers_are_those_of_transformers(installed, references, job, variant, requests, start):
    (answers, _), reference = installed, expected(references[variant], requests, start)
    assert "error" not in answers[job], answers[job]
    for answers_of_round in answers[job]["rounds"]:
        assert tokens_of(answers_of_round) == reference
    # Prompts and answers depend on the budget, so that another one than the asked one would be seen.
    assert len({answer["prompt"] for answer in reference}) >= len(BUDGETS)
    assert len({tuple(answer["tokens"]) for answer in reference}) >= 3


def test_a_second_round_comes_from_the_cache_of_prefixes(installed):
    for job in ("pocket", "next"):
        first, second = installed[0][job]["rounds"]
        assert sum(answer["cached"] for answer in second) > sum(answer["cached"] for answer in first)
        assert all(answer["cached"] > 0 for answer in second if answer["prompt"] > 64)


def test_a_bad_request_is_refused_with_our_sentence_and_the_next_one_answered(installed, references):
    good = references["pocket"].answer(POCKET[0])
    refused = installed[0]["pocket"]["refused"]
    assert len(refused) == len(BAD)
    for sentence, answer in zip(BAD, refused):
        assert sentence in answer["error"][0], answer
        assert tokens_of([answer["next"]]) == [good]


@pytest.mark.parametrize(
    ("job", "sentence"),
    {
        "positions": "Got positions='original' in vLLM, which makes position ids itself",
        "layer": "Got layer=2 in vLLM, whose cache has the same length in all layers",
        "override": r"Got num_tokens=13 for the config of a model alone.*mm_processor_kwargs=\{'num_tokens': 13\}",
        "override same form": "Got retention_ratio=0.3 for the config of a model alone",
        "override unknown": "Got divprune setting 'num_token', expected one of",
        "override by function": "Got the budget .*'num_tokens': 9.* Give the budget in mm_processor_kwargs",
        "budget": "Got num_tokens=0, expected an integer of at least 1",
        "nested budget": "Got num_tokens=0, expected an integer of at least 1",
        "two budgets": "Got both .*num_tokens=3.*expected one budget",
        "name": r"Got num_token=3, which nothing in this processor takes. Did you mean num_tokens\?",
        "order": "Got order='selection' in a call of the processor",
        "config": "Got divprune_config=.* in a call of the processor",
    }.items(),
)
def test_a_start_with_a_setting_without_effect_fails_and_says_why(installed, job, sentence):
    with pytest.raises(AssertionError, match=sentence):
        raise AssertionError("\n".join(installed[0][job]["error"]))


@pytest.fixture(scope="module")
def folder_alone(variants, tmp_path_factory):
    """What engines answer without the plugin: the folder's own code runs, and nothing else of ours."""
    trusted = {"trust_remote_code": True}
    pocket = {"model": variants["pocket"], **trusted}
    other_form = Request(POCKET[0].text, POCKET[0].pictures, {"retention_ratio": 0.3})
    jobs = {
        "pocket": {"arguments": pocket, "requests": POCKET, "bad": bad_requests()},
        "start": {
            "arguments": {**pocket, "mm_processor_kwargs": {"num_tokens": 30}},
            "requests": POCKET[:1],
            "bad": [other_form],
        },
        "not trusted": {"arguments": {"model": variants["pocket"]}, "requests": []},
        "positions": {"arguments": {"model": variants["original"], **trusted}, "requests": []},
        "layer": {"arguments": {"model": variants["deeper"], **trusted}, "requests": []},
        "override": {"arguments": {**pocket, "hf_overrides": {"divprune_config": {"num_tokens": 13}}}, "requests": []},
        "name": {"arguments": {**pocket, "mm_processor_kwargs": {"num_token": 3}}, "requests": []},
    }
    return run_jobs(jobs, tmp_path_factory.mktemp("alone"), VLLM_PLUGINS="")


def test_the_folder_alone_answers_as_transformers_does(folder_alone, references):
    (answers,) = folder_alone[0]["pocket"]["rounds"]
    assert tokens_of(answers) == expected(references["pocket"], POCKET)


def test_the_folder_alone_refuses_bad_requests_and_gives_our_sentence_as_the_cause(folder_alone, references):
    answers, good = folder_alone[0], references["pocket"].answer(POCKET[0])
    for sentence, answer in zip(BAD, answers["pocket"]["refused"], strict=True):
        assert any(sentence in line for line in answer["error"]) and tokens_of([answer["next"]]) == [good]
    (both,) = answers["start"]["refused"]
    assert any("Got both retention_ratio=0.3 and num_tokens=30" in line for line in both["error"])


def test_the_folder_alone_does_not_start_with_what_would_have_no_effect(folder_alone):
    answers, printed = folder_alone
    assert "trust_remote_code" in "\n".join(answers["not trusted"]["error"])
    assert "Got num_tokens=13 for the config of a model alone" in "\n".join(answers["override"]["error"])
    assert "Got num_token=3, which nothing in this processor takes" in "\n".join(answers["name"]["error"])
    # The process of the engine prints why; what it hands over is vLLM's own text.
    assert answers["positions"]["error"] and "Got positions='original' in vLLM" in printed
    assert answers["layer"]["error"] and "Got layer=2 in vLLM" in printed


def test_the_offline_program_of_the_docs_runs(variants, references, tmp_path):
    (block,) = (block for block in blocks_of(ROOT / "docs" / "serving.md", "python") if "vllm" in block.text)
    small = "dtype='float32', enforce_eager=True, gpu_memory_utilization=0.2, "
    (tmp_path / "offline.py").write_text(block.text.replace("limit_mm_per_prompt", f"{small}limit_mm_per_prompt"))
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "llava-1.5-7b-divprune").symlink_to(variants["pocket"])
    (tmp_path / "photo.png").symlink_to(SCENES[0])
    result = subprocess.run(
        [sys.executable, "offline.py"],
        cwd=tmp_path,
        env=environment(tmp_path),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert result.returncode == 0, result.stderr[-4000:]
    question = Request(ASKED("<image>\nIs there a bag?"), (SCENES[0],), {"num_tokens": 64})
    tokens = references["pocket"].answer(question)["tokens"]
    expected = references["pocket"].processor.decode(tokens, skip_special_tokens=True)
    assert expected.strip() in [line.strip() for line in result.stdout.splitlines()]


def test_a_new_budget_loads_no_processor(references):
    # vLLM loads a processor for each new value of an argument that it does not find among those of calls.
    from vllm.transformers_utils.processor import get_processor_kwargs_keys, get_processor_kwargs_type

    for name, budgets in (("pocket", IMAGE_BUDGET), ("next", IMAGE_BUDGET), ("video", PER_CALL)):
        of_calls = get_processor_kwargs_keys(get_processor_kwargs_type(references[name].processor))
        assert set(budgets) <= set(of_calls)


def test_the_counts_of_pictures_and_of_videos_go_to_the_model_from_one_prompt(references):
    from divprune_hf.engines.vllm_model import BudgetProcessor

    processor = object.__new__(BudgetProcessor)  # an engine makes it whole
    processor.info = SimpleNamespace(get_hf_processor=lambda: references["video"].processor)
    keys = ["pixel_values", "image_sizes", "num_image_tokens_kept", "num_video_tokens_kept"]
    owned = processor._partition_keys_by_modality(keys, ["image", "video"])
    assert owned == {"image": keys[:3], "video": keys[3:]}
