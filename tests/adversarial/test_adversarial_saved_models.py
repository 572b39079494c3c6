"""A model that was trained further and saved is ours with other weights: verified, pushed, and loaded without us."""

import json
import shutil

import pytest
import skimage
import torch
from PIL import Image
from transformers import AutoModel, AutoModelForImageTextToText, AutoProcessor

import divprune_hf
from divprune_hf.checkpoints.families import supported_families
from divprune_hf.publishing.variant_files import shipped_code
from tests.helpers.folders import edit_json, load_json
from tests.helpers.hub_parts import BASE_ID


NAME = "org/trained-llava"
FAMILIES = [family.base_model_type for family in supported_families()]
ASK = """
import json, sys
import torch
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor
source, photo, family = sys.argv[1:]
model = AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(source, trust_remote_code=True)
inputs = processor(images=Image.open(photo).convert("RGB"), text="w1 <image> w2", return_tensors="pt")
with torch.no_grad():
    logits = model(**inputs).logits[0, -1]
print(json.dumps({
    "logits": logits.tolist(),
    "kept": inputs["num_image_tokens_kept"].tolist(),
    "modules": [type(thing).__module__ for thing in (model, processor, model.config)],
}))
"""


@pytest.fixture(scope="module")
def photo(tmp_path_factory):
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.open(f"{skimage.data_dir}/astronaut.png").convert("RGB").resize((64, 48)).save(path)
    return path


def train_and_save(source, folder):
    """Change a weight, as training does, and save both as transformers does; return the model and its processor."""
    model, processor = AutoModelForImageTextToText.from_pretrained(source), AutoProcessor.from_pretrained(source)
    with torch.no_grad():
        model.get_output_embeddings().weight.add_(0.25)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return model, processor


def answer(model, processor, photo):
    inputs = processor(images=Image.open(photo).convert("RGB"), text="w1 <image> w2", return_tensors="pt")
    with torch.no_grad():
        return model(**inputs).logits[0, -1].tolist()


@pytest.fixture(params=FAMILIES)
def family(request):
    if request.param in ("llava_next_video", "llava_onevision"):
        request.getfixturevalue("video_files")  # skips where such a checkpoint cannot be made
    return request.param


def test_a_saved_folder_holds_all_code_and_is_verified(make_checkpoint, tmp_path, family):
    saved = tmp_path / "saved"
    train_and_save(make_checkpoint(family=family).variant, saved)
    code = {path.name: path.read_text() for path in saved.glob("*.py")}
    assert code == shipped_code()
    assert divprune_hf.verify_variant(saved).code == sorted(code)


def test_a_saved_model_is_pushed_and_loads_by_its_id_as_remote_code(
    hub, make_checkpoint, run_isolated, photo, tmp_path, family
):
    saved = tmp_path / "saved"
    model, processor = train_and_save(make_checkpoint(family=family).variant, saved)
    dry = hub.succeed("push", saved, NAME, "--license", "apache-2.0", "--dry-run", load=True)
    assert NAME not in hub.store.repos and "model.safetensors" in dry.out
    hub.succeed("push", saved, NAME, "--license", "apache-2.0", "--public", load=True)
    assert "Python files are those" in hub.succeed("verify", NAME).out
    card = hub.store.repos[NAME].files()["README.md"].content.decode()
    assert "may have been trained further" in card and "byte for byte" not in card
    online = {**hub.environment, "HF_HUB_OFFLINE": "0"}
    remote = json.loads(run_isolated(ASK, NAME, photo, family, **online).splitlines()[-1])
    assert all(module.startswith("transformers_modules.") for module in remote["modules"])
    assert remote["logits"] == pytest.approx(answer(model, processor, photo), rel=1e-4, abs=1e-5)
    untrained = AutoModelForImageTextToText.from_pretrained(make_checkpoint(family=family).variant)
    assert remote["logits"] != pytest.approx(answer(untrained, processor, photo), rel=1e-2)


def test_a_trained_variant_of_a_hub_base_says_that_its_weights_are_others(hub, variant, tmp_path):
    saved = tmp_path / "saved"
    train_and_save(variant, saved)
    assert load_json(saved / "config.json")["divprune_base"]["repo_id"] == BASE_ID
    hub.succeed("push", saved, NAME, load=True)
    out = hub.succeed("verify", NAME).out
    assert "Python files are those" in out and f"weights are not those of {BASE_ID}" in out
    assert "byte for byte" not in hub.store.repos[NAME].files()["README.md"].content.decode()


def test_a_saved_folder_is_converted_and_saved_again(make_checkpoint, tmp_path, family):
    train_and_save(make_checkpoint(family=family).variant, tmp_path / "saved")
    converted = divprune_hf.convert_checkpoint(tmp_path / "saved", tmp_path / "converted", {"num_tokens": 5})
    divprune_hf.verify_variant(converted)
    again, processor = train_and_save(converted, tmp_path / "again")
    divprune_hf.verify_variant(tmp_path / "again")
    assert again.config.divprune_config.num_tokens == 5 == processor.divprune_config["num_tokens"]


SAVED_WAYS = {
    "model_alone": lambda model, processor, folder: model.save_pretrained(folder),
    "config_alone": lambda model, processor, folder: model.config.save_pretrained(folder),
    "processor_alone": lambda model, processor, folder: processor.save_pretrained(folder),
    "inner_model": lambda model, processor, folder: model.model.save_pretrained(folder),
    "in_shards": lambda model, processor, folder: model.save_pretrained(folder, max_shard_size="50KB"),
}


@pytest.mark.parametrize("save", SAVED_WAYS.values(), ids=SAVED_WAYS)
def test_each_way_of_saving_brings_all_code(make_checkpoint, tmp_path, save):
    variant = make_checkpoint().variant
    model, processor = AutoModelForImageTextToText.from_pretrained(variant), AutoProcessor.from_pretrained(variant)
    save(model, processor, tmp_path / "saved")
    assert {path.name: path.read_text() for path in (tmp_path / "saved").glob("*.py")} == shipped_code()


def test_a_model_saved_in_shards_is_verified_and_pushed(hub, make_checkpoint, tmp_path):
    variant, saved = make_checkpoint().variant, tmp_path / "saved"
    AutoModelForImageTextToText.from_pretrained(variant).save_pretrained(saved, max_shard_size="50KB")
    AutoProcessor.from_pretrained(variant).save_pretrained(saved)
    assert (saved / "model.safetensors.index.json").is_file()
    divprune_hf.verify_variant(saved)
    hub.succeed("push", saved, NAME, "--license", "apache-2.0", load=True)
    assert "Python files are those" in hub.succeed("verify", NAME).out


def test_what_an_adversary_adds_to_a_saved_folder_is_refused(hub, make_checkpoint, tmp_path):
    saved = tmp_path / "saved"
    train_and_save(make_checkpoint().variant, saved)
    changes = {
        "code": lambda folder: (folder / "max_min_fast.py").write_text("evil"),
        "pipeline": lambda folder: edit_json(folder / "config.json", custom_pipelines={"x": {"impl": "e--e.E"}}),
        "tokenizer": lambda folder: edit_json(folder / "tokenizer_config.json", auto_map={"AutoTokenizer": "e.E"}),
        "inner": lambda folder: edit_json(folder / "config.json", architectures=["DivPruneLlavaModel"]),
    }
    for name, change in changes.items():
        folder = shutil.copytree(saved, tmp_path / name)
        change(folder)
        assert hub.run("verify", folder).error
        assert hub.run("push", folder, NAME, "--license", "apache-2.0").error
    assert NAME not in hub.store.repos


def test_the_inner_model_is_saved_with_code_that_loads_it(make_checkpoint, tmp_path):
    variant = make_checkpoint().variant
    model = AutoModel.from_pretrained(variant)
    model.save_pretrained(tmp_path / "inner")
    assert type(AutoModel.from_pretrained(tmp_path / "inner")) is type(model)


SAVE_REMOTE = """
import sys
from transformers import AutoModelForImageTextToText, AutoProcessor
source, folder = sys.argv[1:]
AutoModelForImageTextToText.from_pretrained(source, trust_remote_code=True).save_pretrained(folder)
AutoProcessor.from_pretrained(source, trust_remote_code=True).save_pretrained(folder)
"""


def test_remote_code_saves_what_loads_again_without_the_package(make_checkpoint, run_isolated, photo, tmp_path):
    """It saves the code that transformers fetched for it, which may lack other families: `verify` would name those."""
    run_isolated(SAVE_REMOTE, make_checkpoint().variant, tmp_path / "saved")
    remote = json.loads(run_isolated(ASK, tmp_path / "saved", photo, "llava").splitlines()[-1])
    assert all(module.startswith("transformers_modules.") for module in remote["modules"])


def test_a_model_loaded_from_the_hub_is_saved_as_one_of_its_own(hub, converted, tmp_path):
    """transformers notes the repo in `auto_map`; the saved folder has its code itself."""
    saved = tmp_path / "saved"
    model, _ = train_and_save(converted, saved)
    model.config.auto_map = {name: f"org/lean--{reference}" for name, reference in model.config.auto_map.items()}
    model.save_pretrained(saved)
    assert "--" not in json.dumps(load_json(saved / "config.json")["auto_map"])
    assert "Python files are those" in hub.succeed("verify", saved).out
