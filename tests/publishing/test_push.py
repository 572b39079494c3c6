"""Pushing a variant to a real loopback Hub: what arrives, from where, and what a second push does."""

import json

from tests.helpers.folders import edit_json
from tests.helpers.hub_parts import BASE_ID, CAN_COPY, READER, assert_holds, commits, contents, sent_weights


NAME = "org/lean-llava"


def test_push_makes_a_private_repo_with_one_commit_and_one_tag(hub, converted):
    answer = hub.succeed("push", converted, NAME, load=True)
    repo = hub.store.repos[NAME]
    assert repo.private and len(repo.log) == 2  # the Hub's own first commit, and ours
    assert repo.tags == {"v0.1.0": repo.branches["main"]}
    assert_holds(repo, converted)
    assert repo.tags["v0.1.0"] in answer.out
    assert sent_weights(hub) == (0 if CAN_COPY else 1)
    assert ("too old" in answer.out) == (not CAN_COPY)


def test_the_card_names_the_repo_its_tag_its_base_and_its_licence(hub, converted):
    hub.succeed("push", converted, NAME)
    repo = hub.store.repos[NAME]
    card = repo.files()["README.md"].content.decode()
    commit = hub.store.repos[BASE_ID].branches["main"]
    assert f'from_pretrained("{NAME}", trust_remote_code=True, revision="v0.1.0")' in card
    for text in ("license: llama2", f"base_model: {BASE_ID}", commit, "5 visual tokens per image", "paper's figures"):
        assert text in card
    assert b"Meta Platforms" in repo.files()["NOTICE"].content  # the Llama 2 licence asks for it


def test_pushing_the_same_again_changes_nothing(hub, converted):
    hub.succeed("push", converted, NAME)
    repo = hub.store.repos[NAME]
    before = (list(repo.log), dict(repo.tags), dict(repo.branches))
    hub.store.requests.clear()
    hub.succeed("push", converted, NAME)
    assert (repo.log, repo.tags, repo.branches) == before
    assert commits(hub) == 0 and sent_weights(hub) == 0


def test_a_tag_never_moves(hub, variant, tmp_path):
    hub.succeed("push", variant, NAME)
    repo = hub.store.repos[NAME]
    first = repo.tags["v0.1.0"]
    hub.succeed("convert", variant, tmp_path / "other", "--num-tokens", "7")
    assert f"has the tag v0.1.0 at commit {first}" in hub.run("push", tmp_path / "other", NAME).error
    assert repo.branches["main"] == first
    hub.succeed("push", tmp_path / "other", NAME, "--tag", "v0.1.1")
    assert repo.tags == {"v0.1.0": first, "v0.1.1": repo.branches["main"]}
    assert_holds(repo, variant, "v0.1.0")
    assert_holds(repo, tmp_path / "other", "v0.1.1")


def test_public_is_asked_for(hub, converted):
    hub.succeed("push", converted, NAME)
    repo = hub.store.repos[NAME]
    assert repo.private
    hub.succeed("push", converted, NAME, "--public")
    assert not repo.private and len(repo.log) == 2
    assert "is public: pass --public" in hub.run("push", converted, NAME, "--tag", "v2").error
    assert repo.tags.keys() == {"v0.1.0"}


def test_dry_run_lists_every_file_and_writes_nothing(hub, converted):
    answer = hub.succeed("push", converted, NAME, "--dry-run")
    assert NAME not in hub.store.repos
    assert {method for method, _, _ in hub.store.requests} <= {"GET", "HEAD"}
    lines = {line.split()[2]: line for line in answer.out.splitlines() if line.endswith(")")}
    assert lines.keys() == {path.relative_to(converted).as_posix() for path in converted.rglob("*") if path.is_file()}
    size = (converted / "model.safetensors").stat().st_size
    assert f"{size / 1000:.1f} kB" in lines["model.safetensors"]
    copied = f"copied on the Hub from {BASE_ID}@{hub.store.repos[BASE_ID].branches['main'][:12]}"
    assert (copied if CAN_COPY else "uploaded") in lines["model.safetensors"]
    assert "uploaded" in lines["config.json"] and "uploaded" in lines["max_min_fast.py"]


def test_upload_weights_uploads_them(hub, converted):
    answer = hub.succeed("push", converted, NAME, "--upload-weights")
    assert sent_weights(hub) == 1 and "uploading was asked for" in answer.out
    assert_holds(hub.store.repos[NAME], converted)


def test_weights_that_are_not_the_bases_are_uploaded(hub, variant):
    path = variant / "model.safetensors"
    changed = bytearray(path.read_bytes())
    changed[-1] ^= 1
    path.write_bytes(changed)
    assert "write there what was done to the weights" in hub.run("push", variant, NAME).error
    assert NAME not in hub.store.repos
    card = variant / "README.md"
    card.write_text(card.read_text().replace("The weights are the base's, byte for byte", "The weights were changed"))
    hub.succeed("push", variant, NAME)
    assert sent_weights(hub) == 1
    assert_holds(hub.store.repos[NAME], variant)


def test_a_local_base_needs_a_licence_and_is_uploaded(hub, family):
    error = hub.run("push", family.variant, NAME).error
    assert "licence of the base" in error and "is not known" in error and "--license apache-2.0" in error
    assert NAME not in hub.store.repos
    hub.succeed("push", family.variant, NAME, "--license", "apache-2.0")
    assert_holds(hub.store.repos[NAME], family.variant)
    assert b"license: apache-2.0" in hub.store.repos[NAME].files()["README.md"].content


def test_a_branch_of_its_own(hub, converted, tmp_path):
    hub.succeed("push", converted, NAME)
    repo = hub.store.repos[NAME]
    main = repo.branches["main"]
    hub.succeed("convert", converted, tmp_path / "other", "--num-tokens", "7")
    hub.succeed("push", tmp_path / "other", NAME, "--revision", "seven", "--tag", "v0.1.0-seven")
    assert repo.branches["main"] == main and repo.tags["v0.1.0-seven"] == repo.branches["seven"]
    assert_holds(repo, tmp_path / "other", "seven")


def test_files_of_an_earlier_variant_go_and_others_stay(hub, variant, tmp_path):
    hub.succeed("push", variant, NAME)
    repo = hub.store.repos[NAME]
    stray = {"old.py": b"print()", "model-00001-of-00002.safetensors": b"old", "figure.png": b"picture"}
    stray |= {
        "old.pkl": b"old",
        "old.pickle": b"old",
        "adapter_config.json": b"{}",
        "adapter_model.safetensors": b"old",
    }
    hub.store.fill(repo, stray)
    answer = hub.succeed("push", variant, NAME, "--tag", "v0.1.1", "--dry-run")
    assert "old.py  (deleted)" in answer.out
    hub.succeed("push", variant, NAME, "--tag", "v0.1.1")
    assert contents(repo).keys() - contents(repo, "v0.1.0").keys() == {"figure.png"}


def test_an_edited_card_is_kept_with_the_licence_set(hub, variant):
    card = variant / "README.md"
    card.write_text(card.read_text().replace("license: llama2\n", "").replace("## Limits", "## Known limits"))
    hub.succeed("push", variant, NAME)
    pushed = hub.store.repos[NAME].files()["README.md"].content.decode()
    assert "## Known limits" in pushed and "license: llama2" in pushed


def test_a_variant_of_the_variant_still_copies_from_the_first_base(hub, variant, tmp_path):
    hub.succeed("convert", variant, tmp_path / "other", "--num-tokens", "7")
    hub.succeed("push", tmp_path / "other", NAME)
    recorded = json.loads((tmp_path / "other" / "config.json").read_text())["divprune_base"]
    assert recorded["repo_id"] == BASE_ID and sent_weights(hub) == (0 if CAN_COPY else 1)


LOAD = """
import json, sys
from PIL import Image
from transformers import AutoModelForImageTextToText, AutoProcessor, pipeline
from transformers import logging
name, revision, photo = sys.argv[1:]
source = {"trust_remote_code": True, "revision": revision}
processor = AutoProcessor.from_pretrained(name, **source)
model = AutoModelForImageTextToText.from_pretrained(name, **source)
chat = [{"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "w5 w6"}]}]
image = Image.open(photo).convert("RGB")
prompt = processor.apply_chat_template(chat, add_generation_prompt=True)
inputs = processor(images=image, text=prompt, return_tensors="pt")
greedy = {"max_new_tokens": 8, "min_new_tokens": 8, "do_sample": False}
tokens = model.generate(**inputs, **greedy)[0].tolist()
chat[0]["content"][0]["image"] = image
pipe = pipeline("image-text-to-text", model=name, trust_remote_code=True)
piped = pipe(text=chat, return_tensors=True, generate_kwargs=greedy)[0]["generated_token_ids"].tolist()
modules = [type(thing).__module__ for thing in (model, processor, pipe.model)]
print(json.dumps({"tokens": tokens, "piped": piped, "modules": modules}))
"""


def test_the_published_variant_loads_by_its_id_and_answers_as_the_folder_does(
    hub, converted, run_isolated, photos, tmp_path
):
    hub.succeed("push", converted, NAME, "--public")
    photos[0].save(tmp_path / "photo.png")
    online = {**hub.environment, "HF_HUB_OFFLINE": "0"}
    remote = json.loads(run_isolated(LOAD, NAME, "v0.1.0", tmp_path / "photo.png", **online).splitlines()[-1])
    local = json.loads(run_isolated(LOAD, converted, "v0.1.0", tmp_path / "photo.png").splitlines()[-1])
    assert remote["tokens"] == remote["piped"] == local["tokens"]
    assert all(module.startswith("transformers_modules.org.") for module in remote["modules"])
    assert remote["tokens"].count(4) >= 5  # the image's placeholders
    assert any("/resolve/v0.1.0/" in path for _, path, _ in hub.store.requests)


def test_a_reader_may_not_push(hub, converted):
    assert "needs the role write" in hub.run("push", converted, NAME, token=READER).error
    assert NAME not in hub.store.repos


def test_who_names_another_base_gets_no_copy_of_its_weights(hub, variant):
    other = "llava-hf/llava-1.5-13b-hf"
    hub.store.add(other, texts={"model.safetensors": b"other weights"})
    recorded = {"repo_id": other, "commit": hub.store.repos[other].branches["main"]}
    edit_json(variant / "config.json", divprune_base=recorded)
    assert f"differs from the file of {other}" in hub.run("push", variant, NAME).error
    assert NAME not in hub.store.repos
