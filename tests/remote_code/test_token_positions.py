"""Where kept tokens stand: `positions="original"` against the stock language model with positions written by hand."""

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AttentionInterface, AutoProcessor, DynamicCache, LlavaModel, StaticCache
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from divprune_hf import DivPruneConfig, DivPruneLlavaForConditionalGeneration
from divprune_hf.remote_code.compat_generation import ENCODES_FIRST, SEES_NEW_PICTURES
from divprune_hf.remote_code.prompt_counts import PROMPT
from tests.helpers.oracle import first_logits, uneven_rows
from tests.helpers.positions_by_hand import by_hand
from tests.helpers.tiny_answers import greedy, load
from tests.helpers.tiny_models import IMAGE_TOKEN_ID, VIDEO_TOKEN_ID


pytestmark = pytest.mark.modeling
ORIGINAL = {"positions": "original"}
PROMPT_TEXT = "w1 <image> w2 w3"
FORWARD = inspect.signature(LlavaModel.forward).parameters


def original(checkpoint, **settings):
    return load(checkpoint, divprune_config={**ORIGINAL, **settings})


def test_logits_are_those_of_the_stock_model_with_positions_made_by_hand(case):
    """Uneven rows, padded on the left, images and videos: difference 0, in `forward` and in `generate`."""
    model, processor = original(case.checkpoint)
    inputs = uneven_rows(case, processor)
    hand = by_hand(case.checkpoint, model, inputs, case.family)
    expected, shown = hand.logits(), inputs["attention_mask"].bool()
    assert not shown.all()
    # What `generate` hands to `forward`: the number of each token in its row.
    slots = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    with torch.no_grad():
        assert torch.equal(model(**inputs, position_ids=slots).logits[shown], expected[shown])
    assert torch.equal(first_logits(model, inputs), expected[:, -1])
    tokens = hand.greedy()
    assert greedy(model, inputs) == tokens and tokens[0] != tokens[1]
    assert greedy(load(case.checkpoint)[0], inputs) != tokens


def test_every_way_to_decode_goes_on_behind_all_tokens(case):
    model, processor = original(case.checkpoint)
    inputs = uneven_rows(case, processor)
    expected = by_hand(case.checkpoint, model, inputs, case.family).greedy()
    assert greedy(model, inputs, use_cache=False) == expected
    assert greedy(model, inputs, cache_implementation="static") == expected
    sampling = {"do_sample": True, "top_k": 1, "suppress_tokens": [2, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]}
    many = model.generate(**inputs, max_new_tokens=6, num_return_sequences=2, **sampling)
    assert many[:, inputs["input_ids"].shape[1] :].tolist() == [expected[0]] * 2 + [expected[1]] * 2


def test_beams_of_a_row_see_its_images_where_they_stand(case):
    """Two images to a row, in a batch, without a cache and alone."""
    model, processor = original(case.checkpoint)
    pictures = case.media["images"]
    media = {**case.media, "images": [pictures, pictures[::-1]]}
    texts = [f"{text} <image>" for text in case.texts]
    inputs = processor(**media, text=texts, padding=True, return_tensors="pt")
    answers = greedy(model, inputs, num_beams=3)
    assert greedy(model, inputs, num_beams=3, use_cache=False) == answers
    for row in range(2):
        alone = processor(**{k: [v[row]] for k, v in media.items()}, text=texts[row], return_tensors="pt")
        assert greedy(model, alone, num_beams=3) == [answers[row]]
        assert greedy(model, alone) == by_hand(case.checkpoint, model, alone, case.family).greedy()


@pytest.mark.parametrize("positions", ["original", "compact"])
def test_a_model_that_drafts_changes_no_answer(case, positions):
    model, processor = original(case.checkpoint)
    row = {name: values[:1] for name, values in case.media.items()}
    inputs = processor(**row, text=case.texts[0], return_tensors="pt")
    assistant, _ = load(case.checkpoint, divprune_config={"positions": positions})
    expected = by_hand(case.checkpoint, model, inputs, case.family).greedy()
    arguments = {"do_sample": False, "suppress_tokens": [2, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]}
    answer = model.generate(**inputs, **arguments, max_new_tokens=6, assistant_model=assistant)
    assert answer[:, inputs["input_ids"].shape[1] :].tolist() == expected


def test_a_batch_row_stands_as_it_does_alone(family, photos):
    """Two images in a row, adjacent ones, one at the very end, none."""
    model, processor = original(family)
    rows = [
        ("w1 <image> w2 <image> w3", photos),
        ("<image><image>", photos[::-1]),
        ("w4 <image>", photos[:1]),
        ("w4 w5", []),
    ]
    images = [image for _, pictures in rows for image in pictures]
    batch = processor(images=images, text=[text for text, _ in rows], padding=True, return_tensors="pt")
    answers = greedy(model, batch)
    for (text, pictures), answer in zip(rows, answers):
        inputs = processor(images=pictures or None, text=text, return_tensors="pt")
        assert by_hand(family, model, inputs).greedy() == [answer]


@pytest.mark.parametrize("language", ["mistral", "qwen2"])
def test_tokens_in_the_order_of_picking_stand_where_they_stood(make_checkpoint, photos, language):
    checkpoint = make_checkpoint(language=language)
    model, processor = original(checkpoint, order="selection")
    inputs = processor(images=photos[:1], text=PROMPT_TEXT, num_tokens=7, return_tensors="pt")
    hand = by_hand(checkpoint, model, inputs)
    assert hand.positions.diff().min() < 0
    assert greedy(model, inputs) == hand.greedy()
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, hand.logits())


@pytest.mark.parametrize("arguments", [{}, {"use_cache": False}], ids=["cache", "no cache"])
def test_a_prompt_without_mask_is_one_sequence(family, photos, arguments):
    """Stock masks read gaps between positions as borders of packed sequences where there is neither mask nor cache."""
    model, processor = original(family)
    inputs = processor(images=photos, text="w1 <image> w2 <image> w3", return_tensors="pt")
    expected = by_hand(family, model, inputs).logits()
    del inputs["attention_mask"]
    with torch.no_grad():
        assert torch.equal(model(**inputs, **arguments).logits, expected)


def test_a_chat_goes_on_from_its_cache(family, photos):
    """Later turns, with a picture and without, are those of the whole chat read at once."""
    model, processor = original(family)
    cache, text, pictures = DynamicCache(config=model.config.text_config), "", []
    name = "cache" if "cache" in FORWARD else "past_key_values"
    for turn, new in (("w1 <image> w2", photos[:1]), ("w3 w4", []), ("w5 <image>", photos[1:]), ("w6", [])):
        if new and pictures and not SEES_NEW_PICTURES:
            continue  # 4.57 drops new pictures behind a cache, which is refused
        pictures, text = pictures + new, f"{text} {turn}"
        inputs = processor(images=pictures or None, text=text, return_tensors="pt")
        expected = by_hand(family, model, inputs).greedy()
        behind = dict(inputs) if new else {k: inputs[k] for k in ("input_ids", "attention_mask")}
        if new:
            behind["pixel_values"] = inputs["pixel_values"][-1:]
            behind["num_image_tokens_kept"] = inputs["num_image_tokens_kept"][-1:]
        assert greedy(model, behind, **{name: cache}) == expected
        answers = " ".join(processor.tokenizer.convert_ids_to_tokens(expected[0]))
        text = f"{text} {answers}"


def cached(cache, slots):
    """A cache as this release's `forward` takes it; before transformers 5 with the slots of the new tokens."""
    arguments = {"cache" if "cache" in FORWARD else "past_key_values": cache, "cache_position": slots}
    return {name: value for name, value in arguments.items() if name in FORWARD}


def test_a_decode_step_by_hand_compiles_without_graph_breaks(family, photos):
    """`forward` alone, without `generate`: the cache knows where the next token stands."""
    model, processor = original(family)
    inputs = processor(images=photos[:1], text=PROMPT_TEXT, return_tensors="pt")
    length, expected = inputs["input_ids"].shape[1], by_hand(family, model, inputs).greedy(2)
    for compiled in (False, True):
        cache = StaticCache(config=model.config.text_config, max_cache_len=32)
        with torch.no_grad():
            first = model(**inputs, **cached(cache, torch.arange(length))).logits[:, -1:].argmax(-1)
            step = torch.compile(model.forward, fullgraph=True, backend="aot_eager") if compiled else model.forward
            decoded = step(
                input_ids=first,
                attention_mask=torch.ones(1, length + 1, dtype=torch.long),
                **cached(cache, torch.tensor([length])),
            )
        assert [[int(first), int(decoded.logits.argmax())]] == expected


def test_training_reads_labels_at_their_own_positions(case):
    model, processor = original(case.checkpoint)
    inputs = uneven_rows(case, processor)
    hand = by_hand(case.checkpoint, model, inputs, case.family)
    slots = (inputs["attention_mask"].cumsum(-1) - 1).clamp(min=0)
    hidden = torch.isin(inputs["input_ids"], torch.tensor([0, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]))
    labels = inputs["input_ids"].masked_fill(hidden, -100)
    loss = model(**inputs, position_ids=slots, labels=labels, use_cache=False).loss
    expected = torch.nn.functional.cross_entropy(hand.logits()[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    torch.testing.assert_close(loss, expected)
    loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


def test_keeping_everything_is_the_stock_model_bit_for_bit(case):
    model, processor = original(case.checkpoint)
    everything = {"retention_ratio": 1, **({"video_retention_ratio": 1} if "videos" in case.media else {})}
    inputs = case.inputs(processor, **everything)
    hand = by_hand(case.checkpoint, model, inputs, case.family)
    stock = {name: value for name, value in inputs.items() if not name.startswith("num_")}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, hand.stock(**stock).logits)
    assert torch.equal(first_logits(model, inputs), first_logits(hand.stock, stock))


def test_threads_and_copies_stand_apart(family, photos):
    model, processor = original(family)
    texts = ["w1 <image> w2", "w1 w2 w3 w4 w5 <image>"]
    prompts = [
        processor(images=photos[i : i + 1], text=texts[i], num_tokens=5 + i, return_tensors="pt") for i in range(2)
    ]
    expected = [by_hand(family, model, prompt).greedy() for prompt in prompts]
    twin = copy.deepcopy(model)
    del model
    assert [greedy(twin, prompt) for prompt in prompts] == expected
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda i: [greedy(twin, prompts[i]) == expected[i] for _ in range(20)], range(2))
        assert list(answers) == [[True] * 20] * 2
    assert PROMPT.get() is None


def test_what_cannot_stand_is_refused(family, photos):
    model, processor = original(family)
    inputs = processor(images=photos[:1], text=PROMPT_TEXT, return_tensors="pt")
    with pytest.raises(ValueError, match="positions='original' and a call of get_image_features on its own"):
        model.model.get_image_features(inputs["pixel_values"])
    with pytest.raises(ValueError, match="prefill_chunk_size=8"):
        greedy(model, inputs, prefill_chunk_size=8)
    compact, _ = load(family)
    compact.config.divprune_config.positions = "original"
    with pytest.raises(ValueError, match="a model that was loaded without it"):
        greedy(compact, inputs)
    if ENCODES_FIRST:
        encoded = load(family)[0].model.get_image_features(inputs["pixel_values"])
        finished = {"input_ids": inputs["input_ids"], "mm_encoder_outputs": {"image": encoded}}
        with pytest.raises(ValueError, match="finished image features for a model with positions='original'"):
            model.generate(**finished, max_new_tokens=1)


@pytest.mark.parametrize("settings", [ORIGINAL, {"layer": 1}], ids=["positions", "layer"])
def test_hooks_that_a_release_does_not_run_are_missed(family, photos, monkeypatch, settings):
    """Otherwise a later transformers could let the setting have no effect, and nobody would know."""
    model, _ = load(family, divprune_config=settings)
    processor = AutoProcessor.from_pretrained(family.variant, divprune_config=settings)
    inputs = processor(images=photos[:1], text=PROMPT_TEXT, return_tensors="pt")
    for module in (model.model.language_model, model.model.language_model.layers[1]):
        monkeypatch.setattr(type(module), "__call__", lambda self, *args, **kwargs: self.forward(*args, **kwargs))
    for call in (lambda: model(**inputs), lambda: greedy(model, inputs)):
        with pytest.raises(RuntimeError, match="the language model did not run its hooks"):
            call()


def test_an_engine_that_makes_positions_is_refused_before_it_loads(family, monkeypatch):
    """vLLM registers an attention function of its own, and sets its name before it builds the model."""
    monkeypatch.setitem(AttentionInterface._global_mapping, "vllm", sdpa_attention_forward)
    model, _ = load(family)
    config = copy.deepcopy(model.config)
    config.text_config._attn_implementation = "vllm"
    config.divprune_config = DivPruneConfig(**ORIGINAL)
    with pytest.raises(ValueError, match="positions='original' in vLLM, which makes position ids itself"):
        DivPruneLlavaForConditionalGeneration(config)


def test_config_files_name_positions_where_they_are_not_the_papers():
    assert DivPruneConfig(**ORIGINAL).to_block() == {"retention_ratio": 0.098, "order": "raster", **ORIGINAL}
    assert "positions" not in DivPruneConfig().to_block()
    with pytest.raises(ValueError, match="Got positions='scattered', expected one of"):
        DivPruneConfig(positions="scattered")
