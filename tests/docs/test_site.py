"""Links, anchors and names of the docs exist, and the site has every page, setting and public function."""

import re
from pathlib import Path

import pytest
import yaml

import divprune_hf
from divprune_hf.checkpoints.families import FAMILIES
from scripts import families_table, next_release, settings_table
from tests.helpers import doc_links
from tests.helpers.doc_blocks import PAGES, ROOT


TEXTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *PAGES]
API = ROOT / "docs" / "api.md"
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text(encoding="utf-8"))


def named(page: Path) -> str:
    return page.stem


@pytest.mark.parametrize("page", TEXTS, ids=named)
def test_links_and_anchors_lead_somewhere(page):
    for target in doc_links.links_of(page):
        doc_links.check_link(page, target)


@pytest.mark.parametrize("page", TEXTS, ids=named)
def test_names_of_files_and_objects_exist(page):
    assert [path for path in doc_links.named_paths(page) if not doc_links.exists(path)] == []
    assert [name for name in doc_links.named_python_files(page) if not doc_links.python_file_exists(name)] == []
    for name in doc_links.named_objects(page):
        doc_links.check_object(name)


def test_the_checks_find_what_is_broken(tmp_path):
    page = tmp_path / "docs" / "page.md"
    page.parent.mkdir()
    page.write_text(
        "# One title\n[a](#one-title) [b](#other) [c](none.md) [d](../above.md) `tests/none.py` `none.py`\n"
    )
    (tmp_path / "above.md").touch()
    good, *broken = doc_links.links_of(page)
    doc_links.check_link(page, good)
    for target in broken:
        with pytest.raises(AssertionError, match=re.escape(target)):
            doc_links.check_link(page, target)
    assert len(broken) == 3
    assert [path for path in doc_links.named_paths(page) if not doc_links.exists(path)] == ["tests/none.py"]
    assert not any(map(doc_links.python_file_exists, ["none.py", "docs/max_min.py"]))
    assert doc_links.python_file_exists("remote_code/max_min.py")
    with pytest.raises(AttributeError):
        doc_links.check_object("divprune_hf.cards.none")


def test_the_site_has_every_page_once():
    assert sorted(name for entry in SITE["nav"] for name in entry.values()) == [page.name for page in PAGES]


def test_the_site_is_strict_and_loads_nothing_from_other_hosts():
    assert SITE["theme"]["font"] is False
    assert {level for part in SITE["validation"].values() for level in part.values()} == {"warn"}
    assert "anchors" in SITE["validation"]["links"]
    for file in ("Makefile", ".ci/run"):
        assert "mkdocs build --strict" in (ROOT / file).read_text(encoding="utf-8")
    assert any(name.startswith("mkdocs-material") for name in next_release.project()["optional-dependencies"]["docs"])


def test_the_table_of_settings_is_that_of_the_code():
    page = settings_table.PAGE.read_text(encoding="utf-8")
    assert settings_table.rendered(page) == page
    with pytest.raises(ValueError, match="Got a page without"):
        settings_table.rendered("# Budgets\n")


def test_the_table_of_families_is_that_of_the_code():
    page = families_table.PAGE.read_text(encoding="utf-8")
    assert families_table.rendered(page) == page
    assert all(f"`{family}`" in page for family in FAMILIES)


def test_the_api_page_has_every_public_function_and_nothing_that_is_not_there():
    entries = doc_links.api_entries(API)
    for name in entries:
        doc_links.check_object(name)
    functions = {f"divprune_hf.{name}" for name in divprune_hf.__all__ if name.islower()}
    assert functions <= set(entries)
    text = API.read_text(encoding="utf-8")
    assert [name for name in divprune_hf.__all__ if name not in text] == []
