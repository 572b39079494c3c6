"""Baselines whose tokens leave inside the language model: against a loop by hand, and what their budgets mean."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from divprune_hf.cards.flops import layer_flops
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.baselines import BASELINES
from divprune_hf.evaluation.baselines.fastv import attention_of_last
from divprune_hf.evaluation.baselines.fitprune import product_of_attentions, share_lost
from divprune_hf.evaluation.baselines.in_layers import Leaving, leaving
from divprune_hf.evaluation.baselines.schedules import Schedule
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.loading import load_pruned
from tests.helpers.commands import run_command


QUESTIONS = Path(__file__).parents[1] / "data" / "pocket_heldout" / "questions.jsonl"


@torch.no_grad()
def logits_by_hand(stock, inputs, shares, ranking):
    """Logits of one prompt's last token, and the number of tokens in the last layer: tokens are gone, not hidden.

    Positions stay. `ranking(attention, visual, text)` takes the attention of a layer, (heads, n, n), and which of its
    tokens are visual and text; it returns a score for each visual one.
    """
    model = stock.model.language_model
    embeds = stock.get_input_embeddings()(inputs["input_ids"]).clone()
    is_image = inputs["input_ids"][0] == stock.config.image_token_id
    features = stock.model.get_image_features(inputs["pixel_values"])
    embeds[0, is_image] = getattr(features, "pooler_output", features)[0]
    hidden, slots, num_available = embeds, torch.arange(embeds.shape[1]), int(is_image.sum())
    for index, layer in enumerate(model.layers):
        mask = torch.full((len(slots), len(slots)), torch.finfo(torch.float32).min).triu(1)[None, None]
        rotary = model.rotary_emb(hidden, slots[None])
        seen = []
        hook = layer.self_attn.register_forward_hook(lambda module, args, outputs, seen=seen: seen.append(outputs[1]))
        hidden = layer(hidden, attention_mask=mask, position_embeddings=rotary, position_ids=slots[None])
        hidden = hidden[0] if isinstance(hidden, tuple) else hidden
        hook.remove()
        if index + 1 < len(shares):
            visual = is_image[slots]
            num_kept = round(shares[index + 1] * num_available)
            scores = ranking(seen[0][0], visual, ~visual)
            kept = set(slots[visual][scores.argsort(descending=True, stable=True)[:num_kept]].tolist())
            stays = torch.tensor([slot in kept or not is_image[slot] for slot in slots.tolist()])
            hidden, slots = hidden[:, stays], slots[stays]
    return stock.lm_head(model.norm(hidden))[0, -1], len(slots)


PLANS = {
    "fastv": Leaving([1, 1, 0.4, 0.4, 0.4, 0.4], attention_of_last),
    "vtw": Leaving([1, 1, 1, 0, 0, 0], None),
    "fitprune": Leaving([1, 0.8, 0.8, 0.31, 0.1, 0.05], product_of_attentions),
}
RANKINGS = {
    "fastv": lambda attention, visual, text: attention[:, -1, visual].mean(0),
    "vtw": lambda attention, visual, text: visual[visual],
    "fitprune": lambda attention, visual, text: (
        attention.mean(0)[visual][:, visual].mean(0) * attention.mean(0)[text][:, visual].mean(0)
    ),
}


@pytest.mark.parametrize("name", PLANS)
def test_tokens_that_leave_are_gone_as_in_a_decoder_loop_by_hand(name):
    """A batch with padding, its prompt, and what is generated behind it."""
    model, processor = load_pruned(pocket_llava(), retention_ratio=1.0, device="cpu")
    stock = LlavaForConditionalGeneration.from_pretrained(pocket_llava(), attn_implementation="eager").eval()
    pictures = [Image.open(pocket_llava() / "examples" / f"scene_{i:02}.png") for i in (0, 1)]
    prompts = [chat_prompt(processor, "image", text) for text in ("How many objects are there?", "Is there a bag?")]
    inputs = processor(images=pictures, text=prompts, padding=True, padding_side="left", return_tensors="pt")
    is_visual = inputs["input_ids"] == model.config.image_token_id
    is_text = inputs["attention_mask"].bool() & ~is_visual
    assert (inputs["attention_mask"] == 0).any()
    implementation = model.config.get_text_config()._attn_implementation
    with torch.no_grad():
        whole = model(**inputs).logits[:, -1]
        with leaving(model.model.language_model, is_visual, is_text, PLANS[name]):
            logits = model(**inputs).logits[:, -1]
            output = model.generate(
                **inputs, max_new_tokens=3, min_new_tokens=3, do_sample=False, output_logits=True,
                return_dict_in_generate=True,
            )  # fmt: skip
        assert torch.equal(model(**inputs).logits[:, -1], whole)  # nothing is left behind
    assert model.config.get_text_config()._attn_implementation == implementation
    for row in (0, 1):
        alone = AutoProcessor.from_pretrained(pocket_llava())(
            images=pictures[row], text=prompts[row], return_tensors="pt"
        )
        wanted, num_left = logits_by_hand(stock, alone, PLANS[name].shares, RANKINGS[name])
        assert num_left == int(is_text[row].sum()) + round(256 * PLANS[name].shares[-1])
        torch.testing.assert_close(logits[row], wanted, atol=2e-4, rtol=1e-4)
        torch.testing.assert_close(output.logits[0][row], wanted, atol=2e-4, rtol=1e-4)
        assert (whole[row] - wanted).abs().max() > 1e-2
        for step in (1, 2) if name == "vtw" else ():  # whose choice does not depend on the last token
            new = output.sequences[row, is_visual.shape[1] : is_visual.shape[1] + step]
            longer = {**alone, "input_ids": torch.cat((alone["input_ids"], new[None]), 1)}
            wanted, _ = logits_by_hand(stock, longer, PLANS[name].shares, RANKINGS[name])
            torch.testing.assert_close(output.logits[step][row], wanted, atol=2e-4, rtol=1e-4)


def schedule(budget, layer=0, lost=None):
    """A schedule of 6 layers and 10 tokens whose cost is the mean over layers."""
    return Schedule(6, 10, layer, lambda shares: sum(shares) / len(shares), budget, lambda: lost)


def test_plans_take_what_a_budget_allows():
    assert BASELINES["fastv"].plan(schedule(0.6)).shares == [1, 1, 0.4, 0.4, 0.4, 0.4]
    assert BASELINES["fastv"].plan(schedule(0.59)).shares == [1, 1, 0.3, 0.3, 0.3, 0.3]
    assert BASELINES["fastv"].plan(schedule(0.5, layer=1)).shares == [1, *[0.4] * 5]
    assert BASELINES["vtw"].plan(schedule(0.6)).shares == [1, 1, 1, 0, 0, 0]
    assert BASELINES["fastv"].plan(schedule(1.0)).shares == BASELINES["vtw"].plan(schedule(1.0)).shares == [1] * 6
    with pytest.raises(ValueError, match="Got a budget of 33.0%, but fastv from layer 2 on costs 40.0% at the least"):
        BASELINES["fastv"].plan(schedule(0.33))
    with pytest.raises(ValueError, match="vtw costs 16.7% at the least"):
        BASELINES["vtw"].plan(schedule(0.1))


def test_fitprune_takes_tokens_where_attention_is_lost_least():
    # Of four tokens the lowest one, by the product, holds 0.1 and 0.2 of the two attentions; the two lowest 0.3 each.
    lost = share_lost(torch.tensor([0.1, 0.4, 0.2, 0.3]), torch.tensor([0.2, 0.4, 0.1, 0.3]))
    assert lost[[0, 249, 250, 500, 750, 1000]].tolist() == pytest.approx([0, 0, 0.2, 0.3, 0.6, 1.0])
    even = torch.linspace(0, 1, 1001).double()
    lost = torch.stack([even, even, even**4, even**4, even, even])
    shares = BASELINES["fitprune"].plan(schedule(0.5, lost=lost)).shares
    assert shares[0] == 1 and list(shares) == sorted(shares, reverse=True)
    assert shares[1] == shares[2] > shares[3] == shares[4] == shares[5]
    alpha = 1 - shares[1]
    assert 1 - shares[3] == pytest.approx(alpha**0.25, abs=2e-3) and sum(shares) / 6 == pytest.approx(0.5, abs=2e-3)
    with pytest.raises(ValueError, match="fitprune costs 16.7% at the least"):
        BASELINES["fitprune"].plan(schedule(0.1, lost=lost))


def few_questions(folder, number):
    """The first held-out questions, with their pictures."""
    lines = QUESTIONS.read_text().splitlines()[:number]
    for line in lines:
        image = json.loads(line)["image"]
        (folder / image).parent.mkdir(parents=True, exist_ok=True)
        (folder / image).write_bytes((QUESTIONS.parent / image).read_bytes())
    (folder / "few.jsonl").write_text("\n".join(lines))
    return folder / "few.jsonl"


def test_a_run_compares_methods_at_matched_flops(tmp_path):
    pytest.importorskip("matplotlib", reason="runs draw")
    questions = few_questions(tmp_path, 6)
    arguments = ["--budgets", "60%", "1.0", "--layers", "0", "1", "--device", "cpu", "--out", tmp_path / "out"]
    arguments += ["--selectors", "max_min", "fastv", "vtw", "fitprune"]
    result = run_command("evaluate", pocket_llava(), questions, *arguments)
    assert result.returncode == 0, result.stderr
    means = json.loads((tmp_path / "out" / "results.json").read_text())["means"]
    methods = {row["method"]: row for row in means if row["budget"] == "60%" and row["kind"] == "presence"}
    assert list(methods) == ["max_min", "max_min layer 1", "fastv", "fastv layer 1", "vtw", "fitprune"]
    costs = {name: row["flop_ratio"] for name, row in methods.items()}
    assert all(0.5 < costs[name] < 0.62 for name in costs if name != "vtw") and 0.35 < costs["vtw"] < 0.61
    # By hand: three of six layers see the picture, whichever the prompt's length.
    record = json.loads((tmp_path / "out" / "answers" / "vtw-60%-None.json").read_text())
    assert record["shares_by_layer"].count(1.0) == sum(record["shares_by_layer"])
    num_layers, text = int(sum(record["shares_by_layer"])), record["text_tokens"]
    chosen = [index for index, line in enumerate(questions.read_text().splitlines()) if "presence" in line]
    width, intermediate = (
        128,
        json.loads((pocket_llava() / "config.json").read_text())["text_config"]["intermediate_size"],
    )
    full, without = (sum(layer_flops(n + text[i], width, intermediate) for i in chosen) for n in (256, 0))
    assert costs["vtw"] == pytest.approx((num_layers * full + (6 - num_layers) * without) / (6 * full))
    assert record["kept_tokens"] == [256 * num_layers / 6] * 6
    unpruned = {row["method"]: row["accuracy"] for row in means if row["budget"] == 1.0}
    assert len(set(unpruned.values())) == 1
    if abs(costs["vtw"] - costs["max_min"]) > 0.01:
        assert f" at {costs['vtw']:.1%} of the FLOPs" in result.stdout


@pytest.mark.parametrize("name", ["fastv", "vtw", "fitprune"])
def test_a_number_of_tokens_is_refused(tmp_path, name):
    pytest.importorskip("matplotlib", reason="runs draw")
    arguments = ["--budgets", "30", "--selectors", name, "--device", "cpu", "--out", tmp_path / "out"]
    result = run_command("evaluate", pocket_llava(), few_questions(tmp_path, 2), *arguments)
    assert result.returncode == 2 and f"Got 30 tokens for {name}" in result.stderr
