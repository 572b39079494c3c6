"""Base checkpoint -> variant folder, file by file. No weight is loaded, so memory does not grow with the model."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub.constants import HF_HUB_CACHE
from tqdm.auto import tqdm

from divprune_hf.checkpoints import files
from divprune_hf.publishing.atomic_folder import new_folder, restore_killed
from divprune_hf.publishing.hub_base import local_base
from divprune_hf.publishing.variant_files import check_built, tell_left_out, variant_texts
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


COPY_CHUNK = 2**24  # bytes


def tell_on_stderr(line: str) -> None:
    """Print a line on standard error."""
    print(line, file=sys.stderr)


def convert_checkpoint(
    base: str | Path,
    out: str | Path,
    divprune_config: dict[str, Any] | DivPruneConfig | None = None,
    *,
    overwrite: bool = False,
    link: bool = False,
    base_revision: str | None = None,
    say: Callable[[str], object] = tell_on_stderr,
) -> Path:
    """Make a pruned, ready-to-load variant of a LLaVA checkpoint.

    The variant is a folder with the base's weights and tokenizer byte for byte, edited configs, and the code that
    `from_pretrained(..., trust_remote_code=True)` runs. A variant as base changes its budget.

    Args:
        base (`str` or `Path`): a checkpoint folder, or the id of a Hub repo.
        out (`str` or `Path`): the folder to make. It appears complete or not at all, and a variant that it replaces
            stays until then, even if this process is killed. The next run removes what a killed one left beside it.
        divprune_config (`dict` or `DivPruneConfig`, *optional*): the settings of the pruning; by default 0.098 of the
            visual tokens are kept.
        overwrite (`bool`): replace `out` if it is a variant made by `convert_checkpoint`.
        link (`bool`): hard-link the weights instead of copying them. Files of the Hub cache are always copied.
        base_revision (`str`, *optional*): branch, tag or commit of a Hub base.
        say: called with a line about keys left out of the base's files, and about leftovers of a killed run; by default
            it prints the line on stderr.

    Returns:
        `Path`: the variant's folder.

    Raises:
        ValueError: the base cannot be converted, `out` must not be written, the budget is impossible, or another run is
            making `out`. Nothing is written in these cases.
    """
    if not str(base) or not str(out):
        raise ValueError(f"Got base={str(base)!r} and out={str(out)!r}, expected the names of two folders.")
    # Refuse an impossible budget before downloading anything.
    DivPruneConfig.merged(override=divprune_config, takes_videos=True)
    out = Path(out).resolve()
    restore_killed(out, say)
    check_replaceable(out, overwrite)
    # Small files come first: a refusal costs no download of weights.
    local = local_base(base, base_revision)
    folder = local.folder
    check_apart(out, folder)
    texts, dropped = variant_texts(base, folder, local.commit, divprune_config, out.name)
    local.download_weights()
    weights = files.weight_files(folder)
    check_built(folder, files.tensor_shapes(folder, weights), json.loads(texts["config.json"]))
    copied = files.copied_files(folder)
    for name in [*weights, *copied]:
        if out in (folder / name).resolve().parents:
            raise ValueError(f"{folder / name} of the base is a link into {out}, which would be replaced.")
    with new_folder(out, lambda: check_replaceable(out, overwrite), say) as partial:
        total = sum((folder / name).stat().st_size for name in [*weights, *copied])
        with tqdm(total=total, desc="Converting", unit="B", unit_scale=True) as progress:
            for name in [*weights, *copied]:
                place(folder / name, partial / name, link and name.endswith(".safetensors"), progress)
        for name, text in texts.items():
            (partial / name).write_text(text, encoding="utf-8")
    tell_left_out(say, dropped)
    return out


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Refuse an `out` that holds anything but a variant that may be overwritten."""
    if out == Path.cwd() or out in Path.cwd().parents:
        raise ValueError(f"{out} is the current folder or contains it: it cannot be replaced from there.")
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not out.is_dir():
        raise ValueError(f"{out} is a file, expected a folder to make.")
    if not overwrite:
        raise ValueError(f"{out} is not empty: choose another folder, or pass --overwrite (overwrite=True).")
    if not (out / "config.json").is_file() or not files.is_variant(files.read_json(out / "config.json")):
        raise ValueError(f"{out} is not empty and not a variant made by divprune-hf: it is not overwritten.")


def check_apart(out: Path, folder: Path) -> None:
    """Refuse an `out` that is, contains or lies in the base's folder, links resolved."""
    if out == folder or out in folder.parents or folder in out.parents:
        raise ValueError(f"{out} is, contains or lies in the base {folder}: choose a folder apart from it.")


def place(source: Path, target: Path, link: bool, progress: tqdm) -> None:
    """Copy or hard-link one file, links followed, and add its bytes to `progress`."""
    source = source.resolve()
    target.parent.mkdir(exist_ok=True)
    size = source.stat().st_size
    if link and not is_in_hub_cache(source):
        os.link(source, target)
        progress.update(size)
        return
    with source.open("rb") as reader, target.open("wb") as writer:
        while chunk := reader.read(COPY_CHUNK):
            writer.write(chunk)
            progress.update(len(chunk))


def is_in_hub_cache(path: Path) -> bool:
    """Tell whether a file belongs to any Hub cache: there all files lie below a folder models--ORG--NAME."""
    in_repo_folder = any(folder.name.startswith("models--") for folder in path.parents)
    return in_repo_folder or Path(HF_HUB_CACHE).resolve() in path.parents
