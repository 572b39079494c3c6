"""What holds for every family, videos included; test_llava_model.py and its siblings have what is special in each."""

import pytest
import torch
from transformers import LlamaForCausalLM

from divprune_hf import select_diverse_tokens
from divprune_hf.remote_code.compat_generation import ENCODES_FIRST
from divprune_hf.remote_code.token_selection import feature_list
from tests.helpers.tiny_answers import features_in, greedy, load
from tests.helpers.tiny_models import IMAGE_TOKEN_ID, VIDEO_TOKEN_ID, WIDTH


pytestmark = pytest.mark.modeling
COUNTS = ("num_image_tokens_kept", "num_video_tokens_kept")


def configured(model, processor, block):
    """Give a loaded model and its processor a budget of everything, or of a number for images and videos alike."""
    if model.config.takes_videos:
        block = {**block, **{f"video_{name}": value for name, value in block.items()}}
    model.config.divprune_config = type(model.config.divprune_config)(**block)
    processor.divprune_config = block
    return model, processor


def image_inputs(inputs):
    return {name: inputs[name] for name in ("pixel_values", "image_sizes") if name in inputs}


def all_features(model, inputs, counts=None):
    """The features that the model's own methods return, of images and then of videos."""
    counts = counts or {}
    with torch.no_grad():
        features = feature_list(model.model.get_image_features(**image_inputs(inputs), **counts))
        if "pixel_values_videos" in inputs:
            features = features + feature_list(model.model.get_video_features(inputs["pixel_values_videos"]))
    return features


def picks_of(model, inputs):
    picks = model.select_image_tokens(**image_inputs(inputs))
    return picks + (model.select_video_tokens(inputs["pixel_values_videos"]) if "pixel_values_videos" in inputs else [])


def test_features_kept_in_a_batch_are_those_of_each_alone(case):
    model, processor = load(case.checkpoint)
    together = picks_of(model, case.inputs(processor))
    alone = [
        picks_of(model, processor(text=text, return_tensors="pt", **{k: [v[row]] for k, v in case.media.items()}))
        for row, text in enumerate(case.texts)
    ]
    expected = [picks for kind in zip(*alone) for picks in kind]
    assert all(torch.equal(one, other) for one, other in zip(together, expected, strict=True))


def test_a_static_cache_and_no_cache_answer_alike(case):
    model, processor = load(case.checkpoint)
    inputs = case.inputs(processor)
    answers = greedy(model, inputs)
    assert greedy(model, inputs, cache_implementation="static") == answers
    assert greedy(model, inputs, use_cache=False) == answers
    assert answers[0] != answers[1]


def test_a_prefill_in_parts_answers_as_one_at_once_or_is_refused(case):
    model, processor = load(case.checkpoint)
    inputs = case.inputs(processor)
    if not ENCODES_FIRST:  # before transformers 5.23
        with pytest.raises(ValueError, match="prefill_chunk_size=8"):
            greedy(model, inputs, prefill_chunk_size=8)
    else:
        assert greedy(model, inputs, prefill_chunk_size=8) == greedy(model, inputs)


@pytest.mark.parametrize("drafting", ["the same model", "its language model alone"])
def test_a_model_that_drafts_changes_no_answer(case, drafting):
    model, processor = load(case.checkpoint)
    row = {name: values[:1] for name, values in case.media.items()}
    inputs = processor(**row, text=case.texts[0], return_tensors="pt")
    arguments = {"max_new_tokens": 6, "do_sample": False, "suppress_tokens": [IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]}
    answer = model.generate(**inputs, **arguments)
    assistant, _ = load(case.checkpoint)
    if drafting != "the same model":
        language_model = LlamaForCausalLM(model.config.text_config).eval()
        language_model.model, language_model.lm_head = assistant.model.language_model, assistant.lm_head
        assistant = language_model
    assert torch.equal(model.generate(**inputs, **arguments, assistant_model=assistant), answer)


def test_several_answers_per_prompt_follow_each_row(case):
    model, processor = load(case.checkpoint)
    inputs = case.inputs(processor)
    one_each = greedy(model, inputs)
    sampling = {"do_sample": True, "top_k": 1, "suppress_tokens": [IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]}
    many = model.generate(**inputs, max_new_tokens=6, min_new_tokens=6, num_return_sequences=3, **sampling)
    assert many[:, inputs["input_ids"].shape[1] :].tolist() == [one_each[0]] * 3 + [one_each[1]] * 3


def test_training_sees_the_kept_tokens(case):
    model, processor = load(case.checkpoint)
    model.train()
    model.gradient_checkpointing_enable()
    inputs = case.inputs(processor)
    placeholders = torch.isin(inputs["input_ids"], torch.tensor([IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]))
    model(**inputs, labels=inputs["input_ids"].masked_fill(placeholders, -100), use_cache=False).loss.backward()
    assert model.model.multi_modal_projector.linear_1.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("mode", ["bfloat16 weights", "float16 weights", "autocast"])
def test_selection_is_made_in_float32(case, mode):
    model, processor = load(case.checkpoint)
    inputs = case.inputs(processor)
    dtype = torch.float16 if mode.startswith("float16") else torch.bfloat16
    if mode != "autocast":
        model, inputs = model.to(dtype), inputs.to(dtype)
    with torch.autocast("cpu", dtype=dtype, enabled=mode == "autocast"):
        features = all_features(*configured(model, processor, {"retention_ratio": 1.0})[:1], inputs)
        picks = picks_of(configured(model, processor, {"num_tokens": 9})[0], inputs)
    # Autocast leaves the newline token of LLaVA-OneVision's videos in float32, and what it is put beside follows.
    is_promoted = mode == "autocast" and case.family == "llava_onevision"
    num_images = len(inputs["pixel_values"])
    for number, (tokens, indices) in enumerate(zip(features, picks, strict=True)):
        assert tokens.dtype == (torch.float32 if is_promoted and number >= num_images else dtype)
        assert torch.equal(indices, select_diverse_tokens(tokens.double(), 9))


def test_outputs_are_the_stock_models(case):
    """Kept features in the output, and a tuple where one is asked for, as in the stock model."""
    model, processor = configured(*load(case.checkpoint), {"num_tokens": 9})
    inputs = case.inputs(processor)
    for part in (model, model.model):
        outputs, plain = part(**inputs), part(**inputs, return_dict=False)
        assert features_in(outputs).shape == (18, WIDTH)
        assert isinstance(plain, tuple) and torch.equal(plain[0], outputs[0])
        if model.config.takes_videos:
            assert features_in(outputs, "video").shape == (18, WIDTH)


def test_the_models_config_decides_where_counts_are_missing(case):
    model, processor = configured(*load(case.checkpoint), {"num_tokens": 5})
    inputs = case.inputs(processor)
    without = {name: value for name, value in inputs.items() if name not in COUNTS}
    stored, _ = load(case.checkpoint)
    with torch.no_grad():
        logits = model(**inputs).logits
        assert torch.equal(logits, model(**without).logits)
        assert torch.equal(logits, stored(**inputs).logits)  # the processor's counts win
        with pytest.raises(ValueError, match="placeholders"):
            stored(**without)


def test_a_finished_prompt_may_name_its_placeholders(case):
    """`inputs_embeds` that hold the kept features already, with the ids that they were made from."""
    model, processor = load(case.checkpoint)
    inputs = case.inputs(processor)
    embeds = model.get_input_embeddings()(inputs["input_ids"]).detach()
    tokens = [IMAGE_TOKEN_ID, VIDEO_TOKEN_ID]
    arguments = {"attention_mask": inputs["attention_mask"], "max_new_tokens": 2, "suppress_tokens": tokens}
    answers = model.generate(input_ids=inputs["input_ids"], inputs_embeds=embeds, **arguments)
    assert answers.shape[1] == inputs["input_ids"].shape[1] + 2
