"""What the processor and `generate` must not take without a word: ids for a text, and new pictures behind a cache."""

import numpy as np
import pytest
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from divprune_hf.remote_code.compat_generation import SEES_NEW_PICTURES


pytestmark = pytest.mark.modeling

NOT_TEXT = {
    "ids": [1, 5, 7],
    "rows_of_ids": [[1, 5, 7], [1, 8, 2]],
    "a_tensor": torch.tensor([1, 5, 7]),
    "a_batch_tensor": torch.tensor([[1, 5, 7]]),
    "an_array": np.array([1, 5, 7]),
    "a_list_of_tensors": [torch.tensor([1, 5, 7])],
    "words": [["w1", "<image>"]],
    "text_and_ids": ["w1 <image>", 7],
    "text_and_none": ["w1 <image>", None],
    "bytes": b"w1 <image>",
    "floats": [0.5],
    "a_number": 7,
}


@pytest.mark.parametrize("with_picture", [True, False], ids=["picture", "text_alone"])
@pytest.mark.parametrize("text", NOT_TEXT.values(), ids=NOT_TEXT)
def test_ids_are_no_text(case, photos, text, with_picture):
    processor = AutoProcessor.from_pretrained(case.checkpoint.variant)
    with pytest.raises(ValueError, match="expected a string or a list of strings"):
        processor(images=photos[0] if with_picture else None, text=text)


@pytest.mark.parametrize("text", ["w1 <image> w2", ["w1 <image> w2"], ("w1 <image> w2",)], ids=["str", "list", "tuple"])
def test_texts_are_text(case, photos, text):
    processor = AutoProcessor.from_pretrained(case.checkpoint.variant)
    ids = processor(images=photos[0], text=text, return_tensors="pt")["input_ids"]
    assert ids.shape[0] == 1 and processor.image_token_id in ids


GREEDY = {"max_new_tokens": 4, "do_sample": False}


class Chat:
    """A chat about a picture that is in the cache, and what comes next."""

    def __init__(self, checkpoint, picture):
        self.model = AutoModelForImageTextToText.from_pretrained(checkpoint.variant).eval()
        self.processor = AutoProcessor.from_pretrained(checkpoint.variant)
        self.cache = DynamicCache(config=self.model.config.get_text_config())
        self.first = self.turn(images=[picture], text=["w1 <image> w2"])
        self.said = self.model.generate(**self.first, **GREEDY, past_key_values=self.cache)

    def turn(self, **inputs):
        return self.processor(**inputs, return_tensors="pt")

    def whole(self, turn):
        """The ids of all turns, as `generate` takes them beside the cache."""
        ids = torch.cat([self.said, turn.pop("input_ids")], dim=1)
        return {**turn, "input_ids": ids, "attention_mask": torch.ones_like(ids)}

    def go_on(self, inputs, **arguments):
        answer = self.model.generate(**inputs, **GREEDY, **arguments)
        return answer[:, inputs["input_ids"].shape[1] :].tolist()


def new_pixels(chat, turn):
    return chat.whole(turn)


def all_pixels(chat, turn):
    names = set(chat.first) - {"input_ids", "attention_mask"}
    return chat.whole({**turn, **{name: torch.cat([chat.first[name], turn[name]]) for name in names}})


def no_pixels(chat, turn):
    return chat.whole({"input_ids": turn["input_ids"]})


def as_embeddings(chat, turn):
    inputs = new_pixels(chat, turn)
    return {**inputs, "inputs_embeds": chat.model.get_input_embeddings()(inputs["input_ids"])}


NEW_PICTURES = [new_pixels, all_pixels, no_pixels, as_embeddings]


@pytest.mark.skipif(SEES_NEW_PICTURES, reason="this release reads new pictures behind a cache")
@pytest.mark.parametrize("inputs_of", NEW_PICTURES, ids=lambda inputs_of: inputs_of.__name__)
def test_a_new_picture_behind_the_cache_is_refused_where_it_would_be_dropped(case, photos, inputs_of):
    chat = Chat(case.checkpoint, photos[0])
    inputs = inputs_of(chat, chat.turn(images=[photos[1]], text=["w7 <image> w9"]))
    length = chat.cache.get_seq_length()
    with pytest.raises(ValueError, match=r"image placeholders behind the \d+ tokens in the cache"):
        chat.model.generate(**inputs, **GREEDY, past_key_values=chat.cache)
    assert chat.cache.get_seq_length() == length


@pytest.mark.skipif(SEES_NEW_PICTURES, reason="this release reads new pictures behind a cache")
def test_a_new_video_behind_the_cache_is_refused_where_it_would_be_dropped(make_checkpoint, clips, photos):
    chat = Chat(make_checkpoint(family="llava_next_video"), photos[0])
    inputs = chat.whole(chat.turn(videos=[clips[0]], text=["w7 <video> w9"]))
    with pytest.raises(ValueError, match="video placeholders behind"):
        chat.model.generate(**inputs, **GREEDY, past_key_values=chat.cache)


@pytest.mark.skipif(not SEES_NEW_PICTURES, reason="this release drops new pictures behind a cache")
@pytest.mark.parametrize("second", [0, 1])
def test_a_new_picture_behind_the_cache_is_seen_by_later_releases(case, photos, second):
    """The answer is that to the whole chat without a cache."""
    chat = Chat(case.checkpoint, photos[0])
    turn = chat.turn(images=[photos[second].resize((50, 50))], text=["w7 <image> w9"])
    together = {name: torch.cat([chat.first[name], turn[name]]) for name in ("num_image_tokens_kept",)}
    pictures = [photos[0], photos[second].resize((50, 50))]
    pixels = chat.processor.image_processor(pictures, return_tensors="pt")
    inputs = chat.whole(dict(turn))
    cached = chat.go_on(inputs, past_key_values=chat.cache)
    assert cached == chat.go_on({**inputs, **pixels, **together})


def test_a_chat_goes_on_without_a_new_picture(case, photos):
    """The old picture's pixels may be passed again; they are in the cache."""
    answers = []
    for with_pixels in (False, True):
        chat = Chat(case.checkpoint, photos[0])
        inputs = chat.whole({"input_ids": chat.turn(text=["w7 w9"])["input_ids"]})
        whole = {**chat.first, **inputs}
        if with_pixels and not SEES_NEW_PICTURES:
            inputs = whole
        answers.append(chat.go_on(inputs, past_key_values=chat.cache))
        assert answers[-1] == chat.go_on(whole)
    assert answers[0] == answers[1]


def test_an_empty_cache_is_the_beginning_of_a_chat(case, photos):
    model = AutoModelForImageTextToText.from_pretrained(case.checkpoint.variant).eval()
    processor = AutoProcessor.from_pretrained(case.checkpoint.variant)
    inputs = processor(images=[photos[0]], text=["w1 <image> w2"], return_tensors="pt")
    cache = DynamicCache(config=model.config.get_text_config())
    assert torch.equal(model.generate(**inputs, **GREEDY, past_key_values=cache), model.generate(**inputs, **GREEDY))
