"""Train pocket-llava from nothing and write its checkpoint, examples and model card.

    python -m scripts.training.pocket_llava.train --out model_cards/pocket-llava --work pocket-work

Every stage leaves its result in --work and is skipped when it is there; a stage cut short goes on where it was. The
scenes are the same for the same seed, while the number of steps depends on how fast the machine is. Held-out scenes
are scored at the very end and only once: the figures stay in --work and are not measured again.
"""

import argparse
import datetime
import json
import os
import time
from collections.abc import Callable
from pathlib import Path

import torch

from divprune_hf.common.whole_file import save_whole, write_whole
from scripts.training.pocket_llava.card import DETAILS, write_card
from scripts.training.pocket_llava.format import build_model, build_tokenizer, export_model
from scripts.training.pocket_llava.language import start_by_content, train_language, warm_up
from scripts.training.pocket_llava.scenes import (
    DEFAULT_DATA,
    VALIDATION_PICTURES,
    Pictures,
    Scenes,
    load_pictures,
    make_scenes,
)
from scripts.training.pocket_llava.scoring import score, write_examples
from scripts.training.pocket_llava.tower import TowerHeads, start_positions, train_tower


VALIDATION_SEED = 1
NUM_HELD_OUT = 2000
LANGUAGE_RATE = 1.2e-3
SUBSETS_RATE = 7e-4
SUBSETS_UNTIL = 0.75


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", default=DEFAULT_DATA, help="folder with the four Fashion-MNIST .gz files")
    parser.add_argument("--out", type=Path, default=Path("model_cards/pocket-llava"), help="folder of the checkpoint")
    parser.add_argument("--work", type=Path, default=Path("pocket-work"), help="folder for stages under way")
    parser.add_argument("--minutes-tower", type=float, default=18.0)
    parser.add_argument("--minutes-llm", type=float, default=16.0, help="questions over the frozen tower")
    parser.add_argument("--minutes-subsets", type=float, default=7.0, help="questions with background left out")
    parser.add_argument("--warm-up-steps", type=int, default=300)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--no-held-out", action="store_true", help="export, but leave held-out scenes and card alone")
    parser.add_argument("--smoke", action="store_true", help="seconds per stage and few questions, to try the path")
    arguments = parser.parse_args()
    if arguments.smoke:
        arguments.minutes_tower = arguments.minutes_llm = arguments.minutes_subsets = 0.3
        arguments.warm_up_steps = 20
    return arguments


class Stages:
    """Runs the stages one after another; each leaves weights and a record of its figures in the work folder."""

    def __init__(self, arguments: argparse.Namespace):
        self.arguments, self.work = arguments, arguments.work
        self.work.mkdir(parents=True, exist_ok=True)
        self.begin = time.monotonic()
        torch.set_num_threads(arguments.threads)
        torch.manual_seed(arguments.seed)
        self.model = build_model(build_tokenizer().get_vocab_size())
        vision = self.model.model.vision_tower
        # transformers 4 keeps the tower one level deeper.
        self.tower = getattr(vision, "vision_model", vision)
        self.heads = TowerHeads(self.tower.config.hidden_size)
        self.pictures: Pictures = load_pictures("train", arguments.data)
        self.validation: Scenes = make_scenes("validation", 160, VALIDATION_SEED, arguments.data)

    def log(self, line: str) -> None:
        print(f"{time.monotonic() - self.begin:6.0f}s {line}", flush=True)

    def record(self, name: str, what: str, minutes: float, steps: int, validation: dict[str, float]) -> None:
        content = {"what": what, "minutes": minutes, "steps": steps, "validation": validation}
        write_whole(self.work / f"{name}.json", json.dumps(content, indent=1))

    def run(self, name: str, restore: Callable[[Path], None], train: Callable[[Path], None]) -> None:
        """Load the stage's weights where its record says it is done, train it otherwise."""
        weights = self.work / f"{name}.pt"
        if (self.work / f"{name}.json").is_file():
            self.log(f"{name}: done before")
            restore(weights)
        else:
            self.log(f"{name}: starting")
            train(weights)

    def restore_tower(self, path: Path) -> None:
        stored = torch.load(path, weights_only=True)
        self.tower.load_state_dict(stored["tower"])
        self.heads.load_state_dict(stored["heads"])

    def train_tower(self, path: Path) -> None:
        minutes = self.arguments.minutes_tower
        start_positions(self.tower)
        common = (self.tower, self.heads, self.pictures, self.validation, minutes, self.arguments.seed)
        steps, figures = train_tower(*common, self.log, path)
        self.record("tower", "class under every patch, and the cell of an object's patches.", minutes, steps, figures)

    def restore_model(self, path: Path) -> None:
        self.model.load_state_dict(torch.load(path, weights_only=True))

    def warm_up(self, path: Path) -> None:
        begin, steps = time.monotonic(), self.arguments.warm_up_steps
        warm_up(self.model, self.pictures, steps, self.arguments.seed + 1, self.log)
        start_by_content(self.model)
        save_whole(path, lambda partial: torch.save(self.model.state_dict(), partial))
        minutes = (time.monotonic() - begin) / 60
        self.record("warm-up", "projected patches learn to point the way of their noun.", minutes, steps, {})

    def train_language(self, path: Path) -> None:
        minutes = self.arguments.minutes_llm
        common = (self.model, self.pictures, self.validation, minutes, LANGUAGE_RATE, self.arguments.seed + 2)
        steps, figures = train_language(*common, self.log, path)
        what = "projector and Llama answer 16 questions a scene over the frozen tower."
        self.record("language", what, minutes, steps, figures)

    def train_subsets(self, path: Path) -> None:
        minutes = self.arguments.minutes_subsets
        common = (self.model, self.pictures, self.validation, minutes, SUBSETS_RATE, self.arguments.seed + 3)
        steps, figures = train_language(*common, self.log, path, subsets_until=SUBSETS_UNTIL)
        what = "the same, where half of the batches leave out some background; at the end all 256 tokens again."
        self.record("subsets", what, minutes, steps, figures)

    def held_out(self) -> dict:
        """Score the exported checkpoint, or read the figures of the only time it was scored."""
        path = self.work / "held-out.json"
        if not path.is_file():
            self.log("scoring held-out scenes")
            number = 90 if self.arguments.smoke else NUM_HELD_OUT
            figures = score(self.arguments.out, "heldout", self.arguments.data, number)
            figures["date"] = datetime.date.today().isoformat()
            write_whole(path, json.dumps(figures, indent=1))
        return json.loads(path.read_text(encoding="utf-8"))


def main() -> None:
    arguments = parse_arguments()
    stages = Stages(arguments)
    stages.run("tower", stages.restore_tower, stages.train_tower)
    stages.run("warm-up", stages.restore_model, stages.warm_up)
    stages.run("language", stages.restore_model, stages.train_language)
    stages.run("subsets", stages.restore_model, stages.train_subsets)

    export_model(stages.model, arguments.out)
    write_examples(arguments.out, arguments.data)
    if arguments.no_held_out:
        return
    held_out = stages.held_out()
    facts = {
        "parameters": sum(weight.numel() for weight in stages.model.parameters()) / 1e6,
        "megabytes": (arguments.out / "model.safetensors").stat().st_size / 1e6,
        "hardware": f"{os.cpu_count()} CPU cores",
        "validation_pictures": VALIDATION_PICTURES,
        "vocabulary": build_tokenizer().get_vocab_size(),
    }
    names = {"tower": "Tower", "warm-up": "Warm-up", "language": "Language", "subsets": "Subsets"}
    records = {
        title: json.loads((arguments.work / f"{name}.json").read_text(encoding="utf-8"))
        for name, title in names.items()
    }
    write_card(held_out, records, facts)
    stages.log(f"presence {held_out['presence']:.1%}, written to {DETAILS}: now run `make cards`")


if __name__ == "__main__":
    main()
