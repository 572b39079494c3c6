"""The console commands that speak to the Hub: push, publish, verify."""

from divprune_hf.publishing.publish import publish_variant
from divprune_hf.publishing.push import push_variant
from divprune_hf.publishing.verify import verify_variant
from divprune_hf.remote_code.configuration_divprune import BUDGET, VIDEO_BUDGET, DivPruneConfig
from divprune_hf.version import __version__


def add_commands(commands, add_budget):
    """Add them to a parser's sub-commands; `add_budget` adds the flags of a budget."""
    push = commands.add_parser("push", help="push a variant folder to a model repo on the Hub")
    push.add_argument("folder", metavar="FOLDER", help="a variant, as convert makes it")
    add_target(push)
    push.set_defaults(run=run_push)

    publish = commands.add_parser("publish", help="convert a checkpoint on the Hub and push it, without its weights")
    publish.add_argument("base", metavar="BASE", help="the id of a Hub repo")
    add_target(publish)
    add_budget(publish)
    publish.add_argument("--base-revision", metavar="REV", help="branch, tag or commit of the base")
    publish.set_defaults(run=run_publish)

    verify = commands.add_parser("verify", help="compare a variant's code with this package's, without running it")
    verify.add_argument("source", metavar="ORG/NAME", help="a model repo on the Hub, or a folder")
    verify.add_argument("--revision", metavar="REV", help="branch, tag or commit")
    verify.set_defaults(run=run_verify)


def add_target(parser):
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the model repo to push to")
    parser.add_argument("--public", action="store_true", help="make the repo public; without it, it is private")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="the branch to push to (main)")
    parser.add_argument("--tag", help=f"the tag of the commit (v{__version__}); a tag never moves")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and change nothing")
    parser.add_argument(
        "--upload-weights", action="store_true", help="upload the weights even if the Hub could copy them"
    )
    parser.add_argument("--license", metavar="ID", help="the Hub's id of the base's licence, if it is not known")


def target_options(options):
    names = ("public", "revision", "tag", "dry_run", "upload_weights", "license")
    return {name: getattr(options, name) for name in names}


def run_push(options):
    tell(push_variant(options.folder, options.repo_id, **target_options(options)))


def run_publish(options):
    if all(getattr(options, name) is None for name in (*BUDGET, *VIDEO_BUDGET)):
        raise ValueError(
            "Got no budget, expected --retention-ratio R or --num-tokens N for images, or --video-retention-ratio R or "
            "--video-num-tokens N for videos."
        )
    settings = {name: getattr(options, name, None) for name in DivPruneConfig.settings()}
    divprune_config = {name: value for name, value in settings.items() if value is not None}
    arguments = {**target_options(options), "base_revision": options.base_revision}
    tell(publish_variant(options.base, options.repo_id, divprune_config, **arguments))


def tell(result):
    if result.commit is not None:
        print(f"{result.repo_id} at {result.tag}, commit {result.commit}")


def run_verify(options):
    verified = verify_variant(options.source, options.revision)
    at = f" at commit {verified.commit}" if verified.commit else ""
    version = __version__
    print(f"{verified.source}{at}: its {len(verified.code)} Python files are those of divprune_hf {version}.")
    for note in verified.notes:
        print(f"Note: {note}.")
