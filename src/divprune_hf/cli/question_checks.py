"""Checks of `divprune-hf ask` before a weight is loaded."""

from argparse import Namespace
from pathlib import Path
from typing import Any

from divprune_hf.cli.settings_flags import flag, given_settings
from divprune_hf.inference.ask import check_max_new_tokens, check_takes_videos
from divprune_hf.inference.loading import read_config
from divprune_hf.inference.pictures import check_drawable
from divprune_hf.inference.videos import is_video
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.settings import IMAGE_BUDGET, VIDEO_BUDGET


def check_question(options: Namespace) -> None:
    """Raise a `ValueError` for options that cannot be, do not go together, or have no effect on this model."""
    check_max_new_tokens(options.max_new_tokens)
    check_text(options.question)
    about_video = is_video(options.source)
    if options.show is not None:
        check_drawable(options.show)
        if Path(options.show).exists() and Path(options.source).exists() and same_file(options.show, options.source):
            raise ValueError(f"Got {options.show} as picture to ask about and to draw into: choose another file.")
    if options.num_frames is not None and not about_video:
        raise ValueError(f"Got num_frames={options.num_frames} for a picture: expected it for a video only.")
    settings = given_settings(options)
    DivPruneConfig.merged(override=settings, takes_videos=True)
    _, takes_videos, _ = read_config(options.model, settings, options.revision, options.trust_remote_code or None)
    if about_video and not takes_videos:
        check_takes_videos(takes_videos, options.model)
    check_effect(settings, about_video)


def check_effect(settings: dict[str, Any], about_video: bool) -> None:
    """Refuse a budget for what is not asked about."""
    useless, useful = (IMAGE_BUDGET, VIDEO_BUDGET) if about_video else (VIDEO_BUDGET, IMAGE_BUDGET)
    given = [name for name in useless if name in settings]
    if given:
        kind, flags = "video" if about_video else "picture", " or ".join(map(flag, useful))
        raise ValueError(f"Got {flag(given[0])} for a question about a {kind}, expected {flags}.")


def check_text(question: str) -> None:
    """Refuse bytes that were no text in the terminal's encoding, which no tokenizer takes."""
    try:
        question.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Got a question that is not text from character {error.start + 1} on: expected UTF-8."
        ) from None


def same_file(one: str, other: str) -> bool:
    """Tell whether two paths lead to one file."""
    return Path(one).samefile(other)
