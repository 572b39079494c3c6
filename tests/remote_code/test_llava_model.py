"""The invariants of a pruned LLaVA model, against the stock model on the same weights."""

import inspect

import pytest
import torch
from transformers import AutoProcessor, LlavaForConditionalGeneration, LlavaModel, StaticCache

from divprune_hf import select_diverse_tokens, set_budget
from divprune_hf.remote_code import max_min_fast
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_answers import features_in, fed_with, greedy, load
from tests.helpers.tiny_models import IMAGE_TOKEN_ID, LANGUAGE_CONFIGS, NUM_IMAGE_TOKENS, TOWER_CONFIGS, WIDTH
from tests.naive_max_min import is_greedy


pytestmark = pytest.mark.modeling
KINDS = [(tower, "llama") for tower in TOWER_CONFIGS] + [("clip", language) for language in ("mistral", "qwen2")]
PROMPT = "w1 <image> w2 w3"


def stock_features(checkpoint, pixel_values):
    stock = LlavaForConditionalGeneration.from_pretrained(checkpoint.base, dtype=torch.float32).eval()
    with torch.no_grad():
        return stock, feature_list(stock.get_image_features(pixel_values=pixel_values))


@pytest.mark.parametrize(("tower", "language"), KINDS, ids=["-".join(kind) for kind in KINDS])
def test_pruned_logits_are_those_of_the_stock_model_fed_the_kept_features(make_checkpoint, photos, tower, language):
    checkpoint = make_checkpoint(tower=tower, language=language)
    model, processor = load(checkpoint)
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    stock, (features,) = stock_features(checkpoint, inputs["pixel_values"])
    (picks,) = model.select_image_tokens(inputs["pixel_values"])
    assert len(features) == NUM_IMAGE_TOKENS and len(picks) == 9 == inputs["num_image_tokens_kept"].item()
    with torch.no_grad():
        logits = model(**inputs).logits
        reference = stock(**fed_with(stock, inputs, [features[picks]])).logits
        others = stock(**fed_with(stock, inputs, [features[:9]])).logits
    assert torch.equal(logits, reference)
    assert not torch.equal(logits, others)


@pytest.mark.parametrize(("tower", "language"), KINDS, ids=["-".join(kind) for kind in KINDS])
def test_picks_are_greedy_max_min_over_the_stock_features(make_checkpoint, photos, tower, language):
    checkpoint = make_checkpoint(tower=tower, language=language)
    model, processor = load(checkpoint)
    inputs = processor(images=photos, text=[PROMPT, PROMPT], return_tensors="pt")
    _, all_features = stock_features(checkpoint, inputs["pixel_values"])
    set_budget(model, processor, num_tokens=12)
    raster = model.select_image_tokens(inputs["pixel_values"])
    model.config.divprune_config.order = "selection"
    selection = model.select_image_tokens(inputs["pixel_values"])
    for features, ascending, picked in zip(all_features, raster, selection):
        assert is_greedy(features, picked.tolist(), tolerance=2e-6)
        assert ascending.tolist() == sorted(picked.tolist()) and len(set(picked.tolist())) == 12


@pytest.mark.parametrize("order", ["raster", "selection"])
def test_keeping_everything_is_the_stock_model_bit_for_bit(family, photos, monkeypatch, order):
    def never(*args):
        raise AssertionError("nothing is to be selected")

    monkeypatch.setattr(max_min_fast, "select_diverse_tokens_of_images", never)
    model, processor = load(family, divprune_config={"retention_ratio": 1.0, "order": order})
    inputs = processor(images=photos[:1], text=PROMPT, retention_ratio=1, return_tensors="pt")
    stock = LlavaForConditionalGeneration.from_pretrained(family.base, dtype=torch.float32).eval()
    stock_inputs = {name: value for name, value in inputs.items() if name != "num_image_tokens_kept"}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**stock_inputs).logits)
    assert greedy(model, inputs) == greedy(stock, stock_inputs)


def test_order_of_selection_reaches_the_language_model(family, photos):
    model, processor = load(family, divprune_config={"order": "selection"})
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    stock, (features,) = stock_features(family, inputs["pixel_values"])
    (picks,) = model.select_image_tokens(inputs["pixel_values"])
    assert picks.tolist() != sorted(picks.tolist())
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**fed_with(stock, inputs, [features[picks]])).logits)


def test_a_batch_row_answers_as_it_does_alone(family, photos):
    """Two images in a row, one, none: left-padded together, and each alone."""
    model, processor = load(family)
    rows = [("w1 <image> w2 <image> w3", photos), (PROMPT, photos[1:]), ("w4 w5", []), ("<image><image>", photos[::-1])]
    images = [image for _, row_images in rows for image in row_images]
    batch = processor(images=images, text=[text for text, _ in rows], padding=True, return_tensors="pt")
    together = greedy(model, batch)
    assert batch["attention_mask"].min() == 0
    picks = model.select_image_tokens(batch["pixel_values"])
    solo_picks = []
    for (text, row_images), answer in zip(rows, together):
        inputs = processor(images=row_images or None, text=text, return_tensors="pt")
        assert greedy(model, inputs) == [answer]
        if row_images:
            solo_picks += model.select_image_tokens(inputs["pixel_values"])
            other_budget = processor(images=row_images, text=text, return_tensors="pt", num_tokens=4)
            assert greedy(model, other_budget) != [answer]
    assert all(torch.equal(one, other) for one, other in zip(picks, solo_picks, strict=True))


def test_answers_come_from_the_kept_tokens_through_generate(family, photos):
    model, processor = load(family)
    answers = []
    for num_tokens in (1, 5, 9, 20):
        inputs = processor(images=photos[:1], text=PROMPT, num_tokens=num_tokens, return_tensors="pt")
        stock, (features,) = stock_features(family, inputs["pixel_values"])
        (picks,) = model.select_image_tokens(
            inputs["pixel_values"], num_image_tokens_kept=inputs["num_image_tokens_kept"]
        )
        assert inputs["input_ids"].shape[1] == 4 + num_tokens and len(picks) == num_tokens
        fed = fed_with(stock, inputs, [features[picks]])
        expected = stock.generate(**fed, max_new_tokens=6, min_new_tokens=6, do_sample=False).tolist()
        answers.append(greedy(model, inputs))
        assert answers[-1] == expected
    assert len({str(answer) for answer in answers}) > 1


@pytest.mark.parametrize("counts", [True, False], ids=["with counts", "without counts"])
def test_beams_keep_each_rows_images(family, photos, counts):
    """Also for two images in a row, where transformers 4.57 hands rows each other's images."""
    model, processor = load(family)
    rows = [("w1 <image> w2 <image> w3", photos), ("w9 <image> w2 <image> w3", photos[::-1])]
    batch = processor(images=photos + photos[::-1], text=[text for text, _ in rows], return_tensors="pt")
    alone = []
    for text, images in rows:
        inputs = processor(images=images, text=text, return_tensors="pt")
        if not counts:
            del inputs["num_image_tokens_kept"]
        alone += greedy(model, inputs, num_beams=3)
    if not counts:
        del batch["num_image_tokens_kept"]
    assert greedy(model, batch, num_beams=3) == alone
    assert alone[0] != alone[1]


def test_several_answers_per_prompt_follow_each_image(family, photos):
    model, processor = load(family)
    inputs = processor(images=photos, text=[PROMPT, PROMPT], return_tensors="pt")
    one_each = greedy(model, inputs)
    torch.manual_seed(0)
    many = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, do_sample=True, top_k=1, num_return_sequences=3)
    assert many[:, inputs["input_ids"].shape[1] :].tolist() == [one_each[0]] * 3 + [one_each[1]] * 3
    assert one_each[0] != one_each[1]


def test_a_static_cache_and_no_cache_answer_alike(family, photos):
    model, processor = load(family)
    inputs = processor(images=photos, text=[PROMPT, PROMPT], return_tensors="pt")
    answers = greedy(model, inputs)
    assert greedy(model, inputs, cache_implementation="static") == answers
    assert greedy(model, inputs, use_cache=False) == answers
    assert answers[0] != answers[1]


def cached(cache, positions):
    """A cache as this release's `forward` takes it; before transformers 5 with the positions of the new tokens."""
    names = inspect.signature(LlavaModel.forward).parameters
    arguments = {"cache" if "cache" in names else "past_key_values": cache, "cache_position": positions}
    return {name: value for name, value in arguments.items() if name in names}


def test_a_decode_step_compiles_without_graph_breaks(family, photos):
    model, processor = load(family)
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    length = inputs["input_ids"].shape[1]
    logits = []
    for compiled in (False, True):
        cache = StaticCache(config=model.config.text_config, max_cache_len=32)
        with torch.no_grad():
            prefill = model(**inputs, **cached(cache, torch.arange(length)))
            step = torch.compile(model.forward, fullgraph=True, backend="aot_eager") if compiled else model.forward
            decoded = step(
                input_ids=prefill.logits[:, -1:].argmax(-1),
                attention_mask=torch.ones(1, length + 1, dtype=torch.long),
                **cached(cache, torch.tensor([length])),
                num_image_tokens_kept=inputs["num_image_tokens_kept"],
            )
        logits.append(decoded.logits)
    torch.testing.assert_close(logits[0], logits[1])


def test_training_sees_the_kept_tokens(family, photos):
    model, processor = load(family)
    model.train()
    model.gradient_checkpointing_enable()
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    labels = inputs["input_ids"].masked_fill(inputs["input_ids"] == IMAGE_TOKEN_ID, -100)
    model(**inputs, labels=labels, use_cache=False).loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", ["bfloat16 weights", "autocast"])
def test_selection_is_made_in_float32(family, photos, mode):
    model, processor = load(family)
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    if mode == "autocast":
        with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
            features = feature_list(LlavaModel.get_image_features(model.model, inputs["pixel_values"]))[0]
            (picks,) = model.select_image_tokens(inputs["pixel_values"])
    else:
        model = model.to(torch.bfloat16)
        pixel_values = inputs["pixel_values"].to(torch.bfloat16)
        with torch.no_grad():
            model.config.divprune_config.order = "raster"
            set_budget(model, processor, retention_ratio=1.0)
            features = feature_list(model.get_image_features(pixel_values))[0]
            set_budget(model, processor, num_tokens=9)
        (picks,) = model.select_image_tokens(pixel_values)
    assert features.dtype == torch.bfloat16
    assert torch.equal(picks, select_diverse_tokens(features.double(), 9))


def test_outputs_are_the_stock_models(family, photos):
    """Kept features in the output, and a tuple where one is asked for, as in the stock model."""
    model, processor = load(family)
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    for part in (model, model.model):
        outputs, plain = part(**inputs), part(**inputs, return_dict=False)
        assert features_in(outputs).shape == (9, WIDTH)
        assert isinstance(plain, tuple) and torch.equal(plain[0], outputs[0])


def test_the_processors_counts_win_over_the_models_config(family, photos):
    model, _ = load(family)
    configured, processor = load(family, divprune_config={"num_tokens": 5})
    processor = AutoProcessor.from_pretrained(family.variant, divprune_config={"num_tokens": 5})
    inputs = processor(images=photos[:1], text=PROMPT, return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(logits, configured(**inputs).logits)
        without_counts = {name: value for name, value in inputs.items() if name != "num_image_tokens_kept"}
        assert torch.equal(logits, configured(**without_counts).logits)
    assert greedy(model, inputs) == greedy(configured, inputs)


def test_every_language_model_is_covered():
    assert {language for _, language in KINDS} == set(LANGUAGE_CONFIGS)
