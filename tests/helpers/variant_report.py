"""Load a variant in every way that transformers offers, and answer a question with it.

The tests import this, and run it as a script in a process that cannot import the package.
"""

import json
import sys

import torch
import transformers
from PIL import Image
from transformers import AutoConfig, AutoModel, AutoModelForImageTextToText, AutoProcessor, pipeline


# transformers 4.57 has the first two of these, transformers 5 the first and the last.
HEAD_CLASS_NAMES = ["AutoModelForImageTextToText", "AutoModelForVision2Seq", "AutoModelForMultimodalLM"]
HEAD_CLASSES = {name: getattr(transformers, name) for name in HEAD_CLASS_NAMES if hasattr(transformers, name)}
ANSWER_LENGTH = 8
GREEDY = {"max_new_tokens": ANSWER_LENGTH, "min_new_tokens": ANSWER_LENGTH, "do_sample": False}
FIVE_TOKENS = {"divprune_config": {"num_tokens": 5}}
SELECTION_ORDER = {"divprune_config": {"order": "selection"}}


def chat(**image):
    return [{"role": "user", "content": [{"type": "image", **image}, {"type": "text", "text": "w5 w6"}]}]


def prepare(processor, image, **budget):
    prompt = processor.apply_chat_template(chat(), add_generation_prompt=True)
    return processor(images=image, text=prompt, return_tensors="pt", **budget)


def answer(model, processor, image, **budget):
    """The prompt's tokens and, behind them, the answer's."""
    return model.generate(**prepare(processor, image, **budget), **GREEDY)[0].tolist()


def pipeline_answer(pipe, image):
    return pipe(text=chat(image=image), return_tensors=True, generate_kwargs=GREEDY)[0]["generated_token_ids"].tolist()


def origins(*objects):
    return [f"{type(thing).__module__}.{type(thing).__name__}" for thing in objects]


def report(folder, image, **trust):
    """For each way of loading: where the classes come from, and what they answer. `trust` is the flag, if any."""
    config = AutoConfig.from_pretrained(folder, **trust)
    processor = AutoProcessor.from_pretrained(folder, **trust)
    inner = AutoModel.from_pretrained(folder, **trust)
    with torch.no_grad():
        hidden_states = inner(**prepare(processor, image)).last_hidden_state
    result = {
        "AutoConfig": {"origins": origins(config), "budget": config.divprune_config.to_block()},
        "AutoProcessor": {"origins": origins(processor), "budget": dict(processor.divprune_config)},
        "AutoModel": {"origins": origins(inner), "values": hidden_states[0, -1].tolist()},
    }

    def add(way, model, processor, tokens):
        result[way] = {
            "origins": origins(model, processor),
            "budgets": [model.config.divprune_config.to_block(), dict(processor.divprune_config)],
            "dtype": str(model.dtype),
            "tokens": tokens,
        }

    for name, auto_class in HEAD_CLASSES.items():
        model = auto_class.from_pretrained(folder, **trust)
        add(name, model, processor, answer(model, processor, image))
    for way, arguments in (("device_map", {"device_map": "auto"}), ("dtype", {"dtype": torch.bfloat16})):
        model = AutoModelForImageTextToText.from_pretrained(folder, **arguments, **trust)
        add(way, model, processor, answer(model, processor, image))
    for way, override in (("five_tokens", FIVE_TOKENS), ("selection_order", SELECTION_ORDER)):
        model = AutoModelForImageTextToText.from_pretrained(folder, **override, **trust)
        processor = AutoProcessor.from_pretrained(folder, **override, **trust)
        add(way, model, processor, answer(model, processor, image))
    model = AutoModelForImageTextToText.from_pretrained(folder, config=config, **FIVE_TOKENS, **trust)
    processor = AutoProcessor.from_pretrained(folder, **FIVE_TOKENS, **trust)
    add("config_and_five_tokens", model, processor, answer(model, processor, image))
    for way, model_kwargs in (("pipeline", {}), ("pipeline_five_tokens", dict(FIVE_TOKENS))):
        pipe = pipeline("image-text-to-text", model=str(folder), model_kwargs=model_kwargs, **trust)
        add(way, pipe.model, pipe.processor, pipeline_answer(pipe, image))
    return result


if __name__ == "__main__":
    folder, photo = sys.argv[1:]
    print(json.dumps(report(folder, Image.open(photo).convert("RGB"), trust_remote_code=True)))
