"""LLaVA-NeXT-Video's processor: budgets of videos as data, counts, and input that cannot be right."""

import numpy as np
import pytest
import torch
from transformers import AutoProcessor

from divprune_hf import keep_count, set_budget
from tests.helpers.tiny_answers import greedy, load


pytestmark = pytest.mark.modeling
NUM_VIDEO_TOKENS = 72
PROMPT = "w1 <video> w2 w3"


@pytest.fixture(scope="module")
def checkpoint(make_checkpoint, video_files):
    return make_checkpoint(family="llava_next_video")


@pytest.fixture(scope="module")
def processor(checkpoint):
    return AutoProcessor.from_pretrained(checkpoint.variant)


@pytest.fixture(scope="module")
def model(checkpoint):
    return load(checkpoint)[0]


@pytest.mark.parametrize(
    ("budget", "kept"),
    [
        ({}, 7),
        ({"video_num_tokens": 20}, 20),
        ({"video_retention_ratio": 0.5}, 36),
        ({"video_num_tokens": 500}, NUM_VIDEO_TOKENS),
        ({"videos_kwargs": {"video_num_tokens": 20}}, 20),
        ({"num_tokens": 20}, 7),
    ],
    ids=str,
)
def test_a_call_writes_as_many_placeholders_as_it_keeps_tokens(processor, model, clips, budget, kept):
    inputs = processor(videos=clips[0], text=PROMPT, return_tensors="pt", **budget)
    assert inputs["num_video_tokens_kept"].tolist() == [kept]
    assert (inputs["input_ids"] == model.config.video_token_id).sum() == kept
    assert len(greedy(model, inputs)[0]) == 6


def test_images_and_videos_have_budgets_of_their_own(processor, model, clips, photos):
    inputs = processor(
        images=photos,
        videos=clips[:1],
        text="<image> <video> <image>",
        num_tokens=5,
        video_num_tokens=9,
        return_tensors="pt",
    )
    assert inputs["num_image_tokens_kept"].tolist() == [5, 5] and inputs["num_video_tokens_kept"].tolist() == [9]
    ids = inputs["input_ids"][0].tolist()
    assert ids[-19:] == [model.config.image_token_id] * 5 + [model.config.video_token_id] * 9 + [4] * 5


def test_token_types_tell_images_from_videos(processor, clips, photos):
    inputs = processor(
        images=photos[0],
        videos=clips[0],
        text="<image> <video>",
        num_tokens=2,
        video_num_tokens=3,
        return_mm_token_type_ids=True,
        return_tensors="pt",
    )
    assert inputs["mm_token_type_ids"][0, -5:].tolist() == [1, 1, 2, 2, 2]


def test_chat_messages_take_a_video(processor, clips):
    messages = [{"role": "user", "content": [{"type": "video"}, {"type": "text", "text": "w1"}]}]
    prompt = processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
    assert processor(videos=clips[0], text=prompt, return_tensors="pt")["num_video_tokens_kept"].tolist() == [7]


@pytest.mark.parametrize("budget", [{}, {"num_tokens": 5, "video_num_tokens": 9}], ids=["stored", "given"])
def test_engines_are_told_the_kept_counts(processor, clips, photos, budget):
    inputs = processor(
        images=photos, videos=clips, text="<image><image><video><video><video>", return_tensors="pt", **budget
    )
    data = processor._get_num_multimodal_tokens(
        image_sizes=[(photo.height, photo.width) for photo in photos],
        video_sizes=[clip.shape[:3] for clip in clips],
        **budget,
    )
    assert data.num_image_tokens == inputs["num_image_tokens_kept"].tolist()
    assert data.num_video_tokens == inputs["num_video_tokens_kept"].tolist()


def test_a_processor_keeps_its_video_budget_through_saving(checkpoint, tmp_path, clips):
    changed = AutoProcessor.from_pretrained(checkpoint.variant, divprune_config={"video_num_tokens": 20})
    changed.save_pretrained(tmp_path)
    again = type(changed).from_pretrained(tmp_path)
    assert again.divprune_config == {"retention_ratio": 0.25, "order": "raster", "video_num_tokens": 20}
    assert again(videos=clips[0], text=PROMPT, return_tensors="pt")["num_video_tokens_kept"].tolist() == [20]


def test_set_budget_changes_model_and_processor(checkpoint, clips):
    model, processor = load(checkpoint)
    set_budget(model, processor, video_retention_ratio=0.5)
    inputs = processor(videos=clips[0], text=PROMPT, return_tensors="pt")
    (picks,) = model.select_video_tokens(inputs["pixel_values_videos"])
    assert len(picks) == 36 == inputs["num_video_tokens_kept"].item()
    assert model.config.divprune_config.to_block() == processor.divprune_config
    assert processor.divprune_config["retention_ratio"] == 0.25


@pytest.mark.parametrize(
    "budget",
    [
        {"video_num_tokens": 0},
        {"video_num_tokens": 1.5},
        {"video_retention_ratio": 0.0},
        {"video_retention_ratio": 1.1},
        {"video_num_tokens": 5, "video_retention_ratio": 0.5},
    ],
    ids=str,
)
def test_an_impossible_video_budget_is_refused(checkpoint, processor, clips, budget):
    with pytest.raises(ValueError, match="video_"):
        processor(videos=clips[0], text=PROMPT, **budget)
    with pytest.raises(ValueError, match="video_"):
        set_budget(*load(checkpoint), **budget)


def test_a_video_budget_for_a_model_without_videos_is_refused(family, clips):
    model, processor = load(family)
    for refused in (
        lambda: load(family, divprune_config={"video_num_tokens": 5}),
        lambda: set_budget(model, processor, video_num_tokens=5),
        lambda: AutoProcessor.from_pretrained(family.variant, divprune_config={"video_num_tokens": 5}),
    ):
        with pytest.raises(ValueError, match="takes no videos"):
            refused()
    with pytest.raises(ValueError, match="images only"):
        processor(videos=clips[0], text="w1")


@pytest.mark.parametrize(
    ("make_videos", "message"),
    [
        (lambda clips, photo: clips[0][:0], "without frames"),
        (lambda clips, photo: [clips[0], clips[1][:0]], "without frames"),
        (lambda clips, photo: [], "without frames"),
        (lambda clips, photo: photo, "picture where a video belongs"),
        (lambda clips, photo: clips[0][0], "picture where a video belongs"),
        (lambda clips, photo: [clips[0], photo], "picture where a video belongs"),
        (
            lambda clips, photo: [clips[0], clips[1][:3]],
            "sample as many frames from every video, or call once per video",
        ),
        (lambda clips, photo: clips[0], "write one <video> for each video"),
        (lambda clips, photo: clips, "write one <video> for each video"),
    ],
    ids=["no frames", "one without", "no video", "picture", "array", "picture beside", "unequal", "one", "three"],
)
def test_videos_that_cannot_be_meant_are_refused(processor, clips, photos, make_videos, message):
    with pytest.raises(ValueError, match=message):
        processor(videos=make_videos(clips, photos[0]), text="<video> w1 <video>", return_tensors="pt")


def test_a_list_of_pictures_is_a_video(processor, photos, clips):
    frames = [photos[0]] * 8
    inputs = processor(videos=[frames], text=PROMPT, return_tensors="pt")
    assert processor.count_video_tokens(inputs) == [NUM_VIDEO_TOKENS]
    reference = processor(videos=np.stack([np.array(photos[0])] * 8), text=PROMPT, return_tensors="pt")
    assert torch.equal(inputs["pixel_values_videos"], reference["pixel_values_videos"])


@pytest.mark.parametrize("counts", [[6], [7, 7], [73], [0], []], ids=str)
def test_counts_that_do_not_fit_are_refused(processor, model, clips, counts):
    inputs = processor(videos=clips[0], text=PROMPT, return_tensors="pt")
    inputs["num_video_tokens_kept"] = torch.tensor(counts, dtype=torch.long)
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="num_video_tokens_kept"):
            call(**inputs)


@pytest.mark.parametrize(
    "sizes",
    [None, [], [[30, 60], [60, 30]], [[0, 60]], [[30]], [30, 60], [[60, 900]]],
    ids=["missing", "empty", "too many", "zero", "short", "flat", "more views"],
)
@pytest.mark.parametrize("family_name", ["llava_next", "llava_next_video"])
def test_image_sizes_that_cannot_be_are_refused(make_checkpoint, video_files, photos, family_name, sizes):
    model, processor = load(make_checkpoint(family=family_name))
    inputs = processor(images=photos[0].resize((24, 24)), text="w1 <image>", return_tensors="pt")
    del inputs["image_sizes"]
    sizes = {} if sizes is None else {"image_sizes": torch.tensor(sizes)}
    for call in (model, model.generate):
        with pytest.raises(ValueError, match="image_sizes"):
            call(**inputs, **sizes)


def test_kept_counts_of_a_longer_video_are_rounded_half_to_even(processor):
    data = processor._get_num_multimodal_tokens(video_sizes=[(1, 30, 30), (5, 300, 20)], video_retention_ratio=0.5)
    assert data.num_video_tokens == [keep_count(9, retention_ratio=0.5), keep_count(45, retention_ratio=0.5)] == [4, 22]


@pytest.mark.parametrize("token", ["image", "video"])
def test_placeholders_without_pixels_are_refused(model, processor, token):
    inputs = processor.tokenizer(f"w1 <{token}> w2", return_tensors="pt")
    with pytest.raises(ValueError, match=f"1 {token} placeholders"):
        model.generate(**inputs, max_new_tokens=2)


def test_a_batch_in_one_array_is_as_many_videos(processor, clips):
    batch = np.stack([clips[2], clips[2][::-1]])
    together = processor(videos=batch, text=[PROMPT] * 2, return_tensors="pt")
    apart = processor(videos=list(batch), text=[PROMPT] * 2, return_tensors="pt")
    assert together["num_video_tokens_kept"].tolist() == [7, 7]
    assert torch.equal(together["pixel_values_videos"], apart["pixel_values_videos"])
