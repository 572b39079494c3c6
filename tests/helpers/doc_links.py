"""Links, anchors and names of files in README and docs pages."""

import importlib
import re
from pathlib import Path

from tests.helpers.doc_blocks import ROOT, code_spans, prose_of


FOLDERS = ("src/", "scripts/", "tests/", "docs/", "model_cards/", ".ci/")


def links_of(page: Path) -> list[str]:
    """Return the targets of links and pictures, those on other hosts left out."""
    prose = re.sub(r"`[^`]+`", "`code`", prose_of(page))
    targets = re.findall(r"\]\(([^)\s]+)\)", prose)
    return [target for target in targets if not re.match(r"https?://|mailto:", target)]


def anchors_of(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as mkdocs and code hosts write them, and those of its API entries."""
    prose = prose_of(page)
    titles = re.findall(r"^#+ (.+)$", prose, flags=re.MULTILINE)
    slugs = {re.sub(r"\s+", "-", re.sub(r"[^\w\s-]", "", title).strip().lower()) for title in titles}
    return slugs | set(api_entries(page))


def api_entries(page: Path) -> list[str]:
    """Return the names that mkdocstrings fills in."""
    return re.findall(r"^::: (\S+)$", prose_of(page), flags=re.MULTILINE)


def check_link(page: Path, target: str) -> None:
    """Fail unless a relative link leads to a file, and its anchor to a heading; links of docs pages stay in docs/."""
    name, _, anchor = target.partition("#")
    file = (page.parent / name).resolve() if name else page
    assert file.exists(), f"{page.name}: {target}"
    if page.parent.name == "docs":
        assert file.is_file() and file.is_relative_to(page.parent), f"{page.name}: {target} is not part of the site"
    if anchor:
        assert anchor in anchors_of(file), f"{page.name}: {target}"


def named_paths(page: Path) -> list[str]:
    """Return the paths of this repository that a page names in code, patterns such as `tests/test_*.py` among them."""
    words = [word.rstrip(".,:;") for span in code_spans(page) for word in span.split()]
    return [word for word in words if word.startswith(FOLDERS)]


def named_python_files(page: Path) -> list[str]:
    """Return names or ends of paths of Python files, such as `max_min.py` or `remote_code/max_min.py`."""
    spans = [span for span in code_spans(page) if re.fullmatch(r"[\w*]+(/[\w*]+)*\.py", span)]
    return [span for span in spans if not span.startswith(FOLDERS)]


def named_objects(page: Path) -> list[str]:
    """Return dotted names of the package, such as `divprune_hf.set_budget`."""
    return [span for span in code_spans(page) if re.fullmatch(r"divprune_hf(\.\w+)+", span)]


def exists(pattern: str) -> bool:
    """Tell whether a path or pattern names something in this repository."""
    return (ROOT / pattern).exists() or any(ROOT.glob(pattern))


def python_file_exists(name: str) -> bool:
    """Tell whether some Python file of this repository has this name or end of its path."""
    return any(any((ROOT / folder).glob(f"**/{name}")) for folder in ("src", "scripts", "tests"))


def check_object(name: str) -> None:
    """Fail with an `ImportError` or `AttributeError` unless a dotted name is a module or something in one."""
    module, _, attribute = name.rpartition(".")
    try:
        importlib.import_module(name)
    except ModuleNotFoundError:
        getattr(importlib.import_module(module), attribute)
