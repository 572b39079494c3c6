"""Questions that hold the texts of special tokens: they are questions, and the one placeholder is the picture's."""

import numpy as np
import pytest
from transformers import AutoProcessor

from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.inference.ask import as_plain_text, ask, ask_about_video, chat_prompt, special_tokens
from divprune_hf.inference.loading import load_pruned


QUESTIONS = [
    "What does <image> mean?",
    "<image>",
    "<image><image>",
    "<image> <video> <image>",
    "w1 <image>\nw2",
    "<<image>>",
    "< image>",
    "<im<image>age>",
    "</s> w1",
    "<s><pad><unk>",
    "é <image> 中",
]


@pytest.mark.parametrize("question", QUESTIONS)
def test_a_question_may_name_the_placeholder(case, photos, question):
    """The prompt has the placeholders of the one picture, and no special token that the question would not have."""
    model, processor = load_pruned(case.checkpoint.variant)
    answer = ask(model, processor, photos[0], question, max_new_tokens=2)
    assert answer.num_kept < answer.num_available

    def counts(question):
        prompt = chat_prompt(processor, "image", question)
        ids = np.array(processor(images=photos[0], text=prompt)["input_ids"][0]).tolist()
        return [ids.count(token) for token in processor.tokenizer.all_special_ids]

    unknown = processor.tokenizer.all_special_ids.index(processor.tokenizer.unk_token_id)
    asked, plain = counts(question), counts("w1")
    del asked[unknown], plain[unknown]
    assert asked == plain


@pytest.mark.parametrize("with_template", [True, False], ids=["template", "plain_prompt"])
@pytest.mark.parametrize("question", QUESTIONS)
def test_a_real_tokenizer_reads_the_question_as_text(question, with_template):
    """That of pocket-llava: all the question's letters arrive, and the placeholder once."""
    processor = AutoProcessor.from_pretrained(pocket_llava())
    if not with_template:
        processor.chat_template = None
    prompt = chat_prompt(processor, "image", question)
    assert prompt.count("<image>") == 1
    assert question.replace(" ", "") in prompt.replace(" ", "")


def test_a_question_about_a_video_may_name_the_placeholder(make_checkpoint, clips):
    model, processor = load_pruned(make_checkpoint(family="llava_next_video").variant)
    answer = ask_about_video(model, processor, clips[0], "w1 <video> w2 <image>", max_new_tokens=2)
    assert answer.num_kept < answer.num_available


def test_a_question_without_special_tokens_stays_as_it_is():
    processor = AutoProcessor.from_pretrained(pocket_llava())
    for question in ("Is there a bag?", "a < b > c", "<b>image</b>", "image"):
        assert as_plain_text(question, special_tokens(processor.tokenizer)) == question
