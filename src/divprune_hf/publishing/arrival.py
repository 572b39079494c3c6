"""Checks that the Hub has done what it was asked for, by looking at the repo instead of at its answers."""

from huggingface_hub import HfApi
from huggingface_hub.hf_api import RepoFile

from divprune_hf.checkpoints.hub_files import is_same, repo_files, repo_info
from divprune_hf.checkpoints.hub_limits import HubTrouble
from divprune_hf.publishing.plan import PlannedFile


LARGEST_TO_HASH = 2**26  # bytes; larger files, which the Hub has stored by hash, are compared by size


def check_files(api: HfApi, repo_id: str, commit: str, planned: list[PlannedFile]) -> None:
    """Raise `HubTrouble` unless a commit holds every file that was sent."""
    there = repo_files(api, repo_id, commit)
    lost = [file.path for file in planned if not has_arrived(file, there)]
    if lost:
        raise HubTrouble(
            f"commit {commit} does not hold {', '.join(lost)} as sent. It has no tag and was not made "
            "public: push again."
        )


def has_arrived(file: PlannedFile, there: dict[str, RepoFile]) -> bool:
    """Tell whether a commit with the files `there` holds a planned file."""
    remote = there.get(file.path)
    if remote is None or remote.size != file.size:
        return False
    if file.content is None or file.size > LARGEST_TO_HASH:
        return True
    return is_same(file.content, file.size, remote)


def check_tag(api: HfApi, repo_id: str, commit: str, tag: str) -> None:
    """Raise `HubTrouble` unless a tag is at a commit."""
    found = {ref.name: ref.target_commit for ref in api.list_repo_refs(repo_id).tags}
    if found.get(tag) != commit:
        raise HubTrouble(f"the tag {tag} is not at commit {commit}, though the Hub took it: push again.")


def check_public(api: HfApi, repo_id: str) -> None:
    """Raise `HubTrouble` unless a repo is public."""
    if repo_info(api, repo_id).private:
        raise HubTrouble(f"{repo_id} is still private, though the Hub took the change: push again with --public.")
