"""Load a variant, or a stock base that is then pruned in memory."""

import tempfile
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download
from transformers import (
    AutoConfig,
    AutoModelForImageTextToText,
    AutoProcessor,
    PretrainedConfig,
    PreTrainedModel,
    ProcessorMixin,
)
from transformers.utils import cached_file

from divprune_hf.checkpoints.families import FAMILIES, Family
from divprune_hf.checkpoints.files import family_of, is_variant, weight_files
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.checkpoints.json_files import exists, read_json, to_json
from divprune_hf.checkpoints.judged_files import JUDGED_FILES, REPLACED, check_names_no_code, judge
from divprune_hf.checkpoints.variant_configs import variant_processor_config
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.settings import check_settings


def load_pruned(
    model_id: str | Path,
    *,
    device: str | None = None,
    revision: str | None = None,
    trust_remote_code: bool | None = None,
    dtype: str | torch.dtype = "auto",
    **settings: Any,
) -> tuple[PreTrainedModel, ProcessorMixin]:
    """Load a variant, or a stock base pruned in memory, with its processor.

    Args:
        model_id (`str` or `Path`): a folder or the id of a Hub repo.
        device (`str`, *optional*): the device to run on; by default accelerate chooses.
        revision (`str`, *optional*): branch, tag or commit of a Hub repo.
        trust_remote_code (`bool`, *optional*): run a variant's own code instead of this package's; only transformers
            4.57 does so.
        dtype: as in `from_pretrained`.
        settings: those of `DivPruneConfig`, by name, such as `num_tokens=64`; None stands for one that is not given. A
            variant's own hold where none is given, and the defaults for a stock base.

    Returns:
        The model in evaluation mode, and its processor.

    Raises:
        ValueError: an impossible or unknown setting, an impossible device, a file that is damaged or names foreign
            code, or a family that is not supported.
    """
    check_settings(settings)
    settings = {name: value for name, value in settings.items() if value is not None}
    DivPruneConfig.merged(override=settings, takes_videos=True)  # refuse two budgets first
    if device is not None:
        check_device(device)
    config, takes_videos, commit = read_config(model_id, settings, revision, trust_remote_code)
    if Path(model_id).is_dir():
        weight_files(model_id)  # names a damaged file, which an error of loading does not
    source = {"revision": commit, "trust_remote_code": trust_remote_code}
    placement: dict[str, Any] = {"device_map": device or "auto", "dtype": dtype}
    if hasattr(config, "divprune_config"):
        override = {"divprune_config": settings} if settings else {}
        model = AutoModelForImageTextToText.from_pretrained(model_id, **source, **placement, **override)
        return model.eval(), AutoProcessor.from_pretrained(model_id, **source, **override)
    family = FAMILIES[config.model_type]
    divprune_config = DivPruneConfig.merged(override=settings, takes_videos=takes_videos)
    of_base = {name: value for name, value in config.to_dict().items() if name != "model_type"}
    pruned_config = family.config_class(**{**of_base, "divprune_config": divprune_config})
    pruned = family.head_class.from_pretrained(model_id, config=pruned_config, revision=commit, **placement)
    stock = AutoProcessor.from_pretrained(model_id, **source)
    return pruned.eval(), pruning_processor(stock, stored_processor_config(model_id, commit), pruned_config, family)


def check_before_loading(model_id: str | Path, revision: str | None) -> tuple[Family, str]:
    """Refuse a model whose files name foreign code, before transformers reads any of them.

    Returns:
        The family, and the revision to load: for a Hub repo the commit that was judged, because the branch may move.
    """
    if Path(model_id).is_dir():
        folder, commit = Path(model_id), revision or "main"
    else:
        with explained(str(model_id)):
            folder = Path(snapshot_download(str(model_id), revision=revision, allow_patterns=JUDGED_FILES))
        commit = folder.name
    config = read_json(folder / "config.json")
    family = family_of(config, model_id)
    judge(folder, family, is_variant(config))
    for name in REPLACED:  # `convert` would replace their auto_map; loading follows it
        if exists(folder / name):
            check_names_no_code(folder / name, read_json(folder / name))
    return family, commit


def read_config(
    model_id: str | Path, settings: dict[str, Any], revision: str | None = None, trust_remote_code: bool | None = None
) -> tuple[PretrainedConfig, bool, str]:
    """Return the config of a variant or stock base, True if the model takes videos, and the revision to load.

    No code of a model runs before its files are judged.

    Raises:
        ValueError: a family that is not supported, or a setting that has no effect on it.
    """
    if Path(model_id).is_dir() and revision is not None:
        raise ValueError(f"Got revision={revision!r} for the folder {model_id}: only Hub repos have revisions.")
    family, commit = check_before_loading(model_id, revision)
    config = AutoConfig.from_pretrained(model_id, revision=commit, trust_remote_code=trust_remote_code)
    DivPruneConfig.merged(override=settings, takes_videos=family.takes_videos)
    return config, family.takes_videos, commit


def check_device(device: str) -> None:
    """Refuse a device that is missing or cannot compute, before weights are read for it."""
    kind = torch.device(device).type
    if kind == "cuda" and not torch.cuda.is_available():
        raise ValueError(f"Got device={device!r}, but torch finds no CUDA device here; expected one such as cpu.")
    try:
        torch.empty(1, device=device).item()  # the device "meta" holds no values
    except Exception as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ValueError(f"Got device={device!r}, expected one that computes here, such as cpu ({reason}).") from None


def stored_processor_config(model_id: str | Path, revision: str) -> dict[str, Any]:
    """Return the content of a model's `processor_config.json`, empty if it has none."""
    path = cached_file(
        str(model_id), "processor_config.json", revision=revision, _raise_exceptions_for_missing_entries=False
    )
    return read_json(path) if path else {}


def pruning_processor(
    stock: ProcessorMixin, stored: dict[str, Any], config: PretrainedConfig, family: Family
) -> ProcessorMixin:
    """Return the pruning counterpart of a stock processor: its parts unchanged, its config as `convert` writes it.

    Args:
        stock: the processor of a stock base.
        stored: the content of the base's `processor_config.json`.
        config: the config of the pruned model, with its settings.
        family: its family.
    """
    completed = variant_processor_config(stored, config.to_dict(), family, config.divprune_config)
    with tempfile.TemporaryDirectory() as folder:
        stock.save_pretrained(folder)
        file = Path(folder) / "processor_config.json"
        saved = read_json(file) if file.is_file() else {}
        file.write_text(to_json({**saved, **completed}), encoding="utf-8")
        return family.processor_class.from_pretrained(folder)
