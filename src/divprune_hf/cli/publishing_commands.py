"""The commands that make variants and speak to the Hub: convert, push, publish, verify."""

import sys
from argparse import ArgumentParser, Namespace
from typing import Any

from divprune_hf.cli.settings_flags import add_settings, flag, given_settings
from divprune_hf.remote_code.settings import IMAGE_BUDGET, PER_CALL, SETTINGS, VIDEO_BUDGET
from divprune_hf.version import __version__


def add_commands(commands: Any) -> None:
    """Add them to the sub-commands of a parser."""
    convert = commands.add_parser("convert", help="make a pruned, ready-to-load variant of a checkpoint")
    convert.add_argument("base", metavar="BASE", help="a checkpoint folder, or the id of a Hub repo")
    convert.add_argument("out", metavar="OUT", help="the folder to make")
    add_settings(convert)
    convert.add_argument("--base-revision", metavar="REV", help="branch, tag or commit of a Hub base")
    convert.add_argument("--overwrite", action="store_true", help="replace OUT if it is a variant")
    convert.add_argument("--link", action="store_true", help="hard-link the weights instead of copying them")
    convert.set_defaults(run=run_convert)

    push = commands.add_parser("push", help="push a variant folder to a model repo on the Hub")
    push.add_argument("folder", metavar="FOLDER", help="a variant, as convert makes it")
    add_target(push)
    push.set_defaults(run=run_push)

    publish = commands.add_parser("publish", help="convert a checkpoint on the Hub and push it, without its weights")
    publish.add_argument("base", metavar="BASE", help="the id of a Hub repo")
    add_target(publish)
    add_settings(publish)
    publish.add_argument("--base-revision", metavar="REV", help="branch, tag or commit of the base")
    publish.set_defaults(run=run_publish)

    verify = commands.add_parser("verify", help="compare a variant's code with this package's, without running it")
    verify.add_argument("source", metavar="ORG/NAME", help="a model repo on the Hub, or a folder")
    verify.add_argument("--revision", metavar="REV", help="branch, tag or commit")
    verify.set_defaults(run=run_verify)


def add_target(parser: ArgumentParser) -> None:
    """Add the flags that say where and how to push."""
    parser.add_argument("repo_id", metavar="ORG/NAME", help="the model repo to push to")
    parser.add_argument("--public", action="store_true", help="make the repo public; without it, it is private")
    parser.add_argument("--revision", default="main", metavar="BRANCH", help="the branch to push to (main)")
    parser.add_argument("--tag", help=f"the tag of the commit (v{__version__}); a tag never moves")
    parser.add_argument("--dry-run", action="store_true", help="list what would be sent, and change nothing")
    parser.add_argument(
        "--upload-weights", action="store_true", help="upload the weights even if the Hub could copy them"
    )
    parser.add_argument("--license", metavar="ID", help="the Hub's id of the base's licence, if it is not known")


def target_options(options: Namespace) -> dict[str, Any]:
    """The options of `add_target`, as the functions of the package call them."""
    names = ("public", "revision", "tag", "dry_run", "upload_weights", "license")
    return {name: vars(options)[name] for name in names}


def run_convert(options: Namespace) -> None:
    """Make a variant, and print its folder."""
    from divprune_hf.publishing.convert import convert_checkpoint

    out = convert_checkpoint(
        options.base,
        options.out,
        divprune_config=given_settings(options),
        overwrite=options.overwrite,
        link=options.link,
        base_revision=options.base_revision,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(out)


def run_push(options: Namespace) -> None:
    """Push a variant folder."""
    from divprune_hf.publishing.push import push_variant

    say_pushed(push_variant(options.folder, options.repo_id, **target_options(options)))


def run_publish(options: Namespace) -> None:
    """Convert a base on the Hub and push the variant."""
    settings = given_settings(options)
    if not set(PER_CALL) & set(settings):
        images, videos = (
            " or ".join(f"{flag(name)} {SETTINGS[name].metavar}" for name in budget)
            for budget in (IMAGE_BUDGET, VIDEO_BUDGET)
        )
        raise ValueError(f"Got no budget, expected {images} for images, or {videos} for videos.")
    from divprune_hf.publishing.publish import publish_variant

    arguments = {**target_options(options), "base_revision": options.base_revision}
    say_pushed(publish_variant(options.base, options.repo_id, settings, **arguments))


def say_pushed(result: Any) -> None:
    """Print where a variant has been pushed to."""
    if result.commit is not None:
        print(f"{result.repo_id} at {result.tag}, commit {result.commit}")


def run_verify(options: Namespace) -> None:
    """Compare a variant with this package."""
    from divprune_hf.publishing.verify import verify_variant

    verified = verify_variant(options.source, options.revision)
    at = f" at commit {verified.commit}" if verified.commit else ""
    print(f"{verified.source}{at}: its {len(verified.code)} Python files are those of divprune_hf {__version__}.")
    for note in verified.notes:
        print(f"Note: {note}.")
