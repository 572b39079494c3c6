"""Load a variant as remote code and answer a tiny prompt: python load_check.py FOLDER meta|weights

`checks.py` runs this file as a script, in a process that has not imported the package. So the folder's own code is what
loads.
"""

import json
import sys
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any
from unittest import mock

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor


@dataclass(frozen=True)
class Subject:
    """An image or a video to ask about, and the names that belong to its kind.

    Attributes:
        source: the argument of the processor.
        token: its placeholder in the text.
        token_id: the id of the placeholder.
        counts: the processor's output with the number of kept tokens.
    """

    source: dict[str, Any]
    token: str
    token_id: int
    counts: str


def load_and_answer(folder: str, on_meta: bool) -> dict[str, Any]:
    """Return a report of the classes that were loaded, of loading problems, and of the answers.

    On the meta device weights have no data, so one forward takes the place of generating.
    """
    processor: Any = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    model: Any
    unloaded: Any = {}
    if on_meta:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=True)
    else:
        load: Any = AutoModelForImageTextToText.from_pretrained  # its types do not know of loading info
        model, unloaded = load(folder, trust_remote_code=True, output_loading_info=True)
    model.eval()
    image = Subject({"images": picture()}, processor.image_token, model.config.image_token_id, "num_image_tokens_kept")
    answers = {"image": answer(model, processor, on_meta, image)}
    if processor.takes_videos:
        frames = {"videos": [[picture(), picture()]]}
        video = Subject(frames, processor.video_token, model.config.video_token_id, "num_video_tokens_kept")
        answers["video"] = answer(model, processor, on_meta, video)
    return {
        "modules": [type(thing).__module__ for thing in (model, processor)],
        "problems": {kind: sorted(map(str, keys)) for kind, keys in unloaded.items() if keys and kind != "error_msgs"},
        "answers": answers,
    }


def answer(model: Any, processor: Any, on_meta: bool, subject: Subject) -> dict[str, Any]:
    """Ask about an image or a video; return the counts of tokens and placeholders, and the shape of the logits."""
    inputs = dict(processor(text=f"{subject.token} hi", return_tensors="pt", **subject.source))
    if on_meta:
        del inputs["attention_mask"]  # nothing is padded, and transformers would read its values
        inputs |= {name: value.to("meta") for name, value in inputs.items() if name.startswith("pixel_values")}
    with torch.no_grad(), without_autocast() if on_meta else nullcontext():
        logits = model(**inputs).logits
        tokens = [] if on_meta else model.generate(**inputs, max_new_tokens=2, do_sample=False).tolist()
    return {
        "kept": inputs[subject.counts].tolist(),
        "prompt": inputs["input_ids"].shape[1],
        "placeholders": int((inputs["input_ids"] == subject.token_id).sum()),
        "logits": list(logits.shape),
        "finite": on_meta or bool(logits.isfinite().all()),
        "tokens": tokens,
    }


def without_autocast() -> AbstractContextManager[Any]:
    """Replace `torch.autocast`, which transformers 4.57 uses and the meta device lacks, by a context without effect."""
    return mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext())


def picture() -> Image.Image:
    """Return a small picture, a gradient."""
    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


if __name__ == "__main__":
    print(json.dumps(load_and_answer(sys.argv[1], sys.argv[2] == "meta")))
