"""Requests to an OpenAI server that must not be answered, by name: what is sent, and what the refusal says."""

from tests.helpers.vllm_processes import picture_part


def budgets():
    """Yield (name, mm_processor_kwargs, part of the refusal)."""
    whole, share = "expected an integer of at least 1", "expected a number above 0 and at most 1"
    for value in (0, -1, 1.5, "64", True, [], {}, 1e300):
        yield f"num_tokens={value!r}", {"num_tokens": value}, f"Got num_tokens={value!r}, {whole}"
    for value in (0, -0.1, 1.5, 2, "0.1", True, [0.1], {}):
        yield f"retention_ratio={value!r}", {"retention_ratio": value}, f"Got retention_ratio={value!r}, {share}"
    yield "two budgets", {"num_tokens": 5, "retention_ratio": 0.5}, "Got both retention_ratio=0.5 and num_tokens=5"
    for name, meant in (("num_token", "num_tokens"), ("retention", "retention_ratio"), ("Num_tokens", "num_tokens")):
        yield name, {name: 5}, f"Got {name}=5, which nothing in this processor takes. Did you mean {meant}?"
    for name in ("bogus", "num_image_tokens_kept", "layers"):
        yield name, {name: [300]}, f"Got {name}=[300], which nothing in this processor takes"
    for name, value in (
        ("order", "selection"),
        ("selector", "random"),
        ("seed", 3),
        ("positions", "original"),
        ("layer", 2),
    ):
        yield name, {name: value}, f"Got {name}={value!r} in a call of the processor, which takes only the budgets"
    yield "divprune_config", {"divprune_config": {"num_tokens": 5}}, "Got divprune_config="
    for name in ("video_num_tokens", "video_retention_ratio"):
        yield name, {name: 1}, f"Got {name}=1 for a model that takes no videos"
    yield "nested value", {"images_kwargs": {"num_tokens": 0}}, f"Got num_tokens=0, {whole}"
    yield "nested name", {"images_kwargs": {"num_token": 5}}, "Got num_token=5, which nothing"
    yield "nested setting", {"images_kwargs": {"order": "selection"}}, "Got order='selection' in a call"
    yield "no dict", [5], "mm_processor_kwargs"


def inputs(picture, video_url):
    """Yield (name, content of a message, part of the refusal); the texts are vLLM's."""

    def image_url(url):
        return [
            {"type": "image_url", "image_url": {"url": url}},
            {"type": "text", "text": "How many objects are there?"},
        ]

    yield "no base64", image_url("data:image/png;base64,!!!"), "base64"
    yield "no picture", image_url("data:image/png;base64,aGVsbG8="), "image"
    yield "empty picture", image_url("data:image/png;base64,"), "image"
    yield "a local file", image_url("file:///etc/hostname"), "local"
    yield "four pictures", [picture_part(picture)] * 4, "At most 3 image(s)"
    yield "a video", [{"type": "video_url", "video_url": {"url": video_url}}], "video"
    yield "too long", [picture_part(picture), {"type": "text", "text": "bag " * 1200}], "1024"
    yield "an unknown part", [{"type": "nonsense"}], ""


BODIES = {
    "no JSON": "{",
    "no messages": {"model": "m"},
    "no such model": {"model": "no-such-model", "messages": [{"role": "user", "content": "bag"}]},
    "no message at all": {"messages": []},
}
