"""Pruning at a deeper layer against a decoder loop written by hand, on one prompt at a time."""

import copy
import inspect
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import AutoConfig, AutoProcessor, DynamicCache, LlavaModel

from divprune_hf import DivPruneConfig
from divprune_hf.inference.ask import ask
from divprune_hf.remote_code.compat_generation import ENCODES_FIRST, SEES_NEW_PICTURES
from tests.helpers.decoder_by_hand import decoder_of
from tests.helpers.oracle import first_logits
from tests.helpers.tiny_answers import greedy, load
from tests.helpers.tiny_models import FAMILY_CLASSES, IMAGE_TOKEN_ID, NUM_IMAGE_TOKENS, VIDEO_TOKEN_ID


pytestmark = pytest.mark.modeling
PROMPT = "w1 <image> w2 w3"
FORWARD = inspect.signature(LlavaModel.forward).parameters
CACHE = "cache" if "cache" in FORWARD else "past_key_values"


def deep(checkpoint, **kwargs):
    model, _ = load(checkpoint, divprune_config={"layer": 1}, **kwargs)
    return model, AutoProcessor.from_pretrained(checkpoint.variant, divprune_config={"layer": 1})


@pytest.fixture(params=["llava", "llava_next", "llava_next_video"])
def prompts(request, make_checkpoint, photos):
    """A checkpoint, a pruned model and its processor, rows of text and media that keep different numbers."""
    if request.param == "llava_next_video":
        request.getfixturevalue("clips")  # first: it skips where torchvision is missing
    checkpoint = make_checkpoint(family=request.param)
    model, processor = deep(checkpoint)
    tall = photos[0].resize((40, 90))
    rows = [
        ("w1 <image> w2 <image> w3", [tall, photos[1]]),
        ("<image><image>", [photos[1], tall]),
        ("w4 <image>", [tall]),
    ]
    rows = [(text, {"images": images}) for text, images in rows]
    if request.param == "llava_next_video":
        clips = request.getfixturevalue("clips")
        rows = [(f"{text} <video> w7", {**media, "videos": clips[i : i + 1]}) for i, (text, media) in enumerate(rows)]
    else:
        rows.append(("w4 w5", {}))
    return request.param, checkpoint, model, processor, rows


def solo(processor, text, media, **budget):
    return processor(**media, text=text, return_tensors="pt", **budget)


def batch_of(processor, rows):
    media = {}
    for _, of_row in rows:
        for name, values in of_row.items():
            media.setdefault(name, []).extend(values)
    return processor(**media, text=[text for text, _ in rows], padding=True, return_tensors="pt")


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_logits_and_answers_are_those_of_a_loop_by_hand(prompts, attention):
    family, checkpoint, _, _, rows = prompts
    model, processor = deep(checkpoint, attn_implementation=attention)
    decoder = decoder_of(checkpoint, 1, family)
    answers = []
    for text, media in rows:
        inputs = solo(processor, text, media)
        expected, slots = decoder.logits(*decoder.embed(inputs))
        with torch.no_grad():
            logits = model(**inputs).logits[0]
        assert logits.shape == expected.shape and len(slots) <= inputs["input_ids"].shape[1]
        torch.testing.assert_close(logits, expected, rtol=1e-4, atol=1e-4)
        answers.append(decoder.greedy(inputs))
        assert greedy(model, inputs) == [answers[-1]]
        assert greedy(model, inputs, use_cache=False) == [answers[-1]]
    # One batch, where rows keep different numbers and are padded on the left.
    batch = batch_of(processor, rows)
    assert batch["attention_mask"].min() == 0
    assert greedy(model, batch) == answers
    assert greedy(model, batch, use_cache=False) == answers
    assert greedy(model, batch, cache_implementation="static") == answers
    sampling = {"do_sample": True, "top_k": 1, "suppress_tokens": [2, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]}
    if ENCODES_FIRST or family == "llava":
        many = model.generate(**batch, max_new_tokens=6, num_return_sequences=2, **sampling)
        assert many[:, batch["input_ids"].shape[1] :].tolist() == [answer for answer in answers for _ in range(2)]
    else:  # before 5.23 pictures of different sizes, several to a row, are not told apart
        with pytest.raises(ValueError, match="pass one image per row, or use transformers 5.23"):
            model.generate(**batch, max_new_tokens=6, num_return_sequences=2, **sampling)
    compact, other = load(checkpoint)
    assert greedy(compact, batch_of(other, rows)) != answers


@pytest.mark.parametrize("language", ["llama", "mistral", "qwen2"])
def test_other_language_models_and_selectors_drop_alike(make_checkpoint, photos, language):
    checkpoint = make_checkpoint(language=language, tower="siglip")
    model, processor = deep(checkpoint)
    inputs = solo(processor, PROMPT, {"images": photos[:1]}, num_tokens=7)
    decoder = decoder_of(checkpoint, 1)
    assert greedy(model, inputs) == [decoder.greedy(inputs)]
    uniform, _ = load(checkpoint, divprune_config={"layer": 1, "selector": "uniform"})
    with torch.no_grad():
        assert uniform(**inputs).logits.shape == model(**inputs).logits.shape
        assert not torch.equal(uniform(**inputs).logits, model(**inputs).logits)


def test_beams_of_a_row_are_those_of_the_row_alone(family, photos):
    model, processor = deep(family)
    rows = [("w1 <image> w2", photos[:1]), ("w9 <image> w2 w3", photos[1:])]
    batch = processor(images=photos, text=[text for text, _ in rows], padding=True, return_tensors="pt")
    alone = [greedy(model, solo(processor, text, {"images": images}), num_beams=3)[0] for text, images in rows]
    assert greedy(model, batch, num_beams=3) == alone
    assert greedy(model, batch, num_beams=3, use_cache=False) == alone


def test_a_model_that_drafts_changes_no_answer(prompts):
    family, checkpoint, model, processor, rows = prompts
    inputs = solo(processor, *rows[0])
    expected = decoder_of(checkpoint, 1, family).greedy(inputs, 12)
    arguments = {"do_sample": False, "suppress_tokens": [2, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID], "max_new_tokens": 12}
    # Drafts of another selection are often rejected, after some were accepted.
    for settings in ({"layer": 1}, {"layer": 1, "selector": "uniform"}):
        assistant, _ = load(checkpoint, divprune_config=settings)
        answer = model.generate(**inputs, **arguments, assistant_model=assistant)
        assert answer[0, inputs["input_ids"].shape[1] :].tolist() == expected


def test_a_chat_goes_on_from_its_cache(family, photos):
    model, processor = deep(family)
    decoder = decoder_of(family, 1)
    cache, text, pictures = DynamicCache(config=model.config.text_config), "", []
    for turn, new in (("w1 <image> w2", photos[:1]), ("w3 w4", []), ("w5 <image>", photos[1:]), ("w6", [])):
        if new and pictures and not SEES_NEW_PICTURES:
            continue  # 4.57 drops new pictures behind a cache, which is refused
        pictures, text = pictures + new, f"{text} {turn}"
        inputs = solo(processor, text, {"images": pictures})
        behind = dict(inputs) if new else {k: inputs[k] for k in ("input_ids", "attention_mask")}
        if new:
            behind["pixel_values"] = inputs["pixel_values"][-1:]
            behind["num_image_tokens_kept"] = inputs["num_image_tokens_kept"][-1:]
        (answer,) = greedy(model, behind, **{CACHE: cache})
        assert answer == decoder.greedy(inputs)
        text = " ".join([text, *processor.tokenizer.convert_ids_to_tokens(answer)])


def test_deeper_layers_hold_fewer_keys_in_fact(family, photos):
    model, processor = deep(family)
    inputs = solo(processor, PROMPT, {"images": photos[:1]}, num_tokens=5)
    outputs = model.generate(**inputs, max_new_tokens=3, min_new_tokens=3, return_dict_in_generate=True)
    layers = outputs[CACHE].layers
    length = inputs["input_ids"].shape[1] + 2
    assert [layer.keys.shape[-2] for layer in layers] == [length, length - NUM_IMAGE_TOKENS + 5]
    assert layers[1].keys.nbytes * length == layers[0].keys.nbytes * (length - NUM_IMAGE_TOKENS + 5)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_rows_of_one_length_that_keep_different_numbers(family, photos, attention):
    """Nothing is padded, so that the stock model needs no mask; the shorter row is filled up in front."""
    model, processor = deep(family, attn_implementation=attention)
    decoder = decoder_of(family, 1)
    alone = [
        solo(processor, PROMPT, {"images": photos[i : i + 1]}, num_tokens=count) for i, count in enumerate((5, 12))
    ]
    batch = {name: torch.cat([inputs[name] for inputs in alone]) for name in alone[0] if name != "attention_mask"}
    assert greedy(model, batch) == [decoder.greedy(inputs) for inputs in alone]
    labels = batch["input_ids"].masked_fill(batch["input_ids"] == IMAGE_TOKEN_ID, -100)
    losses = []
    for inputs, of_row in zip(alone, labels):
        logits, slots = decoder.logits(*decoder.embed(inputs))
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], of_row[slots][1:], reduction="none"))
    expected = torch.cat(losses)
    outputs = model(**batch, labels=labels)
    assert outputs.logits.shape[1] == batch["input_ids"].shape[1] - NUM_IMAGE_TOKENS + 12
    torch.testing.assert_close(outputs.loss, expected[expected != 0].mean(), rtol=1e-4, atol=1e-5)


def test_padding_takes_no_room_in_deeper_layers(family, photos):
    """A text of one word beside a picture: padded to its M placeholders, and to its K tokens from layer 1 on."""
    model, processor = deep(family)
    batch = processor(images=photos[:1], text=[PROMPT, "w4"], num_tokens=5, padding=True, return_tensors="pt")
    outputs = model.generate(**batch, max_new_tokens=1, return_dict_in_generate=True)
    assert outputs[CACHE].layers[1].keys.shape[-2] == 5 + 4


def test_labels_are_those_of_the_tokens_that_stay(prompts):
    family, checkpoint, model, processor, rows = prompts
    decoder, batch = decoder_of(checkpoint, 1, family), batch_of(processor, rows)
    not_text = torch.tensor([0, 1, IMAGE_TOKEN_ID, VIDEO_TOKEN_ID])
    labels = batch["input_ids"].masked_fill(torch.isin(batch["input_ids"], not_text), -100)
    losses = []
    for text, media in rows:
        inputs = solo(processor, text, media)
        logits, slots = decoder.logits(*decoder.embed(inputs))
        of_row = inputs["input_ids"][0].clone()
        of_row[torch.isin(of_row, not_text)] = -100
        losses.append(torch.nn.functional.cross_entropy(logits[:-1], of_row[slots][1:], reduction="none"))
    expected = torch.cat(losses)
    loss = model(**batch, labels=labels, use_cache=False).loss
    torch.testing.assert_close(loss.detach(), expected[expected != 0].mean(), rtol=1e-4, atol=1e-5)
    loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


def test_the_tokens_that_stay_are_told(prompts):
    family, checkpoint, model, processor, rows = prompts
    decoder, batch = decoder_of(checkpoint, 1, family), batch_of(processor, rows)
    padding = (batch["attention_mask"] == 0).sum(-1)
    for (text, media), slots, shift in zip(rows, model.select_prompt_tokens(**batch), padding):
        inputs = solo(processor, text, media)
        assert torch.equal(slots - shift, decoder.logits(*decoder.embed(inputs))[1])
    text_alone = processor(text="w1 w2", return_tensors="pt")
    assert [slots.tolist() for slots in model.select_prompt_tokens(**text_alone)] == [[0, 1, 2]]


def test_ask_draws_what_a_deeper_layer_keeps(family, photos):
    model, processor = deep(family)
    answer = ask(model, processor, photos[0], "w2 w3", max_new_tokens=2)
    assert (answer.num_kept, answer.num_available) == (9, NUM_IMAGE_TOKENS)
    assert answer.num_prompt_tokens > NUM_IMAGE_TOKENS


def test_keeping_everything_is_the_stock_model_bit_for_bit(case):
    model, processor = deep(case.checkpoint)
    everything = {"retention_ratio": 1, **({"video_retention_ratio": 1} if "videos" in case.media else {})}
    inputs = case.inputs(processor, **everything)
    stock = FAMILY_CLASSES[case.family][1].from_pretrained(case.checkpoint.base, dtype=torch.float32).eval()
    plain = {name: value for name, value in inputs.items() if not name.startswith("num_")}
    with torch.no_grad():
        assert torch.equal(model(**inputs).logits, stock(**plain).logits)
    assert torch.equal(first_logits(model, inputs), first_logits(stock, plain))


def test_threads_and_copies_do_not_mix(family, photos):
    model, processor = deep(family)
    texts = ["w1 <image> w2", "w1 w2 w3 w4 w5 <image>"]
    prompts = [solo(processor, texts[i], {"images": photos[i : i + 1]}, num_tokens=5 + i) for i in range(2)]
    expected = [[decoder_of(family, 1).greedy(prompt)] for prompt in prompts]
    twin = copy.deepcopy(model)
    del model
    with ThreadPoolExecutor(2) as pool:
        answers = pool.map(lambda i: [greedy(twin, prompts[i]) == expected[i] for _ in range(20)], range(2))
        assert list(answers) == [[True] * 20] * 2


def test_what_cannot_drop_is_refused(family, photos):
    model, processor = deep(family)
    inputs = solo(processor, PROMPT, {"images": photos[:1]})
    compact, of_compact = load(family)
    with pytest.raises(ValueError, match="placeholders"):  # the processor of another layer
        compact.generate(**inputs, max_new_tokens=1)
    with pytest.raises(ValueError, match="placeholders"):
        model.generate(**solo(of_compact, PROMPT, {"images": photos[:1]}), max_new_tokens=1)
    with pytest.raises(ValueError, match="prefill_chunk_size=8 for a model with layer=1"):
        greedy(model, inputs, prefill_chunk_size=8)
    with pytest.raises(ValueError, match="layer=1 for continuous batching"):
        model.generate_batch([[1, 2, 3]])
    with pytest.raises(ValueError, match="layer=1 for continuous batching"):
        model.init_continuous_batching()
    with pytest.raises(ValueError, match="decided inside its language model"):
        model.select_image_tokens(inputs["pixel_values"])
    compact.config.divprune_config.layer = 1
    with pytest.raises(ValueError, match="of a model that was loaded without it"):
        greedy(compact, inputs)
    model.train()
    model.gradient_checkpointing_enable()
    with pytest.raises(ValueError, match="gradient_checkpointing_disable"):
        model(**inputs, use_cache=False)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layer": 2}, "layer=2 for a language model of 2 layers, expected 0 to 1"),
        ({"layer": -1}, "layer=-1, expected a whole number"),
        ({"layer": True}, "layer=True, expected a whole number"),
        ({"layer": 1, "order": "selection"}, "order='selection' with layer=1, which has no effect"),
        ({"layer": 1, "positions": "original"}, "positions='original' with layer=1, which has no effect"),
    ],
)
def test_impossible_layers_are_refused_while_loading(family, settings, message):
    with pytest.raises(ValueError, match=message):
        AutoConfig.from_pretrained(family.variant, divprune_config=settings)
    with pytest.raises(ValueError, match=message):
        load(family, divprune_config=settings)
    if "of 2 layers" not in message:
        with pytest.raises(ValueError, match=message):
            DivPruneConfig(**settings)
