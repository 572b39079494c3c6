"""The folder of an evaluation: which run it belongs to, so that only that run goes on in it."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from divprune_hf.evaluation.questions import Question


def check_run(out: Path, identity: dict[str, Any]) -> None:
    """Refuse a folder that belongs to something else.

    Args:
        out: the folder, which need not exist.
        identity: what the answers depend on, as `run.json` holds it.

    Raises:
        ValueError: `out` holds another run, or anything that is no run.
    """
    record = out / "run.json"
    if record.is_file():
        stored = json.loads(record.read_text(encoding="utf-8"))
        differing = [name for name in identity if stored.get(name) != identity[name]]
        if differing:
            name = differing[0]
            raise ValueError(
                f"{out} holds another run: its {name} is {stored.get(name)!r}, not {identity[name]!r}. "
                "Choose another --out."
            )
    elif out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is no folder of a run and not empty. Choose another --out.")


def model_name(model: str) -> str:
    """Return the last name of a folder, wherever it lies, or a Hub id as it is."""
    return Path(model).resolve().name if Path(model).is_dir() else model


def model_fingerprint(model: str) -> str | None:
    """Return one SHA-256 for a checkpoint folder: its config, and the size, head and tail of each file of weights.

    It is `None` for a Hub repo, which its id and revision identify.
    """
    if not Path(model).is_dir():
        return None
    config = Path(model) / "config.json"
    digest = hashlib.sha256(config.read_bytes() if config.is_file() else b"")
    for path in sorted(Path(model).glob("*.safetensors")):
        size = path.stat().st_size
        with path.open("rb") as stream:
            digest.update(f"{path.name} {size}".encode() + stream.read(2**20))
            stream.seek(max(0, size - 2**20))
            digest.update(stream.read())
    return digest.hexdigest()


def data_fingerprint(path: Path, questions: Sequence[Question]) -> str:
    """Return one SHA-256 for a file of questions and the pictures that they are about."""
    digest = hashlib.sha256(path.read_bytes())
    for image in dict.fromkeys(question.image for question in questions):
        digest.update(image.read_bytes())
    return digest.hexdigest()
