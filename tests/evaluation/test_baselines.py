"""Baselines that make new features: small cases worked out by hand, the stock model fed by hand, and whole runs."""

import json
from pathlib import Path

import pytest
import torch
from PIL import Image
from transformers import AutoProcessor, LlavaForConditionalGeneration

from divprune_hf.cli import evaluation_commands
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.answers import Method, generate_answers
from divprune_hf.evaluation.baselines import BASELINES
from divprune_hf.evaluation.baselines.base_view import base_view
from divprune_hf.evaluation.baselines.distances import l1, l2, max_min_with, pick_by, random_distance
from divprune_hf.evaluation.baselines.merge import merged
from divprune_hf.evaluation.baselines.picture import Picture
from divprune_hf.evaluation.baselines.pool import pooled
from divprune_hf.evaluation.baselines.prumerge import merged_patches
from divprune_hf.evaluation.settings import Setting
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.loading import load_pruned
from divprune_hf.remote_code.token_selection import feature_list
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


def test_prumerge_keeps_what_the_class_token_sees_and_merges_its_like_in(monkeypatch):
    patches = torch.tensor([[1.0, 0.0], [0.0, 8.0], [3.0, 0.0], [0.0, 2.0], [5.0, 5.0]])
    attention = torch.tensor([0.1, 0.3, 0.3, 0.1, 0.2])
    keys = torch.tensor([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 2.0], [-1.0, -1.0]])
    everything = (attention[:, None] * patches).sum(0, keepdim=True)
    assert torch.allclose(merged_patches(patches, attention, keys, 1), everything)
    assert torch.equal(merged_patches(patches, attention, keys, 9), patches)
    monkeypatch.setitem(merged_patches.__globals__, "NUM_NEIGHBOURS", 1)
    # 1 and 2 are kept. Of the dropped ones, 3 has the key most like that of 1, and 0 that of 2.
    merged_in = torch.tensor([[0.0, (0.3 * 8 + 0.1 * 2) / 0.4], [(0.3 * 3 + 0.1 * 1) / 0.4, 0.0]])
    assert torch.allclose(merged_patches(patches, attention, keys, 2), merged_in)


def test_prumerge_reads_the_layer_that_is_projected():
    """Against the attention and the features that the stock tower returns; keys, from the layer's own projection."""
    stock = LlavaForConditionalGeneration.from_pretrained(pocket_llava(), attn_implementation="eager").eval()
    processor = AutoProcessor.from_pretrained(pocket_llava())
    scene = Image.open(pocket_llava() / "examples" / "scene_00.png")
    pixels = processor.image_processor(scene, return_tensors="pt")["pixel_values"]
    layer = stock.config.vision_feature_layer
    with torch.no_grad():
        outputs = stock.model.vision_tower(pixels, output_attentions=True, output_hidden_states=True)
        features = stock.model.get_image_features(pixels)
        features = getattr(features, "pooler_output", features)[0]
        view = Picture(features, stock.model, pixels).tower_view()
        block = getattr(stock.model.vision_tower, "vision_model", stock.model.vision_tower).encoder.layers[layer]
        keys = block.self_attn.k_proj(block.layer_norm1(outputs.hidden_states[layer - 1]))[0, 1:]
        projected = stock.model.multi_modal_projector(view.patches)
    attention = outputs.attentions[layer][0, :, 0, 1:]
    shares = attention / attention.sum(1, keepdim=True)
    torch.testing.assert_close(view.class_attention, shares.mean(0), atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(projected, features)
    torch.testing.assert_close(view.keys, keys, atol=1e-5, rtol=1e-4)


def test_prumerge_says_what_it_needs(make_checkpoint):
    model = load_pruned(make_checkpoint(tower="siglip").base, retention_ratio=1.0, device="cpu")[0].model
    picture = Picture(torch.zeros(7, 8), model, torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="Got 7 visual tokens of vision_feature_layer=-2, expected"):
        picture.tower_view()
    with pytest.raises(ValueError, match="expected CLIP: prumerge reads"):
        Picture(torch.zeros(picture.tokens_per_view, 8), model, torch.zeros(1, 3, 8, 8)).tower_view()


def test_the_base_view_comes_first_and_is_pooled_where_it_is_too_large(make_checkpoint, photos):
    model, processor = load_pruned(make_checkpoint(family="llava_next").base, retention_ratio=1.0, device="cpu")
    inputs = processor(images=photos[0], text="<image> w1", return_tensors="pt")
    with torch.no_grad():
        outputs = model.model.get_image_features(inputs["pixel_values"], image_sizes=inputs["image_sizes"])
        base = inputs["pixel_values"][0, :1]
        states = model.model.vision_tower(base, output_hidden_states=True).hidden_states
        alone = model.model.multi_modal_projector(states[model.config.vision_feature_layer][:, 1:])[0]
    features = feature_list(outputs)[0]
    picture = Picture(features, model.model, inputs["pixel_values"][0])
    assert len(alone) == picture.tokens_per_view < len(features)
    torch.testing.assert_close(base_view(picture, len(features)), alone)
    torch.testing.assert_close(base_view(picture, 4), pooled(alone, 4))
    with pytest.raises(ValueError, match="expected more than the .* of the base view: this model sees no crops"):
        base_view(Picture(alone, model.model, base), 4)


def picks_by_hand(distances, num_kept):
    """Greedy max-min of a list of lists of distances, one double loop at a time."""
    others = range(len(distances))
    picks = [max(others, key=lambda i: min(distances[i][j] for j in others if j != i))]
    while len(picks) < num_kept:
        left = [i for i in others if i not in picks]
        picks.append(max(left, key=lambda i: min(distances[i][j] for j in picks)))
    return picks


def test_distances_decide_what_max_min_picks():
    features = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 3.0], [2.2, 2.2], [0.9, 0.0]])
    assert l1(features)[0].tolist() == pytest.approx([0, 1, 3, 4.4, 0.9])
    assert l2(features)[0].tolist() == pytest.approx([0, 1, 3, 2.2 * 2**0.5, 0.9])
    drawn = torch.randn(40, 8, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for distance in (l1, l2, random_distance):
        matrix = distance(drawn)
        assert torch.equal(matrix, matrix.T) and matrix.diagonal().eq(0).all()
        assert pick_by(matrix, 40).tolist() == picks_by_hand(matrix.tolist(), 40)
        kept = max_min_with(distance)(Picture(drawn, None, drawn), 7)
        assert torch.equal(kept, drawn[sorted(picks_by_hand(matrix.tolist(), 7))])
    assert torch.equal(random_distance(drawn), random_distance(drawn + 1))


COMPRESSING = [name for name, baseline in BASELINES.items() if baseline.compress and name != "base_view"]


@pytest.mark.parametrize("name", COMPRESSING)
@pytest.mark.parametrize("num_tokens", [1, 30])
def test_answers_are_those_of_the_stock_model_fed_the_new_features(name, num_tokens):
    model, processor = load_pruned(pocket_llava(), num_tokens=num_tokens, device="cpu")
    stock = LlavaForConditionalGeneration.from_pretrained(pocket_llava()).eval()
    stock_processor = AutoProcessor.from_pretrained(pocket_llava())
    pictures = [Image.open(pocket_llava() / "examples" / f"scene_{i:02}.png") for i in (0, 1)]
    texts = ["How many objects are there?", "Is there a bag?"]
    compress = BASELINES[name].compress
    answered = generate_answers(model, processor, pictures, texts, max_new_tokens=4, method=Method(compress))
    for i, (picture, text) in enumerate(zip(pictures, texts)):
        inputs = stock_processor(images=picture, text=chat_prompt(processor, "image", text), return_tensors="pt")
        with torch.no_grad():
            outputs = stock.model.get_image_features(inputs["pixel_values"])
            features = getattr(outputs, "pooler_output", outputs)[0]
            features = compress(Picture(features, stock.model, inputs["pixel_values"]), num_tokens)
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
    assert "Those that all tokens answer, and pooling to the same budget does not" in result.stdout


@pytest.mark.parametrize("change", [{"positions": "original"}, {"layer": 1}], ids=str)
def test_settings_that_have_no_effect_on_them_are_refused(change):
    with pytest.raises(ValueError, match="expected pool alone"):
        Setting("pool", 0.5, **change)


def test_all_tokens_are_all_tokens_whichever_method_comes_first(make_checkpoint, photos, tmp_path):
    """Answers with everything are asked for once, under the first method of a run."""
    pytest.importorskip("matplotlib", reason="runs draw")
    photos[0].save(tmp_path / "photo.png")
    question = {"image": "photo.png", "question": "w1", "answers": ["w2"], "kind": "presence"}
    (tmp_path / "one.jsonl").write_text(json.dumps(question))
    base = make_checkpoint(family="llava_next").base
    arguments = ["--selectors", "base_view", "max_min", "--budgets", "1.0", "0.1", "--device", "cpu"]
    result = run_command("evaluate", base, tmp_path / "one.jsonl", *arguments, "--out", tmp_path / "out")
    assert result.returncode == 0, result.stderr
    means = json.loads((tmp_path / "out" / "results.json").read_text())["means"]
    assert all(row["kept_tokens"] == row["visual_tokens"] > 36 for row in means if row["budget"] == 1.0)
    (few,) = [row for row in means if (row["selector"], row["budget"]) == ("base_view", 0.1)]
    assert few["kept_tokens"] == 16 < 0.1 * few["visual_tokens"] + 1
