"""Variant folder -> model repo on the Hub: one commit, one tag, and weights that the Hub copies by itself."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

from divprune_hf.cards.card import CardFacts, licence_metadata, render_card, rendered_facts
from divprune_hf.cards.metadata import check_metadata, with_metadata
from divprune_hf.cards.variants import licence_for
from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.checkpoints.hub_files import checked_commit
from divprune_hf.common.printable import printable
from divprune_hf.publishing import arrival, checks, plan
from divprune_hf.publishing.pushed_files import check_base, only
from divprune_hf.publishing.target import Target, find_target
from divprune_hf.version import __version__


CLAIM = "byte for byte"  # what the card's template says about the weights


@dataclass(frozen=True)
class PushResult:
    """Result of a push: the repo, the commit that holds the variant (None for a dry run), its tag, and its files."""

    repo_id: str
    commit: str | None
    tag: str
    files: list[plan.PlannedFile]


def push_variant(
    folder: str | Path,
    repo_id: str,
    *,
    public: bool = False,
    revision: str = "main",
    tag: str | None = None,
    dry_run: bool = False,
    upload_weights: bool = False,
    license: str | None = None,
    say: Callable[[str], object] = print,
) -> PushResult:
    """Push a variant folder to a model repo on the Hub, in one commit with one tag.

    Weights and other large files that equal those of the Hub base are copied on the Hub; code, configs and card are
    uploaded. Pushing the same thing again changes nothing. The token is the one of `hf auth login` or `HF_TOKEN`.

    Args:
        folder (`str` or `Path`): a variant, as `convert_checkpoint` makes it.
        repo_id (`str`): ORG/NAME; the repo is created if it is not there.
        public (`bool`): make the repo public, once everything is in it. A repo that is public is only pushed to if this
            is set.
        revision (`str`): the branch to commit to; it is created if it is not there.
        tag (`str`, *optional*): the tag for the commit, `v` and this package's version by default. It never moves.
        dry_run (`bool`): say what would be sent, and change nothing.
        upload_weights (`bool`): upload everything, instead of letting the Hub copy.
        license (`str`, *optional*): the licence of a base that is not in the table of variants.
        say: takes lines for whoever watches.

    Raises:
        ValueError: the folder is not as `convert_checkpoint` makes it, its licence is not known, the target must not be
            written to, or the Hub refuses. What breaks off before the commit leaves nothing visible on the Hub, at most
            an empty private repo; what breaks off after it is finished by pushing again.
    """
    folder = Path(folder).resolve()
    check_links(folder)
    checks.check_code(folder)
    contents = variant_files(folder, say)
    weights = files.weight_files(folder)
    return push_files(folder, contents, weights, repo_id, public, revision, tag, dry_run, upload_weights, license, say)


def push_files(
    folder, contents, weights, repo_id, public, revision, tag, dry_run, upload_weights, license, say, remote=None
):
    """Check a variant whose code is known to be ours, and push it.

    Args:
        folder (`Path`): its files, as far as they are here.
        contents (`dict`): all of them by name.
        weights (`list[str]`): the names of its weights.
        remote (`RemoteWeights`, *optional*): weights that only the base has.
        The others as in `push_variant`.
    """
    check_repo_id(repo_id)
    tag = tag or f"v{__version__}"
    shapes = remote.shapes if remote else files.tensor_shapes(folder, weights)
    checks.check_configs(folder, shapes)
    config = files.read_json(folder / "config.json")
    recorded = files.recorded_base(config)
    licence = licence_for(recorded["repo_id"] if recorded else None, license)
    contents = {**contents, "README.md": card(folder, config, repo_id, tag, licence).encode()}
    check_metadata(contents["README.md"].decode())
    checks.check_no_token(small_texts(contents))
    api = HfApi(library_name="divprune_hf", library_version=__version__)
    with explained(repo_id):
        target = find_target(api, repo_id, revision, recorded, public)
        base = plan.find_base(api, recorded, upload_weights)
        if base is not None and base.refusal:
            say(printable(f"Nothing is copied from {base.repo_id}: {base.refusal}"))
        planned = [plan.plan_file(name, contents[name], base, target.files) for name in sorted(contents)]
        planned += [plan.plan_remote_file(name, base, target.files) for name in (remote.names if remote else [])]
        check_claim(contents["README.md"].decode(), plan.changed_weights(planned, base), base)
        if base is not None and base.files and recorded:
            check_base(folder, contents, recorded, base, remote)
        stale = plan.stale_files(planned, target.files)
        changes = bool(stale) or any(file.origin != "unchanged" for file in planned)
        check_tag(target, tag, changes)
        if changes:  # the costly check comes last, and nothing has been written so far
            size = sum((folder / name).stat().st_size for name in weights)
            with only(contents) as pushed:  # what stays behind is not loaded either
                checks.check_loads(pushed, size, has_weights=remote is None)
        if dry_run:
            say(plan.describe(planned, stale))
            return PushResult(repo_id, None, tag, planned)
        return send(api, target, planned, stale, changes, tag, public, say)


def send(api, target, planned, stale, changes, tag, public, say):
    """Create what is not there, commit, tag, and only then make it public; each is looked at before the next."""
    target = target.created(api)
    commit = target.head
    if changes:
        planned, commit = commit_files(api, target, planned, stale, tag, say)
        arrival.check_files(api, target.repo_id, commit, planned)
    if tag not in target.tags:
        api.create_tag(target.repo_id, tag=tag, revision=commit)
        arrival.check_tag(api, target.repo_id, commit, tag)
    if public and target.private:
        api.update_repo_settings(target.repo_id, private=False)
        arrival.check_public(api, target.repo_id)
    return PushResult(target.repo_id, commit, tag, planned)


def commit_files(api, target, planned, stale, tag, say):
    """Make the one commit; where the Hub refuses to copy, upload."""
    arguments = {"revision": target.revision, "parent_commit": target.head, "commit_message": f"divprune_hf {tag}"}
    try:
        info = api.create_commit(target.repo_id, plan.operations(planned, stale), **arguments)
    except Exception as error:
        if not is_refused_copy(error):
            raise
        uploads = plan.as_uploads(planned)
        size = sum(file.size for file in uploads if file.origin == "upload")
        say(f"The Hub refuses to copy from the base: {plan.size_text(size)} are uploaded instead.")
        planned = uploads
        info = api.create_commit(target.repo_id, plan.operations(planned, stale), **arguments)
    return planned, checked_commit(info.oid)


def is_refused_copy(error: Exception) -> bool:
    """Tell whether the Hub refused a copy between repos, and nothing else."""
    if type(error).__name__ == "FileDuplicationError":  # newer versions of huggingface_hub alone have this class
        return True
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return response is not None and str(response.url).endswith("/lfs-files/duplicate") and response.status_code != 401


def check_repo_id(repo_id: str) -> None:
    try:
        validate_repo_id(repo_id)
    except ValueError as error:
        raise ValueError(f"Got repo_id={repo_id!r}, expected ORG/NAME ({error}).") from None
    if "/" not in repo_id:
        raise ValueError(f"Got repo_id={repo_id!r}, expected ORG/NAME: name the organisation or user too.")


def check_tag(target: Target, tag: str, changes: bool) -> None:
    """Refuse a push that would need to move a tag."""
    if tag in target.tags and (changes or target.tags[tag] != target.head):
        raise ValueError(
            f"{target.repo_id} has the tag {tag} at commit {target.tags[tag]}, and tags do not move: pass another "
            "--tag (tag=) for what you push."
        )


def check_claim(text: str, changed: list[str], base: plan.Base | None) -> None:
    """Refuse a card that calls the weights the base's when they are not."""
    if changed and base is not None and CLAIM in text:
        raise ValueError(
            f"{', '.join(changed)} differs from the file of {base.repo_id} at commit {base.commit}, but README.md says "
            f'"{CLAIM}": write there what was done to the weights.'
        )


def check_links(folder: Path) -> None:
    """Refuse a folder with a link that leads out of it, which nobody sees who pushes, or with pipes."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, expected a variant (divprune-hf convert BASE OUT).")
    for path in folder.rglob("*"):
        if folder not in path.resolve().parents:
            raise ValueError(printable(f"{path} is a link that leads out of the folder: put a copy in its place."))
        if not path.is_dir():
            files.regular_file(path)


def variant_files(folder: Path, say: Callable[[str], object]) -> dict[str, Path]:
    """The files of a variant folder by name; what does not belong to a variant stays here and is named."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    own = {"README.md", *files.EDITED_FILES, *files.copied_files(folder), *files.weight_files(folder)}
    belongs = [name for name in names if name in own or name.endswith(".py")]
    left = sorted(set(names) - set(belongs))
    if left:
        say(printable(f"Not part of the variant, and not pushed: {', '.join(left)}"))
    return {name: (folder / name).resolve() for name in belongs}


def small_texts(contents):
    """The files in which a token could have been left behind: not the weights, nor the tokenizer's tables."""
    texts = {name: content for name, content in contents.items() if not name.endswith(".safetensors")}
    return {
        name: content if isinstance(content, bytes) else content.read_bytes()
        for name, content in texts.items()
        if isinstance(content, bytes) or content.stat().st_size < 2**20
    }


def card(folder, config, repo_id, tag, licence):
    """The card to push: as `convert` rendered it, but for this repo and tag. An edited one only gets the licence."""
    path = folder / "README.md"
    text = path.read_text(encoding="utf-8") if path.is_file() else None
    if text is None:  # `convert` writes a card; `save_pretrained` does not
        facts = replace(CardFacts.of_config(repo_id, config, folder.name), saved=True)
    else:
        facts = rendered_facts(text, config)
    if facts is not None:
        return render_card(replace(facts, name=repo_id, tag=tag, licence=licence))
    return with_metadata(text, licence_metadata(licence))
