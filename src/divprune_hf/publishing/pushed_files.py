"""The files that a push sends: beside those of the base, and in a folder of their own for the load check."""

import shutil
import tempfile
from contextlib import contextmanager
from pathlib import Path

from divprune_hf.publishing import plan
from divprune_hf.publishing.base_comparison import compare_with_base


def check_base(folder, contents, recorded, base, remote):
    """Refuse a variant that differs from its base in what `convert` keeps; see `compare_with_base`."""
    if remote is not None:  # made of the base's files a moment ago
        return
    here = {name: content for name, content in contents.items() if isinstance(content, Path)}
    comparison = compare_with_base(
        folder,
        list(contents),
        recorded,
        base.files,
        lambda name, other: plan.is_same(here[name], here[name].stat().st_size, other),
    )
    if comparison.differences:
        raise ValueError(
            f"{folder} is not what its base makes it: {'; '.join(comparison.differences)}. Convert it again, or remove "
            "divprune_base from config.json if this is a model of its own."
        )


@contextmanager
def only(contents):
    """A folder with these files and no others, the weights as links."""
    with tempfile.TemporaryDirectory(prefix="divprune-push-") as name:
        for path, content in contents.items():
            target = Path(name, path)
            target.parent.mkdir(parents=True, exist_ok=True)
            if isinstance(content, bytes):
                target.write_bytes(content)
            elif path.endswith(".safetensors"):
                target.symlink_to(content)
            else:
                shutil.copyfile(content, target)
        yield Path(name)
