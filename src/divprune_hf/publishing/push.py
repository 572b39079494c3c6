"""Variant folder -> model repo on the Hub: one commit and one tag. The Hub copies weights that equal the base's."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi
from huggingface_hub.errors import HfHubHTTPError
from huggingface_hub.utils import validate_repo_id

from divprune_hf.cards.card import CardFacts, licence_metadata, render_card, rendered_facts
from divprune_hf.cards.metadata import check_metadata, with_metadata
from divprune_hf.cards.variants import Licence, licence_for
from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.checkpoints.hub_files import checked_commit
from divprune_hf.common.printable import printable
from divprune_hf.publishing import arrival, checks, plan
from divprune_hf.publishing.pushed_files import LocalVariant, check_base, check_links, only, read_variant, small_texts
from divprune_hf.publishing.target import Target, find_target
from divprune_hf.version import __version__


CLAIM = "byte for byte"  # the template of the card says this of unchanged weights

Say = Callable[[str], object]


@dataclass(frozen=True)
class PushOptions:
    """Choices of a push, as `push_variant` documents them."""

    public: bool = False
    revision: str = "main"
    tag: str | None = None
    dry_run: bool = False
    upload_weights: bool = False
    license: str | None = None

    @property
    def tag_name(self) -> str:
        """The tag for the commit: the one given, or `v` and the version of this package."""
        return self.tag or f"v{__version__}"


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
    say: Say = print,
) -> PushResult:
    """Push a variant folder to a model repo on the Hub, in one commit with one tag.

    The Hub copies weights and other large files that equal those of the Hub base. Code, configs and card are uploaded.
    Pushing the same variant again changes nothing. The token is the one of `hf auth login` or `HF_TOKEN`.

    Args:
        folder (`str` or `Path`): a variant, as `convert_checkpoint` makes it.
        repo_id (`str`): ORG/NAME; the repo is created if it does not exist.
        public (`bool`): make the repo public, once everything is in it. A repo that is public already is refused
            without this.
        revision (`str`): the branch to commit to; it is created if it does not exist.
        tag (`str`, *optional*): the tag for the commit, `v` and this package's version by default. It never moves.
        dry_run (`bool`): say what would be sent, and change nothing.
        upload_weights (`bool`): upload everything, instead of letting the Hub copy.
        license (`str`, *optional*): the licence of a base that is not in the table of variants.
        say: called with lines about the progress.

    Returns:
        The repo, the commit and its tag, and the planned files.

    Raises:
        ValueError: the folder is not as `convert_checkpoint` makes it, its licence is not known, the target must not be
            written to, or the Hub refuses. A push that fails before the commit leaves at most an empty private repo on
            the Hub. One that fails after it is finished by pushing again.
    """
    folder = Path(folder).resolve()
    check_links(folder)
    checks.check_code(folder)
    options = PushOptions(
        public=public,
        revision=revision,
        tag=tag,
        dry_run=dry_run,
        upload_weights=upload_weights,
        license=license,
    )
    return push_files(read_variant(folder, say), repo_id, options, say)


def push_files(variant: LocalVariant, repo_id: str, options: PushOptions, say: Say) -> PushResult:
    """Check a variant whose code is known to be this package's, and push it; see `push_variant`."""
    check_repo_id(repo_id)
    checks.check_configs(variant.folder, variant.shapes)
    config = files.read_json(variant.folder / "config.json")
    recorded = files.recorded_base(config)
    licence = licence_for(recorded["repo_id"] if recorded else None, options.license)
    text = card(variant.folder, config, repo_id, options.tag_name, licence)
    check_metadata(text)
    contents: dict[str, bytes | Path] = {**variant.contents, "README.md": text.encode()}
    checks.check_no_token(small_texts(contents))
    api = HfApi(library_name="divprune_hf", library_version=__version__)
    with explained(repo_id):
        target = find_target(api, repo_id, options.revision, recorded, options.public)
        base = plan.find_base(api, recorded, options.upload_weights)
        if base is not None and base.refusal:
            say(printable(f"Nothing is copied from {base.repo_id}: {base.refusal}"))
        planned = [plan.plan_file(name, contents[name], base, target.files) for name in sorted(contents)]
        if base is not None and variant.remote is not None:
            planned += [plan.plan_remote_file(name, base, target.files) for name in variant.remote.names]
        check_claim(text, plan.changed_weights(planned, base), base)
        if base is not None and base.files:
            check_base(variant, contents, base)
        push_plan = plan.Plan(planned, plan.stale_files(planned, target.files))
        check_tag(target, options.tag_name, push_plan.changes)
        if push_plan.changes:  # the costly check comes last, and nothing has been written so far
            with only(contents) as pushed:  # load the pushed files alone, as a user will
                checks.check_loads(pushed, variant.weight_bytes, has_weights=variant.remote is None)
        if options.dry_run:
            say(push_plan.describe())
            return PushResult(repo_id, None, options.tag_name, planned)
        return send(api, target, push_plan, options, say)


def send(api: HfApi, target: Target, push_plan: plan.Plan, options: PushOptions, say: Say) -> PushResult:
    """Create the repo and branch if they do not exist, commit, tag, and then make the repo public.

    After each step the repo is looked at, before the next one begins.
    """
    target, tag = target.created(api), options.tag_name
    commit = checked_commit(target.head)
    if push_plan.changes:
        push_plan, commit = commit_files(api, target, push_plan, tag, say)
        arrival.check_files(api, target.repo_id, commit, push_plan.files)
    if tag not in target.tags:
        api.create_tag(target.repo_id, tag=tag, revision=commit)
        arrival.check_tag(api, target.repo_id, commit, tag)
    if options.public and target.private:
        api.update_repo_settings(target.repo_id, private=False)
        arrival.check_public(api, target.repo_id)
    return PushResult(target.repo_id, commit, tag, push_plan.files)


def commit_files(api: HfApi, target: Target, push_plan: plan.Plan, tag: str, say: Say) -> tuple[plan.Plan, str]:
    """Make the one commit, with uploads instead of copies if the Hub refuses to copy; return what was sent."""
    arguments: dict[str, Any] = {
        "revision": target.revision,
        "parent_commit": target.head,
        "commit_message": f"divprune_hf {tag}",
    }
    try:
        info = api.create_commit(target.repo_id, push_plan.operations(), **arguments)
    except Exception as error:
        if not is_refused_copy(error):
            raise
        push_plan = push_plan.as_uploads()
        say(f"The Hub refuses to copy from the base: {plan.size_text(push_plan.upload_bytes)} are uploaded instead.")
        info = api.create_commit(target.repo_id, push_plan.operations(), **arguments)
    return push_plan, checked_commit(info.oid)


def is_refused_copy(error: Exception) -> bool:
    """Tell whether the Hub refused a copy between repos and nothing else."""
    if type(error).__name__ == "FileDuplicationError":  # a class of newer versions of huggingface_hub only
        return True
    response = error.response if isinstance(error, HfHubHTTPError) else None
    return response is not None and str(response.url).endswith("/lfs-files/duplicate") and response.status_code != 401


def check_repo_id(repo_id: str) -> None:
    """Raise a `ValueError` unless this is ORG/NAME."""
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


def card(folder: Path, config: dict[str, Any], repo_id: str, tag: str, licence: Licence) -> str:
    """Return the card to push: the one that `convert` rendered, for this repo and tag.

    A card that someone edited keeps its text, and only gets the licence.
    """
    path = folder / "README.md"
    if path.is_file():
        text = path.read_text(encoding="utf-8")
        facts = rendered_facts(text, config)
        if facts is None:
            return with_metadata(text, licence_metadata(licence))
    else:  # `save_pretrained` writes no card
        facts = replace(CardFacts.of_config(repo_id, config, folder.name), saved=True)
    return render_card(replace(facts, name=repo_id, tag=tag, licence=licence))
