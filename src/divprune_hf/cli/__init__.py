"""The console command `divprune-hf`: one file for each group of commands, whose work is imported when it is done."""

import signal

from divprune_hf.cli import streams


def main(arguments: list[str] | None = None) -> int:
    """Run a command; return its exit code.

    It is 0, or 2 with one line on stderr, or as usual for tools 128 and the number of the signal that ended it: 130
    for ^C, 143 for SIGTERM, 141 where nobody reads the output any more.
    """
    from divprune_hf.cli.parser import build_parser

    streams.allow_any_letter()
    try:
        try:
            options = build_parser().parse_args(arguments)
            quieten()
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
            streams.tell(f"divprune-hf: error: {sentence(error)}")
        streams.drop_unwritable()
        return code
    return 0


def quieten() -> None:
    """Let transformers speak of errors only."""
    import transformers

    transformers.logging.set_verbosity_error()


def sentence(error: Exception) -> str:
    """The message of an error as one line, without tokens of the Hub."""
    from divprune_hf.checkpoints.hub_errors import redact
    from divprune_hf.common.printable import one_line

    return one_line(redact(str(error))) or type(error).__name__
