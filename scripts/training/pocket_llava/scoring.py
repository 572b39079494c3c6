"""Score an exported pocket-llava on held-out scenes, through the stock transformers classes, and ship examples."""

import json
import random
import shutil
from pathlib import Path

import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor

from divprune_hf.common.whole_file import write_whole
from scripts.training.pocket_llava.scenes import (
    NOTHING,
    NUM_CLASSES,
    SINGULAR,
    Question,
    Scenes,
    counting_questions,
    make_scenes,
    position_questions,
    presence_questions,
)


# Seeds of the held-out scenes: the scored ones, and the twelve shipped with the checkpoint.
SCORED_SEED = 20261122
EXAMPLES_SEED = 12
NUM_EXAMPLES = 12


def pictures_of(scenes: Scenes) -> list[Image.Image]:
    return [Image.fromarray(image.permute(1, 2, 0).numpy()) for image in scenes.images]


class Answerer:
    """Greedy answers of an exported checkpoint, asked through its chat template."""

    def __init__(self, folder: Path, batch: int = 40):
        self.processor = AutoProcessor.from_pretrained(folder, use_fast=False)
        self.model = AutoModelForImageTextToText.from_pretrained(folder).eval()
        self.batch = batch

    def prompt(self, text: str) -> str:
        content = [{"type": "image"}, {"type": "text", "text": text}]
        return self.processor.apply_chat_template([{"role": "user", "content": content}], add_generation_prompt=True)

    @torch.no_grad()
    def ask(self, images: list[Image.Image], texts: list[str]) -> list[str]:
        answers = []
        for start in range(0, len(texts), self.batch):
            inputs = self.processor(
                images=images[start : start + self.batch],
                text=[self.prompt(text) for text in texts[start : start + self.batch]],
                padding=True,
                return_tensors="pt",
            )
            output = self.model.generate(**inputs, max_new_tokens=8, do_sample=False)
            fresh = output[:, inputs["input_ids"].shape[1] :]
            answers += self.processor.batch_decode(fresh, skip_special_tokens=True)
        return [answer.strip() for answer in answers]


def strangers(questions: list[Question], seed: int) -> list[int]:
    """A scene for every question, dealt out at random among the questions, never the question's own."""
    rng = random.Random(seed)
    scenes = [question.scene for question in questions]
    dealt = scenes[:]
    rng.shuffle(dealt)
    for index, scene in enumerate(scenes):
        while dealt[index] == scene:
            other = rng.randrange(len(scenes))
            if dealt[other] != scene and scenes[other] != dealt[index]:
                dealt[index], dealt[other] = dealt[other], dealt[index]
    return dealt


def _share(hits: list[bool]) -> float:
    return sum(hits) / len(hits)


def score(folder: Path, split: str, data: str, num_presence: int, seed: int = SCORED_SEED) -> dict:
    """All figures of the card on scenes of `split`, as shares; one scene for every presence question."""
    scenes = make_scenes(split, num_presence, seed, data)
    pictures = pictures_of(scenes)
    answerer = Answerer(folder)

    presence = presence_questions(scenes, num_presence, seed)
    texts = [question.text for question in presence]
    answers = answerer.ask([pictures[question.scene] for question in presence], texts)
    right = [answer == question.answer for answer, question in zip(answers, presence, strict=True)]
    dealt = answerer.ask([pictures[scene] for scene in strangers(presence, seed)], texts)
    per_class = {
        SINGULAR[topic]: _share([hit for hit, question in zip(right, presence, strict=True) if question.topic == topic])
        for topic in range(NUM_CLASSES)
    }

    position = position_questions(scenes, num_presence // 2, seed)
    told = answerer.ask([pictures[question.scene] for question in position], [question.text for question in position])
    counting = counting_questions(scenes, num_presence // 4, seed)
    counted = answerer.ask([pictures[question.scene] for question in counting], [q.text for q in counting])
    pairs = list(zip(told, position, strict=True))
    sums = list(zip(counted, counting, strict=True))
    return {
        "split": split,
        "presence_questions": len(presence),
        "presence": _share(right),
        "presence_yes": _share([hit for hit, q in zip(right, presence, strict=True) if q.answer == "yes"]),
        "presence_no": _share([hit for hit, q in zip(right, presence, strict=True) if q.answer == "no"]),
        "per_class": per_class,
        "always_no": _share([question.answer == "no" for question in presence]),
        "shuffled_pictures": _share([a == question.answer for a, question in zip(dealt, presence, strict=True)]),
        "position_questions": len(position),
        "position": _share([answer == question.answer for answer, question in pairs]),
        "position_filled": _share([a == q.answer for a, q in pairs if q.topic != NOTHING]),
        "position_empty": _share([a == q.answer for a, q in pairs if q.topic == NOTHING]),
        "counting_questions": len(counting),
        "counting": _share([answer == question.answer for answer, question in sums]),
        "counting_all": _share([a == q.answer for a, q in sums if q.topic == NOTHING]),
        "counting_class": _share([a == q.answer for a, q in sums if q.topic != NOTHING]),
    }


def write_examples(folder: Path, data: str) -> None:
    """Twelve held-out scenes as PNG and four questions about each as JSON, whatever the model makes of them."""
    scenes = make_scenes("heldout", NUM_EXAMPLES, EXAMPLES_SEED, data)
    target = folder / "examples"
    if target.is_dir():
        shutil.rmtree(target)
    target.mkdir(parents=True)
    rng = random.Random(EXAMPLES_SEED)
    position = position_questions(scenes, 2 * NUM_EXAMPLES, EXAMPLES_SEED)
    counting = counting_questions(scenes, NUM_EXAMPLES, EXAMPLES_SEED)
    entries = []
    for index, picture in enumerate(pictures_of(scenes)):
        name = f"scene_{index:02d}.png"
        picture.save(target / name, optimize=True)
        present = set(scenes.cells[index].tolist()) - {NOTHING}
        yes, no = rng.choice(sorted(present)), rng.choice(sorted(set(range(NUM_CLASSES)) - present))
        asked = [
            {"question": f"Is there {SINGULAR[yes]}?", "answer": "yes", "kind": "presence"},
            {"question": f"Is there {SINGULAR[no]}?", "answer": "no", "kind": "presence"},
        ]
        # Scenes in turn: two position questions belong to each, the first about a filled cell.
        for question in (position[2 * index + index % 2], counting[index]):
            asked.append({"question": question.text, "answer": question.answer, "kind": question.kind})
        entries += [{"image": name, **entry} for entry in asked]
    write_whole(target / "questions.json", json.dumps(entries, indent=1) + "\n")
