"""Early warning: nothing that our code uses is announced to be removed from transformers."""

from pathlib import Path

import pytest

import divprune_hf
from tests.helpers import coming_removals


SOURCE = Path(divprune_hf.__file__).parent / "remote_code" / "pruning_divprune.py"


def test_importing_the_package_causes_no_such_warning():
    assert [removal for removal in coming_removals.seen if "pretended" not in removal.text] == []


@pytest.mark.parametrize("said_by", ["warnings.warn(text, FutureWarning)", "logger.warning_once(text)"])
@pytest.mark.parametrize(
    ("text", "is_coming"),
    [
        ("`a` (pretended) is deprecated and will be removed in version 5.29.0.", True),
        ("pretended: from v5.30 this returns a list", True),
        ("pretended: this is slow since v4.57", False),
    ],
)
def test_a_warning_that_our_code_causes_is_noticed(said_by, text, is_coming):
    code = f"import warnings\nfrom transformers.utils import logging\nlogger = logging.get_logger('x')\n{said_by}"
    before = len(coming_removals.seen)
    exec(compile(code, str(SOURCE), "exec"), {"text": text})
    noticed = coming_removals.seen[before:]
    del coming_removals.seen[before:]
    assert bool(noticed) == is_coming
    exec(compile(code, str(Path(__file__)), "exec"), {"text": text})  # what a test does is not ours
    assert len(coming_removals.seen) == before
