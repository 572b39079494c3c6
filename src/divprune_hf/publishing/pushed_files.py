"""The files of a variant to push, and the checks of them that need no Hub."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_files import is_same
from divprune_hf.common.printable import printable
from divprune_hf.publishing.base_comparison import compare_with_base
from divprune_hf.publishing.plan import Base


LARGEST_SMALL_TEXT = 2**20  # bytes


@dataclass(frozen=True)
class RemoteWeights:
    """Weights that stay on the Hub: the names of their files, and the shape of every tensor."""

    names: list[str]
    shapes: list[tuple[int, ...]]


@dataclass(frozen=True)
class LocalVariant:
    """A variant to push, whose code is known to be this package's.

    Attributes:
        folder: where its files are, except for remote weights.
        contents: the place of every file in the folder, by name.
        weights: the names of the weights in the folder.
        remote: weights that only the base has; the folder then has none.
    """

    folder: Path
    contents: dict[str, Path]
    weights: list[str]
    remote: RemoteWeights | None = None

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """The shape of every tensor in the weights, from the headers."""
        return self.remote.shapes if self.remote else files.tensor_shapes(self.folder, self.weights)

    @property
    def weight_bytes(self) -> int:
        """The size of the weights in the folder, in bytes."""
        return sum((self.folder / name).stat().st_size for name in self.weights)


def read_variant(folder: Path, say: Callable[[str], object]) -> LocalVariant:
    """Return the variant in a folder; files that do not belong to a variant are left out, and named by `say`."""
    names = [path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir()]
    weights = files.weight_files(folder)
    own = {"README.md", *files.EDITED_FILES, *files.copied_files(folder), *weights}
    belongs = [name for name in names if name in own or name.endswith(".py")]
    left = sorted(set(names) - set(belongs))
    if left:
        say(printable(f"Not part of the variant, and not pushed: {', '.join(left)}"))
    return LocalVariant(folder, {name: (folder / name).resolve() for name in belongs}, weights)


def check_links(folder: Path) -> None:
    """Refuse a folder with links that lead out of it, whose targets would be pushed unseen, and with pipes."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder, expected a variant (divprune-hf convert BASE OUT).")
    for path in folder.rglob("*"):
        if folder not in path.resolve().parents:
            raise ValueError(printable(f"{path} is a link that leads out of the folder: put a copy in its place."))
        if not path.is_dir():
            files.regular_file(path)


def small_texts(contents: dict[str, bytes | Path]) -> dict[str, bytes]:
    """Return the files in which a token may have been left: all but the weights and the tables of the tokenizer."""
    texts = {name: content for name, content in contents.items() if not name.endswith(".safetensors")}
    return {
        name: content if isinstance(content, bytes) else content.read_bytes()
        for name, content in texts.items()
        if isinstance(content, bytes) or content.stat().st_size < LARGEST_SMALL_TEXT
    }


def check_base(variant: LocalVariant, contents: dict[str, bytes | Path], base: Base) -> None:
    """Refuse a variant that differs from its base in files that `convert` keeps; see `compare_with_base`."""
    if variant.remote is not None:  # `publish` has just made it from the base's files
        return
    here = {name: content for name, content in contents.items() if isinstance(content, Path)}
    comparison = compare_with_base(
        variant.folder,
        list(contents),
        {"repo_id": base.repo_id, "commit": base.commit},
        base.files,
        lambda name, other: is_same(here[name], here[name].stat().st_size, other),
    )
    if comparison.differences:
        raise ValueError(
            f"{variant.folder} is not what its base makes it: {'; '.join(comparison.differences)}. Convert it again, "
            "or remove divprune_base from config.json if this is a model of its own."
        )


@contextmanager
def only(contents: dict[str, bytes | Path]) -> Iterator[Path]:
    """Yield a temporary folder with these files and no others, the weights as links."""
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
