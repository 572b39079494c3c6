"""docs/training.md's recipe as it stands there: LoRA through Trainer and PEFT, on pocket-llava with pruning on."""

import json
import random
import shutil

import pytest
import torch
from transformers import AutoModelForImageTextToText, Trainer, TrainingArguments

from divprune_hf import convert_checkpoint
from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.questions import read_questions
from divprune_hf.inference.ask import chat_prompt
from divprune_hf.inference.pictures import read_picture
from tests.helpers.doc_blocks import ROOT, blocks_of


pytest.importorskip("peft", reason="the extra `train`")
HELD_OUT = ROOT / "tests" / "data" / "pocket_heldout"
KEPT = 40
PROMPT = "USER: <image>\nIs there a bag? ASSISTANT:"
ASK = f"""
import sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
model = AutoModelForImageTextToText.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(model).__module__.startswith("transformers_modules.")
inputs = processor(images=Image.open(sys.argv[2]), text={PROMPT!r}, return_tensors="pt")
print(model(**inputs).logits[0, -1].sum().item())
"""


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The names that the recipe leaves, and the folder that it ran in."""
    folder = tmp_path_factory.mktemp("recipe")
    convert_checkpoint(pocket_llava(), folder / "variant", {"num_tokens": KEPT})
    (folder / "org").mkdir()
    (folder / "org" / "llava-1.5-7b-divprune").symlink_to(folder / "variant")
    lines = [json.loads(line) for line in (HELD_OUT / "questions.jsonl").read_text(encoding="utf-8").splitlines()]
    lines = [line for line in lines if line["kind"] == "position"][:60]
    for name in {line["image"] for line in lines}:
        shutil.copy(HELD_OUT / name, folder)
    (folder / "questions.jsonl").write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    names = {"__name__": "recipe", "folder": folder}
    train, merge = blocks_of(ROOT / "docs" / "training.md", "python")[:2]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        torch.manual_seed(0)
        exec(compile(train.text, train.place, "exec"), names)
        names["tuned_logits"] = logits(names["model"], names, read_questions("questions.jsonl")[:6])
        exec(compile(merge.text, merge.place, "exec"), names)
    return names


def logits(model, names, questions):
    """Return the logits of a batch."""
    batch = names["collate"](questions)
    with torch.no_grad():
        return model.eval()(**batch).logits


def questions_of(trained):
    return read_questions(trained["folder"] / "questions.jsonl")


def test_labels_are_the_answers_alone(trained):
    questions = questions_of(trained)[:8]
    for budget, kept in (({}, KEPT), ({"num_tokens": 7}, 7)):
        batch = trained["collate"](questions, **budget)
        tokenizer = trained["processor"].tokenizer
        assert (batch["input_ids"] == 4).sum(1).tolist() == [kept] * 8  # <image>
        for labels, question in zip(batch["labels"], questions):
            learned = tokenizer.decode(labels[labels != -100])
            assert learned.replace("_", " ").split() == [*question.answers[0].split(), "</s>"]


def test_the_loss_is_that_of_each_answer_alone(trained):
    """Every row by itself, without padding, from a text that ends where the answer is asked for."""
    questions, processor = questions_of(trained)[:5], trained["processor"]
    base = AutoModelForImageTextToText.from_pretrained(trained["folder"] / "variant").eval()
    batch = trained["collate"](questions)
    with torch.no_grad():
        loss = base(**batch).loss
        losses = []
        for question in questions:
            prompt = chat_prompt(processor, "image", question.text)
            answer = processor.tokenizer(f"{question.answers[0]}</s>", add_special_tokens=False)["input_ids"]
            inputs = processor(images=[read_picture(question.image)], text=[prompt], return_tensors="pt")
            length = inputs["input_ids"].shape[1]
            inputs["input_ids"] = torch.cat([inputs["input_ids"], torch.tensor([answer])], 1)
            inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
            inputs.pop("mm_token_type_ids", None)
            scores = base(**inputs).logits[0, length - 1 : -1].log_softmax(-1)
            losses += [-scores[place, token].item() for place, token in enumerate(answer)]
    assert loss.item() == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_the_loss_falls_and_only_the_adapter_is_trained(trained):
    losses = [entry["loss"] for entry in trained["trainer"].state.log_history if "loss" in entry]
    assert len(losses) == 40 and sum(losses[-8:]) < 0.8 * sum(losses[:8])
    stored = AutoModelForImageTextToText.from_pretrained(trained["folder"] / "variant").state_dict()
    merged = trained["merged"].state_dict()
    changed = {name for name in stored if not torch.equal(stored[name], merged[name])}
    assert changed and all("language_model" in name and "_proj" in name for name in changed)


def test_the_adapter_and_the_merged_folder_answer_as_the_trained_model(trained):
    questions = questions_of(trained)[:6]
    base = AutoModelForImageTextToText.from_pretrained(trained["folder"] / "variant")
    adapted = trained["PeftModel"].from_pretrained(base, trained["folder"] / "adapter")
    assert torch.equal(logits(adapted, trained, questions), trained["tuned_logits"])
    merged = AutoModelForImageTextToText.from_pretrained(trained["folder"] / "merged")
    assert torch.allclose(logits(merged, trained, questions), trained["tuned_logits"], atol=1e-4)
    assert merged.config.divprune_config.num_tokens == KEPT
    plain = AutoModelForImageTextToText.from_pretrained(trained["folder"] / "variant")
    assert not torch.allclose(logits(plain, trained, questions), trained["tuned_logits"], atol=1e-1)


def test_the_merged_folder_is_published(trained, hub):
    folder = trained["folder"] / "merged"
    hub.succeed("push", folder, "org/tuned", "--license", "mit")
    files = hub.store.repos["org/tuned"].files()
    assert files["model.safetensors"].content == (folder / "model.safetensors").read_bytes()
    assert json.loads(files["config.json"].content)["divprune_config"]["num_tokens"] == KEPT


def test_the_merged_folder_loads_without_the_package(trained, run_isolated):
    question = questions_of(trained)[0]
    printed = float(run_isolated(ASK, trained["folder"] / "merged", question.image))
    inputs = trained["processor"](images=read_picture(question.image), text=PROMPT, return_tensors="pt")
    with torch.no_grad():
        assert printed == pytest.approx(trained["merged"].eval()(**inputs).logits[0, -1].sum().item(), abs=1e-3)


def test_a_batch_may_have_any_budget(trained, tmp_path):
    """Mixed budgets, with gradient checkpointing too: the losses are those without it."""
    losses = {}
    for checkpointing in (False, True):
        random.seed(0), torch.manual_seed(0)
        seen = []

        def collate(questions, seen=seen):
            batch = trained["collate"](questions, retention_ratio=random.choice([0.05, 0.098, 0.3]))
            seen.append(batch["num_image_tokens_kept"][0].item())
            return batch

        base = AutoModelForImageTextToText.from_pretrained(trained["folder"] / "variant")
        model = trained["get_peft_model"](base, trained["LoraConfig"](r=4, target_modules=trained["layers"]))
        arguments = TrainingArguments(
            output_dir=str(tmp_path),
            per_device_train_batch_size=4,
            learning_rate=1e-3,
            max_steps=6,
            logging_steps=1,
            save_strategy="no",
            remove_unused_columns=False,
            report_to="none",
            gradient_checkpointing=checkpointing,
            gradient_checkpointing_kwargs={"use_reentrant": False} if checkpointing else None,
        )
        trainer = Trainer(model, arguments, train_dataset=questions_of(trained), data_collator=collate)
        trainer.train()
        losses[checkpointing] = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
        assert len(set(seen)) == 3
    assert losses[False] == pytest.approx(losses[True], rel=1e-4)


def test_int8_answers_as_the_whole_model(trained, monkeypatch):
    pytest.importorskip("torchao", reason="docs/training.md, int8")
    from divprune_hf.evaluation.answers import generate_answers

    block = blocks_of(ROOT / "docs" / "training.md", "python")[2]
    names = {}
    monkeypatch.chdir(trained["folder"])
    exec(compile(block.text, block.place, "exec"), names)
    small = names["small"]
    linear = small.model.language_model.layers[0].mlp.up_proj.weight
    assert type(linear).__name__ != "Parameter" and type(small.lm_head.weight).__name__ == "Parameter"
    whole = AutoModelForImageTextToText.from_pretrained(trained["folder"] / "variant")
    questions = read_questions(HELD_OUT / "questions.jsonl")[::30]
    pictures, texts = (
        [read_picture(question.image) for question in questions],
        [question.text for question in questions],
    )
    right = {}
    for name, model in (("int8", small), ("float32", whole)):
        given = generate_answers(model.eval(), names["processor"], pictures, texts, max_new_tokens=8)["answers"]
        right[name] = sum(question.accepts(answer) for question, answer in zip(questions, given))
    assert abs(right["int8"] - right["float32"]) <= 3 and right["float32"] > 60
