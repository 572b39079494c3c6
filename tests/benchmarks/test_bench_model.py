"""`divprune-hf bench MODEL`: the stock model beside ours, the stages of an answer, and what bounds the gain."""

import json

import pytest
import torch

from divprune_hf import convert_checkpoint
from divprune_hf.benchmarks.bench_model import bound_of, spread
from divprune_hf.benchmarks.model_pair import pair_of_model
from divprune_hf.benchmarks.model_stages import ANSWER, DECODE, FIRST_TOKEN, PREFILL, STAGES, TOWER, Cell, StageTimes
from divprune_hf.benchmarks.models import build_inputs
from divprune_hf.benchmarks.shapes import NUM_TEXT_TOKENS
from divprune_hf.cards.flops import prompt_flops
from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.common.pocket_llava import pocket_llava
from tests.helpers.commands import run_command
from tests.helpers.tiny_models import FAMILY_CLASSES


CPU = torch.device("cpu")


def bench(*arguments):
    result = run_command("bench", *arguments)
    assert result.returncode == 0, result.stderr[-3000:]
    return result.stdout


def test_a_model_is_measured_at_all_tokens_and_at_budgets_beside_the_stock_model(tmp_path):
    pytest.importorskip("matplotlib", reason="--png draws")
    arguments = [
        "--batches",
        "1",
        "2",
        "--budgets",
        "0.5",
        "0.1",
        "--new-tokens",
        "3",
        "--repeats",
        "2",
        "--threads",
        "1",
    ]
    arguments += ["--device", "cpu", "--json", tmp_path / "rows.json", "--png", tmp_path / "bars.png"]
    printed = bench(pocket_llava(), *arguments)
    assert (tmp_path / "bars.png").stat().st_size > 1000
    run = json.loads((tmp_path / "rows.json").read_text())
    rows = run["rows"]
    cells = [("stock", 1.0, 256), ("divprune", 1.0, 256), ("divprune", 0.5, 128), ("divprune", 0.1, 26)]
    assert [(row["batch"], row["path"], row["budget"], row["num_kept"]) for row in rows] == [
        (batch, *cell) for batch in (1, 2) for cell in cells
    ]
    for row in rows:
        times = row["milliseconds"]
        assert list(times) == [*STAGES, FIRST_TOKEN, DECODE, ANSWER]
        assert all(len(times[name]["values"]) == 2 for name in times)
        for number in range(2):
            stages = [times[name]["values"][number] for name in STAGES]
            assert sum(stages) == pytest.approx(times[FIRST_TOKEN]["values"][number])
            assert times[ANSWER]["values"][number] > times[FIRST_TOKEN]["values"][number] > max(stages)
        is_pruned = row["budget"] < 1
        assert (times["selection"]["median"] > 0) == (row["path"] == "divprune")
        assert (row["flop_model_ratio"] > 1) == is_pruned
        stock = next(other for other in rows if other["batch"] == row["batch"])["milliseconds"]
        expected = stock[FIRST_TOKEN]["median"] / times[FIRST_TOKEN]["median"]
        assert row["stock_over_this"][FIRST_TOKEN]["median"] == pytest.approx(expected)
    config = pair_of_model(str(pocket_llava()), CPU).stock.config.text_config
    full, pruned = (prompt_flops(config, NUM_TEXT_TOKENS, 256, kept) for kept in (256, 26))
    assert rows[3]["flop_model_ratio"] == pytest.approx(full / pruned)
    assert printed.count("\n|") == 1 + len(rows)
    sentences = printed.strip().splitlines()[-2:]
    assert sentences == [bound["sentence"] for bound in run["bounds"]]
    for sentence, bound, row in zip(sentences, run["bounds"], (rows[3], rows[7])):
        medians = {name: row["milliseconds"][name]["median"] for name in STAGES}
        assert bound["stage"] == max(medians, key=medians.get)
        assert bound["stage"].replace("all else", "rest") in sentence and "26 of 256 tokens kept" in sentence


def test_a_variant_that_prunes_at_a_deeper_layer_is_measured_with_its_budget(tmp_path):
    variant = convert_checkpoint(pocket_llava(), tmp_path / "variant", {"layer": 2})
    times = StageTimes(pair_of_model(str(variant), CPU), new_tokens=2, device=CPU)
    inputs = times.inputs_of(Cell("divprune", 0.1, batch=2))
    assert (
        inputs["num_image_tokens_kept"].tolist() == [26, 26] and inputs["input_ids"].shape[1] == 256 + NUM_TEXT_TOKENS
    )
    arguments = ["--batches", "1", "--budgets", "0.1", "--new-tokens", "2", "--repeats", "1", "--device", "cpu"]
    bench(variant, *arguments, "--json", tmp_path / "rows.json")
    rows = json.loads((tmp_path / "rows.json").read_text())["rows"]
    assert [row["num_kept"] for row in rows] == [256, 256, 26]
    assert 1 < rows[2]["flop_model_ratio"] < 3  # two of six layers see all tokens


def test_a_shape_has_random_weights(tmp_path):
    printed = bench("--shape", "pocket", "--batches", "1", "--new-tokens", "1", "--repeats", "1", "--device", "cpu")
    assert printed.count("\n|") == 1 + 5 and "decoding is" not in printed


@pytest.mark.parametrize("family", FAMILY_CLASSES)
@pytest.mark.parametrize("kind", ["base", "variant"])
def test_the_stock_model_is_transformers_own_with_the_models_weights(make_checkpoint, family, kind):
    if FAMILIES[family].takes_videos:
        pytest.importorskip("torchvision", reason="the processor of videos needs it")
    made = make_checkpoint(family=family)
    pair = pair_of_model(str(getattr(made, kind)), CPU)
    _, stock_class = FAMILY_CLASSES[family][:2]
    assert type(pair.stock) is stock_class
    expected = stock_class.from_pretrained(made.base, dtype=pair.stock.dtype).eval()
    inputs = build_inputs(pair.shape, expected.config, 2, None, CPU, expected.dtype)
    with torch.no_grad():
        assert torch.equal(pair.stock(**inputs).logits, expected(**inputs).logits)
    weights = dict(pair.ours.named_parameters())
    assert all(weight.data_ptr() == weights[name].data_ptr() for name, weight in pair.stock.named_parameters())


def row(kept, **milliseconds):
    times = {**dict.fromkeys(STAGES, 0.0), DECODE: 1.0, **milliseconds}
    times[FIRST_TOKEN] = sum(times[stage] for stage in STAGES)
    times[ANSWER] = times[FIRST_TOKEN] + 30
    return {
        "batch": 4,
        "budget": kept / 100,
        "num_kept": kept,
        "num_available": 100,
        "milliseconds": {name: spread([value]) for name, value in times.items()},
        "stock_over_this": {FIRST_TOKEN: {"median": 100 / times[FIRST_TOKEN]}},
    }


def test_the_sentence_names_the_largest_stage_of_the_smallest_budget():
    rows = [
        row(100, **{TOWER: 20.0, PREFILL: 80.0}),
        row(10, **{TOWER: 20.0, PREFILL: 5.0}),
        row(50, **{PREFILL: 50.0}),
    ]
    bound = bound_of(rows)
    assert (bound["stage"], bound["share"], bound["at_most"]) == (TOWER, 0.8, 5.0)
    assert "the vision tower takes 80% of the pruned prefill and sees the whole picture" in bound["sentence"]
    assert "4.0 times as fast" in bound["sentence"] and "at most 5.0 times" in bound["sentence"]
    assert "decoding is 55% of the whole answer" in bound["sentence"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["model"], "Got neither of MODEL and --shape"),
        ([".", "--shape", "pocket"], "Got both of MODEL and --shape"),
        (["--shape", "pocket", "--budgets", "1.0"], "expected a share above 0 and below 1"),
        (["--shape", "pocket", "--concurrency", "4"], "Got --concurrency with --engine transformers"),
        (["--shape", "pocket", "--engine", "vllm", "--batches", "4"], "Got --batches with --engine vllm"),
        (["--shape", "pocket", "--", "--dtype", "float32"], "Got '--dtype float32' behind --"),
        (["--shape", "pocket", "--json", "nowhere/rows.json"], "its folder does not exist"),
        (["."], "config.json"),
    ],
    ids=" ".join,
)
def test_impossible_options_are_refused_in_one_line(tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    result = run_command("bench", *arguments)
    assert result.returncode == 2 and message in result.stderr and result.stderr.count("\n") == 1
    assert result.stdout == "" and not list(tmp_path.iterdir())
