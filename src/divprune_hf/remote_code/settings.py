# SPDX-License-Identifier: Apache-2.0
"""The settings of the pruning as one table: a new setting is one entry here, and a line where its value is used.

`DivPruneConfig`, the processors' arguments per call, the flags of `convert`, `publish` and `ask`, model cards and docs
read this table.
"""

from collections.abc import Callable
from dataclasses import dataclass
from numbers import Integral
from typing import Any

from .budget import check_number, check_ratio
from .selectors import SELECTORS, selector_named


ORDERS = ("raster", "selection")
POSITIONS = ("compact", "original")
LARGEST_SEED = 2**32 - 1


@dataclass(frozen=True)
class Setting:
    """One setting of `DivPruneConfig`.

    Args:
        kind: the type of its values, which also makes a value of the text of a flag.
        check: raises a `ValueError` for an impossible value; takes the setting's name and the value.
        help: one line for flags and docs.
        default: its value where nobody gives one.
        metavar: the stand-in for its value in the help of a flag.
        choices: its possible values, where they can be listed.
        budget_of: `"image"` or `"video"` for a budget; one budget of each is in force at a time.
        per_call: whether a processor takes it with a call.
        written: whether config files name it where it has its default.
    """

    kind: type
    check: Callable[[str, Any], None]
    help: str
    default: Any = None
    metavar: str | None = None
    choices: tuple[str, ...] | None = None
    budget_of: str | None = None
    per_call: bool = False
    written: bool = True


def check_order(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is one of `ORDERS`."""
    if value not in ORDERS:
        raise ValueError(
            f"Got {name}={value!r}, expected one of {ORDERS}: kept tokens stay in the image's raster order, "
            "or go in the order in which they were picked."
        )


def check_positions(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is one of `POSITIONS`."""
    if value not in POSITIONS:
        raise ValueError(
            f"Got {name}={value!r}, expected one of {POSITIONS}: kept tokens are numbered anew, or stand where they "
            "stood among all tokens."
        )


def check_layer(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is a whole number of at least 0."""
    if not isinstance(value, Integral) or isinstance(value, bool) or int(value) < 0:
        raise ValueError(
            f"Got {name}={value!r}, expected a whole number of at least 0: the decoder layer in front of which visual "
            "tokens are dropped, 0 for before the language model."
        )


def check_selector(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is one of `SELECTORS`."""
    selector_named(value)


def check_seed(name: str, value: Any) -> None:
    """Raise a `ValueError` unless `value` is an integer of 32 bits."""
    if not isinstance(value, Integral) or isinstance(value, bool) or not 0 <= int(value) <= LARGEST_SEED:
        raise ValueError(
            f"Got {name}={value!r}, expected an integer from 0 to {LARGEST_SEED}: what the random selector draws by."
        )


SETTINGS: dict[str, Setting] = {
    "retention_ratio": Setting(
        kind=float,
        check=check_ratio,
        help="share of visual tokens to keep per image",
        default=0.098,  # 56 of LLaVA-1.5's 576, the paper's setting
        metavar="R",
        budget_of="image",
        per_call=True,
    ),
    "num_tokens": Setting(
        kind=int,
        check=check_number,
        help="number of visual tokens to keep per image",
        metavar="N",
        budget_of="image",
        per_call=True,
    ),
    "order": Setting(
        kind=str,
        check=check_order,
        help="feed kept tokens in image order, or in order of picking as the paper's Table 1 did",
        default="raster",
        choices=ORDERS,
    ),
    "positions": Setting(
        kind=str,
        check=check_positions,
        help="number kept tokens anew as the paper does, or leave each at its own position, for questions about place",
        default="compact",
        choices=POSITIONS,
        written=False,
    ),
    "layer": Setting(
        kind=int,
        check=check_layer,
        help="decoder layer in front of which tokens are dropped, on its hidden states; 0 is before the language model",
        default=0,
        metavar="L",
        written=False,
    ),
    "video_retention_ratio": Setting(
        kind=float,
        check=check_ratio,
        help="share of visual tokens to keep per video, all its frames together",
        default=0.1,  # 115 of 8 frames' 1152, the paper's setting
        metavar="R",
        budget_of="video",
        per_call=True,
    ),
    "video_num_tokens": Setting(
        kind=int,
        check=check_number,
        help="number of visual tokens to keep per video, all its frames together",
        metavar="N",
        budget_of="video",
        per_call=True,
    ),
    "selector": Setting(
        kind=str,
        check=check_selector,
        help="DivPrune (max_min), centred max-min, or a baseline to compare them with",
        default="max_min",
        choices=tuple(SELECTORS),
        written=False,
    ),
    "seed": Setting(
        kind=int,
        check=check_seed,
        help="number that the selector `random` draws by",
        default=0,
        metavar="N",
        written=False,
    ),
}

# The settings that are a budget, and of them those of an image and of a video.
IMAGE_BUDGET = tuple(name for name, setting in SETTINGS.items() if setting.budget_of == "image")
VIDEO_BUDGET = tuple(name for name, setting in SETTINGS.items() if setting.budget_of == "video")
BUDGETS = (IMAGE_BUDGET, VIDEO_BUDGET)
PER_CALL = tuple(name for name, setting in SETTINGS.items() if setting.per_call)


def check_settings(settings: dict[str, Any]) -> None:
    """Raise a `ValueError` for a name that is not in the table, and for a value that its entry refuses or that has no
    effect beside others.

    Args:
        settings: values by name; None stands for a setting that is not given.
    """
    unknown = sorted(set(settings) - set(SETTINGS))
    if unknown:
        raise ValueError(f"Got divprune settings {unknown}, expected only {sorted(SETTINGS)}.")
    for name, value in settings.items():
        if value is not None:
            SETTINGS[name].check(name, value)
    for name in ("order", "positions") if settings.get("layer") else ():
        if settings.get(name) not in (None, SETTINGS[name].default):
            raise ValueError(
                f"Got {name}={settings[name]!r} with layer={settings['layer']}, which has no effect, expected one of "
                "them: tokens that are dropped at a deeper layer leave the others in their order, at their positions."
            )
