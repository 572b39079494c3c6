"""What docs/compatibility.md, pyproject.toml and CI say about releases of transformers is one and the same."""

import re
from pathlib import Path

import pytest

from divprune_hf.remote_code.transformers_surface import TESTED_TRANSFORMERS
from scripts import next_release


ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "compatibility.md").read_text(encoding="utf-8")
CI = (ROOT / ".ci" / "run").read_text(encoding="utf-8")
(REQUIREMENT,) = (name for name in next_release.project()["dependencies"] if name.startswith("transformers"))


def test_the_table_has_the_tested_releases():
    rows = re.findall(r"^\| (\S+) \| [^|]+ \| tested in CI \|$", PAGE, flags=re.MULTILINE)
    assert tuple(rows) == TESTED_TRANSFORMERS


def test_ci_installs_the_tested_releases_and_leaves_the_newest_to_the_package():
    *others, newest = TESTED_TRANSFORMERS
    assert re.findall(r'"transformers==([\d.]+)"', CI) == [*others, "5.9.0"]
    assert newest not in CI


def test_the_package_ends_before_the_first_release_that_is_not_tested():
    major, minor = next_release.numbers(TESTED_TRANSFORMERS[-1])[:2]
    assert next_release.first_untested(REQUIREMENT) == (major, minor + 1)
    assert f"<{major}.{minor + 1}" in PAGE and f"5.10 to {major}.{minor}." in (ROOT / "README.md").read_text()


@pytest.mark.parametrize(
    ("version", "is_allowed"),
    [("5.24.0", True), ("5.24.3", True), ("5.25.0", False), ("5.25.0rc1", False), ("6.0", False)],
)
def test_a_release_above_the_end_is_told_from_one_below(version, is_allowed):
    assert (next_release.numbers(version) < next_release.first_untested("transformers>=4.57,<5.25")) == is_allowed


def test_a_requirement_without_an_end_is_refused():
    with pytest.raises(ValueError, match="expected a release that it ends before"):
        next_release.first_untested("transformers>=4.57")


def test_the_tests_need_neither_transformers_nor_this_package_from_the_list():
    needed = next_release.test_requirements()
    assert "torch>=2.6" in needed and "matplotlib" in needed
    assert not [name for name in needed if name.startswith(("transformers", "divprune"))]
