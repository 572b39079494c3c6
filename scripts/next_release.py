"""Print the newest release of transformers, if this package does not allow it yet.

    python scripts/next_release.py [--test-requirements]

prints its version, or nothing. With `--test-requirements` the script prints what the tests need besides transformers,
so that they can be run on that release although the package would not be installed beside it.
"""

import json
import re
import subprocess
import sys
from pathlib import Path


if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


ROOT = Path(__file__).parents[1]


def project() -> dict:
    """Return the `project` table of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


def first_untested(requirement: str) -> tuple[int, ...]:
    """Return the release that a requirement such as `transformers>=4.57,<5.25` ends before, as numbers."""
    found = re.search(r"<(\d+(?:\.\d+)*)", requirement)
    if found is None:
        raise ValueError(f"Got {requirement!r}, expected a release that it ends before, such as <5.25.")
    return numbers(found[1])


def numbers(version: str) -> tuple[int, ...]:
    """Return the first three numbers of a version."""
    return tuple(map(int, re.findall(r"\d+", version)[:3]))


def newest_release(name: str) -> str:
    """Return the newest release of a package that pip would install here."""
    command = [sys.executable, "-m", "pip", "install", "--dry-run", "--ignore-installed", "--no-deps", "-q"]
    report = subprocess.run([*command, "--report", "-", name], check=True, capture_output=True, text=True).stdout
    return json.loads(report)["install"][0]["metadata"]["version"]


def test_requirements() -> list[str]:
    """Return what the package and its tests need, without transformers and this package itself."""
    extras = project()["optional-dependencies"]
    needed = [*project()["dependencies"], *extras["test"], *extras["plot"]]
    plain = (re.sub(r"\s*;.*", "", requirement) for requirement in needed)
    return [name.replace(" ", "") for name in plain if not re.match(r"transformers|divprune-hf|tomli", name)]


def main() -> None:
    if sys.argv[1:] == ["--test-requirements"]:
        print(" ".join(test_requirements()))
        return
    (requirement,) = (name for name in project()["dependencies"] if name.startswith("transformers"))
    newest = newest_release("transformers")
    if numbers(newest) >= first_untested(requirement):
        print(newest)


if __name__ == "__main__":
    main()
