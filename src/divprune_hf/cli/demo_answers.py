"""The part of the demo in a process of its own, run by path: it loads a variant as a stranger would, as remote code.

It imports nothing of divprune_hf. Usage: demo_answers.py VARIANT QUESTIONS SETTINGS. SETTINGS are JSON; it prints JSON.
"""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor


def main(variant: str, questions_file: str, settings: str) -> None:
    """Answer every question of a JSON file; print answers, picks, prefill milliseconds and peak bytes as JSON."""
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    loading = {"trust_remote_code": True, "divprune_config": json.loads(settings)}
    model = AutoModelForImageTextToText.from_pretrained(variant, device_map="auto", **loading).eval()
    processor = AutoProcessor.from_pretrained(variant, **loading)
    answers: list[dict[str, Any]] = []
    prefill: list[float] = []
    kept_by_scene: dict[str, list[int]] = {}
    for question in json.loads(Path(questions_file).read_text(encoding="utf-8")):
        scene = question["image"]
        content = [{"type": "image"}, {"type": "text", "text": question["question"]}]
        prompt = processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)
        picture = Image.open(Path(questions_file).parent / scene).convert("RGB")
        inputs = processor(images=[picture], text=[prompt], return_tensors="pt")
        inputs = inputs.to(model.device, model.dtype)
        with torch.inference_mode():
            if not prefill:
                model(**inputs)  # the first call pays for set-up
            started = time.perf_counter()
            model(**inputs)
            if torch.cuda.is_available():
                torch.cuda.synchronize()
            prefill.append(1000 * (time.perf_counter() - started))
            tokens = model.generate(**inputs, max_new_tokens=8, do_sample=False)
        answer = processor.decode(tokens[0, inputs["input_ids"].shape[1] :], skip_special_tokens=True).strip()
        answers.append({"answer": answer, "prompt_tokens": inputs["input_ids"].shape[1]})
        if scene not in kept_by_scene:
            counts = inputs["num_image_tokens_kept"]
            (kept,) = model.select_image_tokens(inputs["pixel_values"], num_image_tokens_kept=counts)
            kept_by_scene[scene] = kept.tolist()
    if torch.cuda.is_available():
        peak_bytes = torch.cuda.max_memory_allocated()
    else:
        peak_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    result = {
        "module": type(model).__module__,
        "answers": answers,
        "kept_by_scene": kept_by_scene,
        "prefill_ms": sorted(prefill)[len(prefill) // 2],
        "peak_bytes": peak_bytes,
    }
    print(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
