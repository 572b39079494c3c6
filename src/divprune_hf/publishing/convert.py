"""Base checkpoint -> variant folder, file by file: no weight is loaded, so memory does not grow with the model."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

from huggingface_hub.constants import HF_HUB_CACHE
from huggingface_hub.utils import validate_repo_id
from tqdm.auto import tqdm

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.publishing.atomic_folder import new_folder, restore_killed
from divprune_hf.publishing.hub_base import hub_folder
from divprune_hf.publishing.variant_files import check_built, tell_left_out, variant_texts
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


COPY_CHUNK = 2**24  # bytes


def tell_on_stderr(line: str) -> None:
    print(line, file=sys.stderr)


def convert_checkpoint(
    base: str | Path,
    out: str | Path,
    divprune_config: dict | DivPruneConfig | None = None,
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
        out (`str` or `Path`): the folder to make. It appears complete or not at all, and what it replaces is there
            until then, also if this process is killed. What a killed run left beside it is removed by the next one.
        divprune_config (`dict` or `DivPruneConfig`, *optional*): the budget; 0.098 of the visual tokens by default.
        overwrite (`bool`): replace `out` if it is a variant of ours.
        link (`bool`): hard-link the weights instead of copying them. Files of the Hub cache are always copied.
        base_revision (`str`, *optional*): branch, tag or commit of a Hub base.
        say: takes a line about what was left out of the base's files, and about what a killed run left; prints it on
            stderr by default.

    Returns:
        `Path`: the variant's folder.

    Raises:
        ValueError: the base cannot be converted, `out` must not be written, the budget is impossible, or another run is
            making `out`. Nothing has been written then.
    """
    if not str(base) or not str(out):
        raise ValueError(f"Got base={str(base)!r} and out={str(out)!r}, expected the names of two folders.")
    # An impossible budget fails before anything is downloaded.
    DivPruneConfig.merged(override=divprune_config, takes_videos=True)
    out = Path(out).resolve()
    restore_killed(out, say)
    check_replaceable(out, overwrite)
    # Small files first: a budget that the model has no use for costs no download of weights.
    folder, commit = local_folder(base, base_revision, with_weights=False)
    check_apart(out, folder)
    texts, dropped = variant_texts(base, folder, commit, divprune_config, out.name)
    if commit is not None:  # the branch may have moved since
        local_folder(base, commit)
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


def local_folder(base: str | Path, revision: str | None = None, with_weights: bool = True) -> tuple[Path, str | None]:
    """The folder of a base and, for a Hub repo, its commit. Small files come first: a refusal costs no weights."""
    if Path(base).is_dir():
        if revision is not None:
            raise ValueError(f"Got base_revision={revision!r} for the folder {base}: only Hub repos have revisions.")
        return Path(base).resolve(), None
    try:
        validate_repo_id(str(base))
    except ValueError:
        raise ValueError(f"{base} is neither a folder nor the id of a Hub repo.") from None
    with explained(f"the base {base}"):
        return hub_folder(str(base), revision, with_weights)


def check_replaceable(out: Path, overwrite: bool) -> None:
    """Refuse an `out` that holds something, unless it is a variant and may be overwritten."""
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
    """Refuse an `out` that is, contains or lies in the base's folder (links resolved)."""
    if out == folder or out in folder.parents or folder in out.parents:
        raise ValueError(f"{out} is, contains or lies in the base {folder}: choose a folder apart from it.")


def place(source, target, link, progress):
    """Copy or hard-link one file, following links."""
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
    """Tell whether a file belongs to a Hub cache, here or elsewhere: its files lie below models--org--name."""
    in_repo_folder = any(folder.name.startswith("models--") for folder in path.parents)
    return in_repo_folder or Path(HF_HUB_CACHE).resolve() in path.parents
