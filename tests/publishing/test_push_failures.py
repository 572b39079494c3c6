"""When the Hub, the network or another person gets in the way: nothing is half there, and the next run succeeds."""

import pytest

from tests.helpers.hub_parts import BASE_ID, CAN_COPY, STRANGER, assert_holds, contents, sent_weights


NAME = "org/lean-llava"


def test_the_connection_cut_in_mid_upload_leaves_nothing_visible(hub, converted):
    hub.store.faults["cut_upload"] = 100
    assert hub.run("push", converted, NAME, "--upload-weights", "--public").code == 2
    repo = hub.store.repos[NAME]
    assert repo.private and not contents(repo) and not repo.tags
    hub.store.faults.clear()
    hub.succeed("push", converted, NAME, "--upload-weights", "--public")
    assert_holds(repo, converted, "v0.1.0")
    assert not repo.private and len(repo.log) == 2


def test_an_upload_that_is_cut_once_is_retried(hub, converted):
    hub.store.faults["cut_upload"] = 1
    hub.succeed("push", converted, NAME, "--upload-weights")
    assert_holds(hub.store.repos[NAME], converted)


def test_the_connection_cut_at_the_commit_leaves_the_old_variant(hub, converted, tmp_path):
    hub.succeed("push", converted, NAME)
    repo = hub.store.repos[NAME]
    before = (list(repo.log), dict(repo.tags))
    hub.succeed("convert", converted, tmp_path / "other", "--num-tokens", "7")
    hub.store.faults["cut_commit"] = 100
    assert hub.run("push", tmp_path / "other", NAME, "--tag", "v0.1.1").code == 2
    assert (repo.log, repo.tags) == before
    hub.store.faults.clear()
    hub.succeed("push", tmp_path / "other", NAME, "--tag", "v0.1.1")
    assert_holds(repo, tmp_path / "other", "v0.1.1")


def test_a_push_that_lost_its_tag_is_finished_by_the_next(hub, converted):
    hub.succeed("push", converted, NAME)
    repo = hub.store.repos[NAME]
    repo.tags.clear()
    hub.succeed("push", converted, NAME)
    assert repo.tags == {"v0.1.0": repo.branches["main"]} and len(repo.log) == 2


def test_of_two_pushes_at_once_one_is_told_to_run_again(hub, converted, tmp_path):
    hub.succeed("push", converted, NAME)
    repo = hub.store.repos[NAME]
    hub.succeed("convert", converted, tmp_path / "other", "--num-tokens", "7")
    hub.store.before_commit = lambda: hub.store.fill(repo, {"figure.png": b"someone else's"})
    error = hub.run("push", tmp_path / "other", NAME, "--tag", "v0.1.1").error
    assert "has changed meanwhile (412)" in error and "run this again" in error
    assert len(repo.log) == 3 and "figure.png" in repo.files() and repo.tags.keys() == {"v0.1.0"}
    hub.succeed("push", tmp_path / "other", NAME, "--tag", "v0.1.1")
    assert "figure.png" in repo.files("v0.1.1")


def test_where_the_hub_refuses_to_copy_push_uploads_and_says_so(hub, converted):
    hub.store.faults["refuse_duplicate"] = True
    answer = hub.succeed("push", converted, NAME)
    said = "refuses to copy from the base" if CAN_COPY else "too old for copies"
    assert said in answer.out and sent_weights(hub) == 1
    assert_holds(hub.store.repos[NAME], converted)


def test_a_gated_base_is_uploaded(hub, converted):
    hub.store.repos[BASE_ID].gated = True
    answer = hub.succeed("push", converted, NAME)
    assert ("refuses to copy from the base" in answer.out) == CAN_COPY
    assert sent_weights(hub) == 1
    assert_holds(hub.store.repos[NAME], converted)


def test_a_base_that_is_gone_is_uploaded(hub, converted):
    del hub.store.repos[BASE_ID]
    answer = hub.succeed("push", converted, NAME)
    assert (
        f"Nothing is copied from {BASE_ID}: {BASE_ID} was not found on the Hub" in answer.out and sent_weights(hub) == 1
    )
    assert_holds(hub.store.repos[NAME], converted)


def test_a_commit_of_the_base_that_is_gone_is_uploaded(hub, converted):
    hub.store.repos[BASE_ID].commits.clear()
    answer = hub.succeed("push", converted, NAME)
    assert f"Nothing is copied from {BASE_ID}: {BASE_ID} has no such revision" in answer.out and sent_weights(hub) == 1
    assert_holds(hub.store.repos[NAME], converted)


@pytest.mark.parametrize("echo", [False, True], ids=["plain", "server_repeats_the_token"])
@pytest.mark.parametrize("command", ["push", "convert", "verify", "publish"])
def test_a_wrong_token_is_named_and_never_shown(hub, converted, make_checkpoint, tmp_path, command, echo):
    hub.store.faults["echo"] = echo
    hub.store.add("org/not-in-the-cache", make_checkpoint().base)
    arguments = {
        "push": [converted, NAME],
        "convert": ["org/not-in-the-cache", tmp_path / "out"],
        "verify": [BASE_ID],
        "publish": [BASE_ID, NAME, "--num-tokens", "5", "--upload-weights"],
    }
    answer = hub.run(command, *arguments[command], token=STRANGER)
    assert "401" in answer.error and "log in" in answer.error
    assert STRANGER not in answer.out + answer.err
    assert NAME not in hub.store.repos and not (tmp_path / "out").exists()


def test_without_a_token_push_says_to_log_in(hub, converted):
    error = hub.run("push", converted, NAME, token=None).error
    assert "log in" in error
    assert NAME not in hub.store.repos


@pytest.mark.parametrize(
    ("base", "gated", "reason"),
    [("org/no-such-base", False, "was not found on the Hub"), (BASE_ID, True, "is gated (403)")],
    ids=["missing_404", "gated_403"],
)
def test_convert_says_what_is_wrong_with_a_base(hub, tmp_path, base, gated, reason):
    hub.store.repos[BASE_ID].gated = gated
    hub.store.fill(hub.store.repos[BASE_ID], {"notes.txt": b"a commit that no cache has"})
    assert reason in hub.run("convert", base, tmp_path / "out").error
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_on_convert_leaves_nothing(hub, tmp_path):
    error = hub.run("convert", BASE_ID, tmp_path / "out", "--num-tokens", "5", largest_file=100_000).error
    assert "File too large" in error
    assert list(tmp_path.iterdir()) == []
    hub.succeed("convert", BASE_ID, tmp_path / "out", "--num-tokens", "5")
    assert (tmp_path / "out" / "model.safetensors").is_file()


def test_a_full_disk_while_downloading_leaves_nothing(hub, tmp_path, make_checkpoint):
    hub.store.add("org/other-base", make_checkpoint(language="mistral").base)
    error = hub.run("convert", "org/other-base", tmp_path / "out", largest_file=100_000).error
    assert "File too large" in error
    assert list(tmp_path.iterdir()) == []
    hub.succeed("convert", "org/other-base", tmp_path / "out")
