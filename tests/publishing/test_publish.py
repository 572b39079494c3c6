"""A Hub base becomes a published variant in one command, and its weights never come here."""

import json
import sys

import pytest

from tests.helpers import warm_python
from tests.helpers.hub_parts import CAN_COPY, WRITER, assert_holds, contents, sent_weights


NAME = "org/published-llava"
UPLOAD = [] if CAN_COPY else ["--upload-weights"]
FRESH = "llava-hf/llava-1.5-13b-hf"  # a base that is not in the client's cache before a test asks for it


@pytest.fixture
def fresh_base(hub, make_checkpoint):
    return hub.store.add(FRESH, make_checkpoint(num_shards=3, language="mistral").base)


def test_weights_are_copied_and_never_downloaded_or_publish_stops_and_asks(hub, fresh_base):
    if not CAN_COPY:
        error = hub.run("publish", FRESH, NAME, "--num-tokens", "5").error
        assert "too old" in error and "--upload-weights" in error
        assert NAME not in hub.store.repos and not hub.cached(FRESH)
        return
    hub.succeed("publish", FRESH, NAME, "--num-tokens", "5", load=True)
    repo = hub.store.repos[NAME]
    assert sent_weights(hub) == 0 and repo.private and len(repo.log) == 2
    assert not any(name.endswith(".safetensors") for name in hub.cached(FRESH))
    weights = {path: digest for path, digest in contents(fresh_base).items() if "safetensors" in path}
    assert len(weights) == 4 and weights.items() <= contents(repo).items()
    assert repo.tags == {"v0.1.0": repo.branches["main"]}


def test_it_is_what_convert_and_push_make(hub, fresh_base, tmp_path):
    hub.succeed("publish", FRESH, NAME, "--retention-ratio", "0.25", *UPLOAD)
    hub.succeed("convert", FRESH, tmp_path / "variant", "--retention-ratio", "0.25")
    assert_holds(hub.store.repos[NAME], tmp_path / "variant")
    hub.succeed("push", tmp_path / "variant", NAME)
    assert len(hub.store.repos[NAME].log) == 2  # the same again, so nothing changed: the card is the same too


def test_upload_weights_downloads_and_uploads(hub, fresh_base):
    hub.succeed("publish", FRESH, NAME, "--num-tokens", "5", "--upload-weights", load=True)
    assert sent_weights(hub) == 3
    weights = {path: digest for path, digest in contents(fresh_base).items() if "safetensors" in path}
    assert weights.items() <= contents(hub.store.repos[NAME]).items()


def test_where_the_hub_refuses_to_copy_it_stops_and_asks(hub, fresh_base):
    hub.store.faults["refuse_duplicate"] = True
    error = hub.run("publish", FRESH, NAME, "--num-tokens", "5").error
    assert "--upload-weights" in error and sent_weights(hub) == 0
    assert NAME not in hub.store.repos or not contents(hub.store.repos[NAME])
    hub.succeed("publish", FRESH, NAME, "--num-tokens", "5", "--upload-weights")


def test_the_base_is_taken_at_its_revision(hub, fresh_base):
    old = fresh_base.branches["main"]
    config = {**json.loads(fresh_base.files()["config.json"].content), "note": "newer"}
    hub.store.fill(fresh_base, {"config.json": json.dumps(config).encode()})
    hub.succeed("publish", FRESH, NAME, "--num-tokens", "5", "--base-revision", old, *UPLOAD)
    published = json.loads(hub.store.repos[NAME].files()["config.json"].content)
    assert published["divprune_base"] == {"repo_id": FRESH, "commit": old} and "note" not in published


def test_dry_run_and_public(hub, fresh_base):
    answer = hub.succeed("publish", FRESH, NAME, "--num-tokens", "5", "--dry-run", *UPLOAD)
    assert NAME not in hub.store.repos
    (line,) = [line for line in answer.out.splitlines() if "model-00002-of-00003.safetensors" in line]
    assert ("copied on the Hub from" if CAN_COPY else "uploaded") in line
    hub.succeed("publish", FRESH, NAME, "--num-tokens", "5", "--public", "--tag", "v9", *UPLOAD)
    assert not hub.store.repos[NAME].private and hub.store.repos[NAME].tags.keys() == {"v9"}


def refuse_index(repo, store):
    index = json.loads(repo.files()["model.safetensors.index.json"].content)
    first, second = list(index["weight_map"])[:2]
    index["weight_map"][first] = index["weight_map"][second]
    store.fill(repo, {"model.safetensors.index.json": json.dumps(index).encode()})


def refuse_shapes(repo, store):
    config = json.loads(repo.files()["config.json"].content)
    config["text_config"]["vocab_size"] = 120
    store.fill(repo, {"config.json": json.dumps(config).encode()})


def refuse_pickles(repo, store):
    files = {path: blob for path, blob in repo.files().items() if "safetensors" not in path}
    repo.commit("main", files)
    store.fill(repo, {"pytorch_model.bin": b"pickled"})


@pytest.mark.parametrize("change", [refuse_index, refuse_shapes, refuse_pickles])
def test_a_base_whose_weights_do_not_fit_is_refused(hub, fresh_base, change):
    change(fresh_base, hub.store)
    assert "safetensors" in hub.run("publish", FRESH, NAME, "--num-tokens", "5", *UPLOAD).error
    assert NAME not in hub.store.repos


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (
            [FRESH, NAME],
            "--retention-ratio R or --num-tokens N for images, or --video-retention-ratio R or --video-num",
        ),
        ([FRESH, NAME, "--video-retention-ratio", "0.2", *UPLOAD], "video_retention_ratio"),  # a base without videos
        ([FRESH, NAME, "--num-tokens", "0"], "num_tokens=0"),
        ([FRESH, "nowhere", "--num-tokens", "5"], "expected ORG/NAME"),
        ([FRESH, FRESH, "--num-tokens", "5", *UPLOAD], "is the base of this variant"),
        (["org/unknown", NAME, "--num-tokens", "5"], "licence of org/unknown is not known"),
        (["org/unknown", NAME, "--num-tokens", "5", "--license", "mit", *UPLOAD], "was not found on the Hub"),
        (["/", NAME, "--num-tokens", "5"], "is a folder"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_what_cannot_be_published_is_refused(hub, fresh_base, arguments, reason):
    assert reason in hub.run("publish", *arguments).error
    assert NAME not in hub.store.repos


def test_a_video_base_is_published_by_its_video_budget_and_verified(hub, make_checkpoint, video_files):
    base = "llava-hf/LLaVA-NeXT-Video-7B-hf"
    hub.store.add(base, make_checkpoint(family="llava_next_video").base)
    hub.succeed("publish", base, NAME, "--video-retention-ratio", "0.2", *UPLOAD, load=True)
    files = hub.store.repos[NAME].files()
    for name in ("config.json", "processor_config.json"):
        assert json.loads(files[name].content)["divprune_config"]["video_retention_ratio"] == 0.2
    assert "20.0% of each video's" in files["README.md"].content.decode()
    assert "Python files are those" in hub.succeed("verify", NAME, "--revision", "v0.1.0").out


def test_a_gated_base_without_access_is_named(hub, fresh_base):
    fresh_base.gated = True
    hub.store.fill(fresh_base, {"notes.txt": b"a commit that no cache has"})
    assert "is gated (403)" in hub.run("publish", FRESH, NAME, "--num-tokens", "5", *UPLOAD).error
    assert NAME not in hub.store.repos


def test_publish_works_from_an_installed_wheel(hub, fresh_base, installed_wheel, tmp_path):
    code = (
        "import sys, divprune_hf, divprune_hf.cli\n"
        "assert divprune_hf.__file__.startswith(sys.argv[1])\n"
        "sys.exit(divprune_hf.cli.main(sys.argv[2:]))\n"
    )
    arguments = [str(installed_wheel), "publish", FRESH, NAME, "--num-tokens", "5", *UPLOAD]
    environment = {**hub.environment, "PYTHONPATH": str(installed_wheel), "HF_TOKEN": WRITER}
    command = [sys.executable, "-c", code, *arguments]
    result = warm_python.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr[-2000:]
    files = hub.store.repos[NAME].files("v0.1.0")
    assert "paper's figures** for LLaVA-1.5-13B" in files["README.md"].content.decode()
    assert WRITER not in result.stdout + result.stderr
