"""The model repo that a push goes to: what it holds, and the checks that it may be written to."""

from dataclasses import dataclass, field, replace

from huggingface_hub import HfApi
from huggingface_hub.errors import RepositoryNotFoundError
from huggingface_hub.hf_api import RepoFile

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_files import checked_commit, download, repo_files, repo_info
from divprune_hf.checkpoints.hub_limits import HubTrouble
from divprune_hf.publishing.plan import MODEL_PATTERNS


LARGEST_CONFIG = 2**22  # bytes


@dataclass(frozen=True)
class Target:
    """A model repo as a push finds it.

    Attributes:
        repo_id: ORG/NAME.
        revision: the branch to push to.
        exists: False if the repo has to be created.
        private: False if everybody can see the repo.
        head: the commit of the branch; None if the branch has to be created.
        files: the files of the branch, or of the commit that it will start from, by path.
        tags: the commit of every tag.
    """

    repo_id: str
    revision: str
    exists: bool = False
    private: bool = True
    head: str | None = None
    files: dict[str, RepoFile] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    def created(self, api: HfApi) -> "Target":
        """Return the target with its repo and branch, created if they do not exist. A new repo is private."""
        target = self
        if not self.exists:
            api.create_repo(self.repo_id, private=True)
            info = repo_info(api, self.repo_id)
            if not info.private:
                raise HubTrouble(
                    f"it made {self.repo_id} public, though a private repo was asked for: look at its page."
                )
            target = replace(self, exists=True, private=True, head=info.sha if self.revision == "main" else None)
        if target.head is None:
            api.create_branch(self.repo_id, branch=self.revision)
            target = replace(target, head=repo_info(api, self.repo_id, self.revision).sha)
        return target


def find_target(api: HfApi, repo_id: str, revision: str, recorded: dict[str, str] | None, public: bool) -> Target:
    """Return the target of a push; refuse one that must not be written to.

    Args:
        api: the client of the Hub.
        repo_id: ORG/NAME.
        revision: the branch.
        recorded: the base that the variant's config records.
        public: allows a repo that is public.

    Raises:
        ValueError: the repo is the base, is public without that being allowed, or holds another model; or `revision` is
            a tag.
    """
    check_not_base(repo_id, recorded)
    try:
        info = repo_info(api, repo_id)
    except RepositoryNotFoundError:
        return Target(repo_id, revision)
    check_not_base(info.id, recorded)  # the Hub also answers to former names of a repo
    if not info.private and not public:
        raise ValueError(f"{repo_id} is public: pass --public (public=True) to push to it.")
    refs = api.list_repo_refs(repo_id)
    tags = {ref.name: checked_commit(ref.target_commit) for ref in refs.tags}
    head = {ref.name: checked_commit(ref.target_commit) for ref in refs.branches}.get(revision)
    if head is None and revision in tags:
        raise ValueError(f"Got revision={revision!r}, a tag of {repo_id}; expected a branch.")
    commit = head or str(info.sha)  # a new branch starts from main
    there = repo_files(api, repo_id, commit)
    check_holds_variant(repo_id, commit, there)
    return Target(repo_id, revision, exists=True, private=bool(info.private), head=head, files=there, tags=tags)


def check_not_base(repo_id: str, recorded: dict[str, str] | None) -> None:
    """Refuse a repo that is the recorded base of the variant."""
    if recorded and repo_id.lower() == recorded["repo_id"].lower():
        raise ValueError(f"{repo_id} is the base of this variant: push to a repo of its own.")


def check_holds_variant(repo_id: str, commit: str, there: dict[str, RepoFile]) -> None:
    """Refuse a repo that holds a model other than a variant made by divprune-hf."""
    if "config.json" in there:
        wanted = {"config.json": there["config.json"]}
        config = files.read_json(download(repo_id, commit, wanted, LARGEST_CONFIG) / "config.json")
        if files.is_variant(config):
            return
        raise ValueError(
            f"{repo_id} holds a model of model_type {config.get('model_type')!r}, which is no variant made by "
            "divprune-hf: push to another repo."
        )
    model_files = [path for path in there if files.matches(path, MODEL_PATTERNS)]
    if model_files:
        raise ValueError(f"{repo_id} holds {model_files[0]} without a variant's config: push to another repo.")
