"""`transformers serve` with our models: it looks classes up by name, so the names of ours come first."""

import importlib.util
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import transformers
from huggingface_hub import snapshot_download
from transformers.models.auto import modeling_auto

from divprune_hf.checkpoints.families import supported_families
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.checkpoints.json_files import read_json, to_json
from divprune_hf.inference.loading import read_config
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


NAMES_OF_MODELS = "MODEL_FOR_MULTIMODAL_LM_MAPPING_NAMES"  # what `transformers serve` asks, since 5.10
EDITED = ("config.json", "processor_config.json")


def serve(model: str, settings: dict[str, Any], arguments: Sequence[str]) -> None:
    """Hand a variant over to `transformers serve`, until the server ends.

    Args:
        model: a folder, or the id of a Hub repo, with `@REVISION` behind it where one is wanted.
        settings: settings that hold for the server instead of the variant's own, by name.
        arguments: those of `transformers serve`, as they are.

    Raises:
        ValueError: this transformers cannot serve our models, packages are missing, or the model is no variant.
        SystemExit: the server ended.
    """
    check_can_serve()
    name, takes_videos = check_variant(model, settings)
    register_names()
    if not settings:
        run_transformers_serve(model, arguments)
        return
    with tempfile.TemporaryDirectory(prefix="divprune-serve-") as work:
        folder = with_settings(downloaded(model), Path(work) / name, settings, takes_videos)
        print(f"divprune-hf: requests name the model {folder}, or none", file=sys.stderr, flush=True)
        run_transformers_serve(str(folder), arguments)


def check_can_serve() -> None:
    """Raise a `ValueError` where `transformers serve` is missing, knows no models by name, or lacks its packages."""
    if not hasattr(modeling_auto, NAMES_OF_MODELS) or importlib.util.find_spec("transformers.cli") is None:
        raise ValueError(
            f"transformers {transformers.__version__} serves no models but its own: install transformers 5.10 or later."
        )
    missing = [name for name in ("fastapi", "uvicorn", "openai", "pydantic") if importlib.util.find_spec(name) is None]
    if missing:
        raise ValueError(f"divprune-hf serve needs {', '.join(missing)}: pip install 'divprune-hf[serve]'")


def check_variant(model: str, settings: dict[str, Any]) -> tuple[str, bool]:
    """Return the last name of a variant and True if it takes videos; raise a `ValueError` for a stock base."""
    repo, revision = split_revision(model)
    config, takes_videos, _ = read_config(repo, settings, revision)
    if not hasattr(config, "divprune_config"):
        raise ValueError(f"{model} is a stock base, expected a variant: divprune-hf convert {model} OUT")
    return Path(repo).resolve().name, takes_videos


def split_revision(model: str) -> tuple[str, str | None]:
    """Return a model without its revision, and the revision, as `transformers serve` reads them."""
    repo, _, revision = (model, "", "") if Path(model).exists() else model.partition("@")
    return repo, revision or None


def register_names() -> None:
    """Tell `transformers serve` which model types of ours there are, and the classes that answer for them."""
    names = getattr(modeling_auto, NAMES_OF_MODELS)
    for family in supported_families():
        names[family.model_type] = family.head_class.__name__


def downloaded(model: str) -> Path:
    """Return the folder of a model, which is fetched from the Hub if it is a repo there."""
    repo, revision = split_revision(model)
    if Path(repo).is_dir():
        return Path(repo).resolve()
    with explained(repo):
        return Path(snapshot_download(repo, revision=revision))


def with_settings(folder: Path, out: Path, settings: dict[str, Any], takes_videos: bool) -> Path:
    """Make a folder of links to a variant's files, with other settings in its two configs; return it."""
    out.mkdir(parents=True)
    for path in folder.iterdir():
        if path.name not in EDITED:
            (out / path.name).symlink_to(path.resolve())
    for name in EDITED:
        content = read_json(folder / name)
        merged = DivPruneConfig.merged(content.get("divprune_config"), settings, takes_videos=takes_videos)
        edited = {**content, "divprune_config": merged.to_block()}
        (out / name).write_text(to_json(edited), encoding="utf-8")
    return out


def run_transformers_serve(model: str, arguments: Sequence[str]) -> None:
    """Run the command of transformers in this process."""
    from transformers.cli.transformers import app

    app(["serve", model, *arguments], prog_name="transformers")
