"""The trained model that ships: its layout, and pruning on trained weights, its own scenes and real photos."""

import json

import pytest
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, LlavaForConditionalGeneration, pipeline

from divprune_hf import convert_checkpoint
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.inference.ask import ask
from divprune_hf.remote_code.token_selection import feature_list


QUESTIONS = json.loads((pocket_llava() / "examples" / "questions.json").read_text(encoding="utf-8"))
PRESENCE = [question for question in QUESTIONS if question["kind"] == "presence"]


@pytest.fixture(scope="module")
def variant(tmp_path_factory):
    return convert_checkpoint(pocket_llava(), tmp_path_factory.mktemp("pocket") / "variant")


@pytest.fixture(scope="module")
def stock():
    return LlavaForConditionalGeneration.from_pretrained(pocket_llava()).eval()


@pytest.fixture(scope="module")
def pruned(variant):
    return AutoModelForImageTextToText.from_pretrained(variant).eval(), AutoProcessor.from_pretrained(variant)


def scene(question):
    return Image.open(pocket_llava() / "examples" / question["image"]).convert("RGB")


def prompt(processor, text):
    content = [{"type": "image"}, {"type": "text", "text": text}]
    return processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)


def test_it_is_a_small_stock_checkpoint():
    model, info = LlavaForConditionalGeneration.from_pretrained(pocket_llava(), output_loading_info=True)
    assert not info["missing_keys"] and not info["unexpected_keys"] and not info["mismatched_keys"]
    files = [path for path in pocket_llava().rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= 14e6
    text, vision = model.config.text_config, model.config.vision_config
    assert text.model_type == "llama" and text.num_hidden_layers >= 6
    assert text.hidden_size // text.num_attention_heads in (32, 64)
    assert text.num_attention_heads % 2 == 0 and text.num_key_value_heads % 2 == 0
    assert vision.model_type == "clip_vision_model" and (vision.image_size // vision.patch_size) ** 2 >= 256
    assert (pocket_llava() / "README.md").is_file()


def test_twelve_scenes_ship_with_questions_and_answers():
    assert len({question["image"] for question in QUESTIONS}) == 12
    assert all(scene(question).size == (224, 224) for question in QUESTIONS)
    answers = [question["answer"] for question in PRESENCE]
    assert answers.count("yes") == answers.count("no") >= 12


def test_it_answers_its_own_scenes_with_all_tokens_and_with_a_tenth(pruned):
    """Loose bounds: the held-out figures are on its card; this tells a trained model from a broken one."""
    model, processor = pruned
    right = {"full": 0, "pruned": 0}
    for question in PRESENCE:
        for name, ratio in (("full", 1.0), ("pruned", 0.098)):
            inputs = processor(
                images=scene(question),
                text=prompt(processor, question["question"]),
                retention_ratio=ratio,
                return_tensors="pt",
            )
            tokens = model.generate(**inputs, max_new_tokens=4, do_sample=False)
            answer = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
            right[name] += answer == question["answer"]
    assert right["full"] >= 0.8 * len(PRESENCE) and right["pruned"] >= 0.7 * len(PRESENCE)


def test_real_photos_shorten_the_prompt_and_leave_the_language_model_stock(pruned, stock, photos):
    model, processor = pruned
    for photo in photos:
        text = prompt(processor, "Is there a bag?")
        inputs = processor(images=photo, text=text, return_tensors="pt")
        everything = processor(images=photo, text=text, retention_ratio=1.0, return_tensors="pt")
        assert everything["input_ids"].shape[1] - inputs["input_ids"].shape[1] == 256 - 25
        (picks,) = model.select_image_tokens(inputs["pixel_values"])
        with torch.no_grad():
            (features,) = feature_list(stock.get_image_features(pixel_values=inputs["pixel_values"]))
            embeds = stock.get_input_embeddings()(inputs["input_ids"])
            embeds[inputs["input_ids"] == stock.config.image_token_index] = features[picks]
            reference = stock(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits
            assert torch.equal(model(**inputs).logits, reference)
            embeds[inputs["input_ids"] == stock.config.image_token_index] = features[:25]
            assert not torch.equal(
                stock(inputs_embeds=embeds, attention_mask=inputs["attention_mask"]).logits, reference
            )


def test_a_batch_of_scenes_answers_as_each_alone(pruned):
    model, processor = pruned
    some = QUESTIONS[:8]
    texts = [prompt(processor, question["question"]) for question in some]
    batch = processor(images=[scene(q) for q in some], text=texts, padding=True, return_tensors="pt")
    assert batch["attention_mask"].min() == 0
    together = model.generate(**batch, max_new_tokens=6, do_sample=False)[:, batch["input_ids"].shape[1] :]
    answers = processor.batch_decode(together, skip_special_tokens=True)
    alone = []
    for question in some:
        answer = ask(model, processor, scene(question), question["question"], max_new_tokens=6)
        assert (answer.num_kept, answer.num_available) == (25, 256)
        alone.append(answer.text)
    assert [answer.strip() for answer in answers] == alone and len(set(alone)) > 1


def test_the_pipeline_answers_about_photos(variant, photos):
    answers = pipeline("image-text-to-text", model=str(variant))
    for photo in photos:
        content = [{"type": "image", "image": photo}, {"type": "text", "text": "Is there a bag?"}]
        (answer,) = answers(text=[{"role": "user", "content": content}], max_new_tokens=4, return_full_text=False)
        assert answer["generated_text"].strip() in ("yes", "no")
