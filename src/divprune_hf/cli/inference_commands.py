"""The commands that answer questions: ask, demo."""

import sys
from argparse import Namespace
from collections.abc import Callable
from typing import Any

from divprune_hf.cli.settings_flags import add_settings, given_settings


def add_commands(commands: Any) -> None:
    """Add them to the sub-commands of a parser."""
    question = commands.add_parser("ask", help="ask a model about a picture or a video")
    question.add_argument("model", metavar="MODEL", help="a variant or a stock base: a folder, or the id of a Hub repo")
    question.add_argument("source", metavar="FILE", help="a picture or video, a file or URL")
    question.add_argument("question", metavar="QUESTION")
    add_settings(question)
    question.add_argument("--num-frames", type=int, metavar="N", help="frames to take of a video (8)")
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

    demo = commands.add_parser("demo", help="convert the small model that ships with the package, and ask it")
    demo.add_argument("--show", metavar="PNG", default="divprune-demo.png", help="where to draw the kept patches")
    demo.set_defaults(run=run_demo_command)


def run_ask(options: Namespace) -> None:
    """Print the answer to a question, and how many visual tokens it was made from."""
    from divprune_hf.cli.question_checks import check_question
    from divprune_hf.inference.ask import ask, ask_about_video
    from divprune_hf.inference.loading import load_pruned
    from divprune_hf.inference.pictures import read_picture, save_picture
    from divprune_hf.inference.videos import DEFAULT_NUM_FRAMES, is_video, read_video

    check_question(options)
    ask_about: Callable[..., Any]
    subject: Any
    if is_video(options.source):
        num_frames = DEFAULT_NUM_FRAMES if options.num_frames is None else options.num_frames
        ask_about, subject = ask_about_video, read_video(options.source, num_frames)
    else:
        ask_about, subject = ask, read_picture(options.source)
    model, processor = load_pruned(
        options.model,
        **given_settings(options),
        device=options.device,
        revision=options.revision,
        trust_remote_code=options.trust_remote_code or None,
    )
    answer = ask_about(model, processor, subject, options.question, options.max_new_tokens)
    print(answer.text)
    print(f"{answer.num_kept} of {answer.num_available} visual tokens kept", file=sys.stderr)
    if options.show is not None:
        if answer.radius is not None:
            print(f"covering radius {answer.radius:.2f}", file=sys.stderr)
        save_picture(answer.picture, options.show)


def run_demo_command(options: Namespace) -> None:
    """Run the demo."""
    from divprune_hf.cli.demo import run_demo

    run_demo(options.show)
