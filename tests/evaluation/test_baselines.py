"""Baselines that make new features: small cases worked out by hand, the stock model fed by hand, and whole runs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from divprune_hf.cli import evaluation_commands
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.answers import generate_answers
from divprune_hf.evaluation.baselines import BASELINES
from divprune_hf.evaluation.baselines.merge import merged
from divprune_hf.evaluation.baselines.pool import pooled
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.loading import load_pruned
from tests.helpers.commands import run_command


QUESTIONS = Path(__file__).parents[1] / "data" / "pocket_heldout" / "questions.jsonl"


def test_the_names_of_the_command_are_those_of_the_table():
    assert tuple(BASELINES) == evaluation_commands.BASELINES


def test_pooling_averages_the_cells_of_a_smaller_grid():
    features = torch.arange(16.0).reshape(4, 4).reshape(16, 1) * torch.tensor([1.0, -2.0])
    expected = torch.tensor([[2.5], [4.5], [10.5], [12.5]]) * torch.tensor([1.0, -2.0])
    for num_tokens in (4, 5, 8):  # the largest grid that fits is 2 x 2
        assert torch.equal(pooled(features, num_tokens), expected)
    assert torch.equal(pooled(features, 16), features) and torch.equal(pooled(features, 99), features)
    assert torch.equal(pooled(features, 1), features.mean(0, keepdim=True))
    # 3 x 3 cells of 4 x 4 patches overlap: the first covers two rows and two columns, as the last does.
    assert pooled(features, 9)[[0, 4, 8], 0].tolist() == [2.5, 7.5, 12.5]
    with pytest.raises(ValueError, match="Got 15 visual tokens, expected a square number"):
        pooled(features[:15], 4)


def test_merging_averages_what_is_dropped_into_the_nearest_kept_token():
    features = torch.tensor([[1.0, 0.0], [3.0, 0.1], [0.0, 2.0], [0.2, 4.0], [-5.0, 0.0]])
    # Max-min keeps 4, which is opposite to all, then 0 (as far from it as can be), then 2.
    assert torch.allclose(merged(features, 3), torch.tensor([[2.0, 0.05], [0.1, 3.0], [-5.0, 0.0]]))
    assert torch.equal(merged(features, 5), features)
    assert torch.allclose(merged(features, 1), features.mean(0, keepdim=True))


@pytest.mark.parametrize("name", BASELINES)
@pytest.mark.parametrize("num_tokens", [1, 30])
def test_answers_are_those_of_the_stock_model_fed_the_new_features(name, num_tokens):
    model, processor = load_pruned(pocket_llava(), num_tokens=num_tokens, device="cpu")
    stock = LlavaForConditionalGeneration.from_pretrained(pocket_llava()).eval()
    stock_processor = AutoProcessor.from_pretrained(pocket_llava())
    pictures = [Image.open(pocket_llava() / "examples" / f"scene_{i:02}.png") for i in (0, 1)]
    texts = ["How many objects are there?", "Is there a bag?"]
    answered = generate_answers(model, processor, pictures, texts, max_new_tokens=4, baseline=BASELINES[name])
    compress = BASELINES[name].compress
    for i, (picture, text) in enumerate(zip(pictures, texts)):
        inputs = stock_processor(images=picture, text=chat_prompt(processor, "image", text), return_tensors="pt")
        with torch.no_grad():
            outputs = stock.model.get_image_features(inputs["pixel_values"])
            features = compress(getattr(outputs, "pooler_output", outputs)[0], num_tokens)
            embeds = stock.get_input_embeddings()(inputs["input_ids"])[0]
            is_image = inputs["input_ids"][0] == stock.config.image_token_id
            first = int(is_image.nonzero()[0])
            embeds = torch.cat([embeds[:first], features, embeds[first:][~is_image[first:]]])[None]
            tokens = stock.generate(
                inputs_embeds=embeds, attention_mask=torch.ones(embeds.shape[:2]), max_new_tokens=4, do_sample=False
            )
        assert answered["answers"][i] == processor.tokenizer.decode(tokens[0], skip_special_tokens=True).strip()
        assert answered["kept_tokens"][i] == len(features) <= num_tokens and answered["visual_tokens"][i] == 256


def test_a_run_compares_them_with_max_min(tmp_path):
    pytest.importorskip("matplotlib", reason="runs draw")
    lines = QUESTIONS.read_text().splitlines()[:6]
    for line in lines:
        image = json.loads(line)["image"]
        (tmp_path / image).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / image).write_bytes((QUESTIONS.parent / image).read_bytes())
    (tmp_path / "few.jsonl").write_text("\n".join(lines))
    arguments = ["--budgets", "30", "1.0", "--selectors", "max_min", "pool", "merge", "--out", tmp_path / "out"]
    result = run_command("evaluate", pocket_llava(), tmp_path / "few.jsonl", *arguments, "--device", "cpu")
    assert result.returncode == 0, result.stderr
    means = json.loads((tmp_path / "out" / "results.json").read_text())["means"]
    kept = {(row["selector"], row["budget"]): row["kept_tokens"] for row in means}
    assert kept == {
        **{(name, 30): 30 for name in ("max_min", "merge")},
        ("pool", 30): 25,
        **{(name, 1.0): 256 for name in ("max_min", "pool", "merge")},
    }
    flops = {row["selector"]: row["flop_ratio"] for row in means if row["budget"] == 30}
    assert flops["pool"] < flops["merge"] == flops["max_min"] < 1
    assert "| max_min | pool | merge |" in result.stdout


@pytest.mark.parametrize("change", [{"positions": "original"}, {"layer": 1}], ids=str)
def test_settings_that_have_no_effect_on_them_are_refused(change):
    with pytest.raises(ValueError, match="expected pool alone"):
        Setting("pool", 0.5, **change)
