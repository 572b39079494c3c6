"""A published folder, and this package, on a release of transformers that they do not run on: a clear ImportError.

    python tests/refused_release.py FOLDER

To be run where such a release is installed (CI does, with 5.9.0), hence no test of the suite.
"""

import os
import sys
from pathlib import Path

import transformers
from transformers import AutoConfig, AutoModelForImageTextToText, AutoProcessor


EXPECTED = (
    f"need transformers 4.57, or 5.10 and later; found {transformers.__version__}",
    "Tested are 4.57.6",
    "pip install",
)


def refusal_of(action):
    """The text of the ImportError that an action raises."""
    try:
        action()
    except ImportError as error:
        return str(error)
    raise SystemExit(f"{action} ran on transformers {transformers.__version__}, expected an ImportError.")


def import_package():
    sys.path.insert(0, str(Path(__file__).parents[1] / "src"))
    import divprune_hf  # noqa: F401


def main(folder):
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    loaders = [AutoConfig, AutoProcessor, AutoModelForImageTextToText]
    actions = [lambda loader=loader: loader.from_pretrained(folder, trust_remote_code=True) for loader in loaders]
    for action in [*actions, import_package]:
        message = refusal_of(action)
        missing = [part for part in EXPECTED if part not in message]
        if missing:
            raise SystemExit(f"The ImportError does not say {missing}: {message}")
    print(f"{len(actions) + 1} passed, 0 failed")


if __name__ == "__main__":
    main(sys.argv[1])
