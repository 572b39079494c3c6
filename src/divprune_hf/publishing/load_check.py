"""Load a variant as remote code and answer a tiny prompt: python load_check.py FOLDER meta|weights

`checks.py` runs this as a script in a process that has not imported the package: what loads is the folder's own code.
"""

import json
import sys
from contextlib import nullcontext
from unittest import mock

import torch
from PIL import Image
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor


def load_and_answer(folder, on_meta):
    """A dict that says what was loaded and what came out.

    On the meta device weights have no data and no answer has words, so one forward takes the place of generating.
    """
    processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
    if on_meta:
        config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
        with torch.device("meta"):
            model = AutoModelForImageTextToText.from_config(config, trust_remote_code=True)
        unloaded = {}
    else:
        model, unloaded = AutoModelForImageTextToText.from_pretrained(
            folder, trust_remote_code=True, output_loading_info=True
        )
    model.eval()
    answers = {"image": answer(model, processor, on_meta, "image", images=picture())}
    if processor.takes_videos:
        answers["video"] = answer(model, processor, on_meta, "video", videos=[[picture(), picture()]])
    return {
        "modules": [type(thing).__module__ for thing in (model, processor)],
        "problems": {kind: sorted(map(str, keys)) for kind, keys in unloaded.items() if keys and kind != "error_msgs"},
        "answers": answers,
    }


def answer(model, processor, on_meta, kind, **source):
    """Ask about one image or video (`kind`): how many visual tokens were kept, and what came out."""
    inputs = dict(processor(text=f"{getattr(processor, f'{kind}_token')} hi", return_tensors="pt", **source))
    if on_meta:
        del inputs["attention_mask"]  # nothing is padded, and transformers reads its values
        inputs |= {name: value.to("meta") for name, value in inputs.items() if name.startswith("pixel_values")}
    with torch.no_grad(), without_autocast() if on_meta else nullcontext():
        logits = model(**inputs).logits
        tokens = [] if on_meta else model.generate(**inputs, max_new_tokens=2, do_sample=False).tolist()
    return {
        "kept": inputs[f"num_{kind}_tokens_kept"].tolist(),
        "prompt": inputs["input_ids"].shape[1],
        "placeholders": int((inputs["input_ids"] == getattr(model.config, f"{kind}_token_id")).sum()),
        "logits": list(logits.shape),
        "finite": on_meta or bool(logits.isfinite().all()),
        "tokens": tokens,
    }


def without_autocast():
    """The meta device has no autocast, but transformers 4.57 switches it off there; this process runs nothing else."""
    return mock.patch.object(torch, "autocast", lambda *_, **__: nullcontext())


def picture():
    return Image.linear_gradient("L").resize((48, 32)).convert("RGB")


if __name__ == "__main__":
    print(json.dumps(load_and_answer(sys.argv[1], sys.argv[2] == "meta")))
