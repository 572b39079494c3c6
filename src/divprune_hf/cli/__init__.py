"""The console command `divprune-hf`."""

import argparse
import signal
import sys

import transformers

from divprune_hf.checkpoints.hub_errors import redact
from divprune_hf.cli import benchmark_commands, evaluation_commands, streams
from divprune_hf.cli.demo import run_demo
from divprune_hf.cli.hub_commands import add_commands
from divprune_hf.cli.question_checks import check_question
from divprune_hf.common.printable import one_line
from divprune_hf.inference.ask import ask, ask_about_video
from divprune_hf.inference.loading import load_pruned
from divprune_hf.inference.pictures import read_picture, save_picture
from divprune_hf.inference.videos import DEFAULT_NUM_FRAMES, is_video, read_video
from divprune_hf.publishing.convert import convert_checkpoint
from divprune_hf.remote_code.configuration_divprune import BUDGET, VIDEO_BUDGET
from divprune_hf.remote_code.selectors import SELECTORS
from divprune_hf.remote_code.token_budget import ORDERS
from divprune_hf.version import __version__


class OneLineParser(argparse.ArgumentParser):
    """Errors of usage are one line too."""

    def error(self, message):
        self.exit(2, f"divprune-hf: error: {message} (see {self.prog} --help)\n")


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code.

    It is 0, or 2 with one line on stderr, or as usual for tools 128 and the number of the signal that ended it: 130
    for ^C, 143 for SIGTERM, 141 where nobody reads the output any more.
    """
    streams.allow_any_letter()
    try:
        try:
            options = build_parser().parse_args(arguments)
            transformers.logging.set_verbosity_error()
            options.run(options)
        finally:
            streams.flush()
    except KeyboardInterrupt as stopped:
        number = getattr(stopped, "number", signal.SIGINT)  # see divprune_hf_console.py
        streams.tell(f"divprune-hf: {'terminated' if number == signal.SIGTERM else 'interrupted'}")
        return 128 + number
    except Exception as error:  # whatever a library raises, who uses a command gets one line and no traceback
        code = 128 + streams.SIGPIPE if streams.reader_is_gone(error) else 2
        if code == 2:
            streams.tell(f"divprune-hf: error: {one_line(redact(str(error))) or type(error).__name__}")
        streams.drop_unwritable()
        return code
    return 0


def build_parser():
    parser = OneLineParser(
        prog="divprune-hf", description="LLaVA models that answer from a tenth of their visual tokens."
    )
    parser.add_argument("--version", action="version", version=f"divprune-hf {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=OneLineParser)

    convert = commands.add_parser("convert", help="make a pruned, ready-to-load variant of a checkpoint")
    convert.add_argument("base", metavar="BASE", help="a checkpoint folder, or the id of a Hub repo")
    convert.add_argument("out", metavar="OUT", help="the folder to make")
    add_budget(convert)
    convert.add_argument("--order", choices=ORDERS, help="feed kept tokens in image order or in order of picking")
    convert.add_argument("--selector", choices=SELECTORS, help="DivPrune (max_min) or a baseline to compare it with")
    convert.add_argument("--seed", type=int, metavar="N", help="what the selector `random` draws by")
    convert.add_argument("--base-revision", metavar="REV", help="branch, tag or commit of a Hub base")
    convert.add_argument("--overwrite", action="store_true", help="replace OUT if it is a variant")
    convert.add_argument("--link", action="store_true", help="hard-link the weights instead of copying them")
    convert.set_defaults(run=run_convert)

    question = commands.add_parser("ask", help="ask a model about a picture or a video")
    question.add_argument("model", metavar="MODEL", help="a variant or a stock base: a folder, or the id of a Hub repo")
    question.add_argument("source", metavar="FILE", help="a picture or video, a file or URL")
    question.add_argument("question", metavar="QUESTION")
    add_budget(question)
    question.add_argument(
        "--num-frames",
        type=int,
        metavar="N",
        help=f"frames to take of a video ({DEFAULT_NUM_FRAMES})",
    )
    question.add_argument("--show", metavar="PNG", help="draw which patches were kept")
    question.add_argument("--device", help="such as cpu or cuda:0; by default wherever there is room")
    question.add_argument("--revision", metavar="REV", help="branch, tag or commit of a Hub repo")
    question.add_argument(
        "--trust-remote-code",
        action="store_true",
        help="run the code that the variant brings (transformers 4.57 only; 5 runs this package's)",
    )
    question.add_argument("--max-new-tokens", type=int, default=64, metavar="N", help="the longest answer (64)")
    question.set_defaults(run=run_ask)

    add_commands(commands, add_budget)
    evaluation_commands.add_commands(commands)
    benchmark_commands.add_commands(commands)

    demo = commands.add_parser("demo", help="convert the small model that ships with the package, and ask it")
    demo.add_argument("--show", metavar="PNG", default="divprune-demo.png", help="where to draw the kept patches")
    demo.set_defaults(run=lambda options: run_demo(options.show))
    return parser


def add_budget(parser):
    for prefix, kind in (("", "image"), ("video-", "video")):
        budget = parser.add_mutually_exclusive_group()
        budget.add_argument(
            f"--{prefix}retention-ratio", type=float, metavar="R", help=f"share of visual tokens to keep per {kind}"
        )
        budget.add_argument(
            f"--{prefix}num-tokens", type=int, metavar="N", help=f"number of visual tokens to keep per {kind}"
        )


def given_settings(options, *names):
    """The settings of `DivPruneConfig` among the options that were given."""
    return {name: getattr(options, name) for name in names if getattr(options, name) is not None}


def run_convert(options):
    out = convert_checkpoint(
        options.base,
        options.out,
        divprune_config=given_settings(options, *BUDGET, *VIDEO_BUDGET, "order", "selector", "seed"),
        overwrite=options.overwrite,
        link=options.link,
        base_revision=options.base_revision,
        say=lambda line: print(line, file=sys.stderr),
    )
    print(out)


def run_ask(options):
    check_question(options)
    if is_video(options.source):
        num_frames = DEFAULT_NUM_FRAMES if options.num_frames is None else options.num_frames
        ask_about, subject = ask_about_video, read_video(options.source, num_frames)
    else:
        ask_about, subject = ask, read_picture(options.source)
    model, processor = load_pruned(
        options.model,
        **given_settings(options, *BUDGET, *VIDEO_BUDGET),
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code or None,
    )
    answer = ask_about(model, processor, subject, options.question, options.max_new_tokens)
    print(answer.text)
    print(f"{answer.num_kept} of {answer.num_available} visual tokens kept", file=sys.stderr)
    if options.show is not None:
        save_picture(answer.picture, options.show)
