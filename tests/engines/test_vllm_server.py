"""vLLM's OpenAI server: answers are transformers' own under concurrency, and bad input is refused and harms nothing."""

import shlex
import sys
from concurrent.futures import ThreadPoolExecutor

import pytest

from divprune_hf import convert_checkpoint
from divprune_hf.common.pocket_llava import pocket_llava
from tests.helpers.doc_blocks import ROOT, blocks_of
from tests.helpers.vllm_bad_input import BODIES, budgets, inputs
from tests.helpers.vllm_processes import Reference, Request, picture_part, running_server


pytest.importorskip("vllm", reason="vLLM is tested in a stage of its own")

SCENES = tuple(str(pocket_llava() / "examples" / f"scene_{i:02}.png") for i in range(12))
QUESTIONS = ("Is there a bag?", "What is in row 2 column 2?", "How many objects are there?")
BUDGETS = (
    {},
    {"num_tokens": 1},
    {"num_tokens": 13},
    {"num_tokens": 64},
    {"retention_ratio": 0.3},
    {"retention_ratio": 1.0},
    {"images_kwargs": {"num_tokens": 40}},
)
MIXED = [
    *(Request(QUESTIONS[i % 3], (SCENES[i % 12],), BUDGETS[i % 7]) for i in range(70)),
    *(Request(QUESTIONS[i % 3], SCENES[i : i + 2], BUDGETS[i % 7]) for i in range(9)),
    *(Request(QUESTIONS[0], SCENES[i : i + 3], BUDGETS[i % 5]) for i in range(5)),
    *(Request(QUESTIONS[i], (SCENES[4],), budget) for i in range(2) for budget in BUDGETS),
    *(Request(question) for question in QUESTIONS[:2]),
]
START = {"num_tokens": 64}  # of the command in docs/serving.md
PROBE = Request(QUESTIONS[0], (SCENES[0],), {"num_tokens": 21})


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    return convert_checkpoint(pocket_llava(), tmp_path_factory.mktemp("served") / "variant")


@pytest.fixture(scope="module")
def server(variant, tmp_path_factory):
    """A server, started by the command of docs/serving.md with what a small CPU needs besides."""
    (command,) = (
        words
        for block in blocks_of(ROOT / "docs" / "serving.md", "console")
        for words in block.commands
        if "vllm.entrypoints.openai.api_server" in words
    )
    words = [{"python": sys.executable, "org/llava-1.5-7b-divprune": str(variant)}.get(word, word) for word in command]
    small = "--dtype float32 --enforce-eager --gpu-memory-utilization 0.2"
    with running_server([*words, *shlex.split(small)], tmp_path_factory.mktemp("server")) as running:
        yield running


@pytest.fixture(scope="module")
def expect(variant):
    """A function that returns what transformers answers to a request."""
    reference = Reference(variant)
    return lambda request: reference.answer(
        Request(request.text, request.pictures, request.budget or START), as_chat=True
    )


@pytest.fixture(scope="module")
def probe(server, expect):
    """A function that returns whether the server answers as transformers does."""
    expected = expect(PROBE)
    return lambda: server.answer(PROBE) == expected


def test_a_hundred_mixed_requests_fifty_at_a_time_equal_transformers(server, expect):
    expected = [expect(request) for request in MIXED]
    assert len(MIXED) == 100
    with ThreadPoolExecutor(50) as clients:
        for _ in range(2):  # the second time pictures and prefixes come from vLLM's caches
            assert list(clients.map(server.answer, MIXED)) == expected
    one_picture = [answer for request, answer in zip(MIXED, expected) if request.pictures == (SCENES[4],)]
    assert len({answer["prompt"] for answer in one_picture}) == len(BUDGETS) - 1  # 64 is also the start's
    assert len({tuple(answer["tokens"]) for answer in expected}) >= 5


def test_a_budget_of_the_other_form_than_the_starts_wins(server, expect):
    by_ratio = Request(QUESTIONS[1], (SCENES[3],), {"retention_ratio": 0.5})
    assert server.answer(by_ratio) == expect(by_ratio)
    of_start = server.answer(Request(by_ratio.text, by_ratio.pictures))
    assert server.answer(by_ratio)["prompt"] - of_start["prompt"] == 256 // 2 - START["num_tokens"]


def test_the_request_of_the_docs_is_answered(server, expect):
    (block,) = blocks_of(ROOT / "docs" / "serving.md", "json")
    picture = picture_part(SCENES[0])["image_url"]["url"].split(",")[1]
    status, answer = server.post("/v1/chat/completions", block.text.replace("PICTURE", picture))
    assert status == 200, answer
    expected = expect(Request(QUESTIONS[0], (SCENES[0],), {"retention_ratio": 0.25}))
    assert answer["usage"]["prompt_tokens"] == expected["prompt"]
    assert answer["choices"][0]["message"]["content"].strip() in ("yes", "no")


def test_without_special_tokens_a_chat_prompt_is_one_shorter(server, expect):
    _, answer = server.chat(PROBE, add_special_tokens=False)
    assert answer["usage"]["prompt_tokens"] == expect(PROBE)["prompt"] - 1


def test_a_request_without_pictures_is_answered_whatever_its_budget(server, expect):
    without = Request(QUESTIONS[0])
    assert server.answer(Request(without.text, budget={"num_tokens": 0})) == expect(without)


@pytest.mark.parametrize(("budget", "sentence"), [pytest.param(*rest, id=name) for name, *rest in budgets()])
def test_a_bad_budget_gets_a_4xx_with_our_sentence(server, probe, budget, sentence):
    status, answer = server.chat(Request(QUESTIONS[0], (SCENES[0],)), mm_processor_kwargs=budget)
    assert (400 <= status < 500, sentence in str(answer["error"]["message"])) == (True, True), answer
    assert probe()


@pytest.mark.parametrize(
    ("content", "sentence"),
    [pytest.param(*rest, id=name) for name, *rest in inputs(SCENES[0], "data:video/mp4;base64,AAAA")],
)
def test_bad_input_is_refused_and_harms_nothing(server, probe, content, sentence):
    status, answer = server.post(
        "/v1/chat/completions", {"messages": [{"role": "user", "content": content}], "max_tokens": 6}
    )
    # vLLM answers a local file with 500.
    assert 400 <= status <= 500 and sentence in str(answer), answer
    assert probe()


@pytest.mark.parametrize("body", BODIES.values(), ids=BODIES)
def test_a_bad_body_gets_a_4xx_and_harms_nothing(server, probe, body):
    status, answer = server.post("/v1/chat/completions", body)
    assert 400 <= status < 500, answer
    assert probe()
