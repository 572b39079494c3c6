"""The files of a checkpoint: which are copied, which are refused, and the family that its config names."""

from collections.abc import Iterable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

from divprune_hf.checkpoints.families import FAMILIES, VISION_MODEL_TYPES, Family
from divprune_hf.checkpoints.json_files import exists, read_json, regular_file
from divprune_hf.checkpoints.safetensors_headers import check_shard, tensor_shapes
from divprune_hf.remote_code.transformers_surface import check_family_release


__all__ = ["check_shard", "exists", "read_json", "regular_file", "tensor_shapes"]


WEIGHT_PATTERNS = ["*.safetensors", "model.safetensors.index.json"]
# Files that can run code when they are loaded.
PICKLED_PATTERNS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle"]
# With PEFT installed, transformers loads the base model that an adapter names instead of the model beside it.
ADAPTER_PATTERNS = ["adapter_config.json", "adapter_model.*"]
LEGAL_PATTERNS = ["LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"]
# Endings that no legal text has: LICENSE.py would be code.
OTHER_ENDINGS = ["*.py", "*.json", "*.jinja", "*.safetensors", "*.so", "*.exe", "*.sh", "*/*"]
# Copied byte for byte. The base's README.md is not copied, because it describes another model.
COPIED_PATTERNS = [
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "vocab.txt",
    "merges.txt",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
    "chat_template.json",
    "chat_template.jinja",
    "additional_chat_templates/*.jinja",
    *LEGAL_PATTERNS,
]
EDITED_FILES = ["config.json", "processor_config.json"]
INDEX = "model.safetensors.index.json"
# Other files that a variant's repo may hold: the card, its pictures, further pages, and what the Hub writes.
SHOWN_PATTERNS = ["*.md", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", ".gitattributes"]


def family_of(config: dict[str, Any], source: str | Path) -> Family:
    """Return the `Family` of a checkpoint, stock or converted. No other place decides what a model takes.

    Args:
        config: the content of `config.json`.
        source: where it is from, for errors.

    Raises:
        ValueError: an original LLaVA checkpoint, or a model type, vision tower or release that is not supported.
    """
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if "mm_vision_tower" in config or any(name.startswith("Llava") and "ForCausalLM" in name for name in names):
        raise ValueError(
            f"{source} is an original LLaVA checkpoint, expected one in transformers' layout: "
            "look for its counterpart in the llava-hf organisation, such as llava-hf/llava-1.5-7b-hf."
        )
    model_type = config.get("model_type")
    for family in FAMILIES.values():
        if model_type in (family.base_model_type, family.model_type):
            check_release(family, source)
            check_vision_tower(config, source)
            return family
    raise ValueError(
        f"{source} is of model_type {model_type!r}, which is not supported; expected one of {sorted(FAMILIES)}."
    )


def check_release(family: Family, source: str | Path) -> None:
    """Refuse a family that the installed transformers is too old for."""
    try:
        check_family_release(family.base_model_type, family.names.release)
    except ImportError as error:
        raise ValueError(f"{source} cannot be used here. {error}") from None


def check_vision_tower(config: dict[str, Any], source: str | Path) -> None:
    """Refuse a config whose vision tower is not one of `VISION_MODEL_TYPES`."""
    vision_config = config.get("vision_config") or {}
    if not isinstance(vision_config, dict):
        raise ValueError(f"{source} has vision_config={vision_config!r}, expected a JSON object.")
    model_type = vision_config.get("model_type", "clip_vision_model")
    if model_type not in VISION_MODEL_TYPES:
        raise ValueError(
            f"{source} has a vision tower of model_type {model_type!r}, which is not supported; "
            f"expected one of {VISION_MODEL_TYPES}."
        )


def is_variant(config: dict[str, Any]) -> bool:
    """Tell whether a config belongs to a variant that `convert` made."""
    return any(config.get("model_type") == family.model_type for family in FAMILIES.values())


def recorded_base(config: dict[str, Any]) -> dict[str, str] | None:
    """Return the Hub base that a variant's config records, as a dict with `repo_id` and `commit`, or None."""
    recorded = config.get("divprune_base")
    if recorded is None:
        return None
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(key), str) for key in ("repo_id", "commit")):
        raise ValueError(f"config.json has divprune_base={recorded!r}, expected a repo_id and a commit.")
    return recorded


def weight_files(folder: str | Path) -> list[str]:
    """Return the names of a checkpoint's safetensors files, the index last where there is one.

    Each file is checked against its header.

    Raises:
        ValueError: there are no safetensors weights, or a file is missing, damaged or lacks a tensor.
    """
    folder = Path(folder)
    index_path = folder / INDEX
    if exists(folder / "model.safetensors"):
        check_shard(folder / "model.safetensors")
        return ["model.safetensors"]
    if not exists(index_path):
        pickled = sorted(path.name for path in folder.glob("*") if matches(path.name, PICKLED_PATTERNS))
        found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise ValueError(
            f"{folder} has {found}, expected model.safetensors or {INDEX}. Pickled files can run "
            "code when they are loaded: save the base with safe_serialization=True first."
        )
    weight_map: Any = read_json(index_path).get("weight_map")
    shards = shards_of_index(weight_map, index_path)
    for shard in shards:
        keys = check_shard(folder / shard)
        absent = [key for key, name in weight_map.items() if name == shard and key not in keys]
        if absent:
            raise ValueError(f"{folder / shard} lacks {absent[0]!r}, which {INDEX} says it holds.")
    return [*shards, INDEX]


def shards_of_index(weight_map: Any, source: str | Path) -> list[str]:
    """Return the shards that an index lists.

    Raises:
        ValueError: there is no weight map, or it names something other than a safetensors file beside the index.
    """
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{source} has no weight_map, expected one that names the shards.")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        if "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{source} names the shard {shard!r}, expected a plain file name ending in .safetensors.")
    return shards


def copied_files(folder: str | Path) -> list[str]:
    """Return the names of the files that a variant takes over byte for byte, weights excepted.

    Raises:
        ValueError: one of them is not a regular file.
    """
    folder = Path(folder)
    paths = {path.relative_to(folder).as_posix(): path for path in [*folder.glob("*"), *folder.glob("*/*.jinja")]}
    # A folder called LICENSES is skipped. Anything else with such a name is opened, so it has to be a file.
    names = [name for name in paths if is_copied(name) and not (is_legal(name) and paths[name].is_dir())]
    return sorted(name for name in names if regular_file(paths[name]))


def is_legal(name: str) -> bool:
    """Tell whether a file name is that of a licence or a notice."""
    return matches(name, LEGAL_PATTERNS) and not matches(name, [*OTHER_ENDINGS, *PICKLED_PATTERNS])


def is_copied(name: str) -> bool:
    """Tell whether a variant takes a file of its base over byte for byte, unless a key of it has to be left out."""
    return is_legal(name) or matches(name, [pattern for pattern in COPIED_PATTERNS if pattern not in LEGAL_PATTERNS])


def matches(name: str, patterns: Iterable[str]) -> bool:
    """Tell whether a file name fits one of the patterns, upper or lower case alike."""
    return any(fnmatch(name.upper(), pattern.upper()) for pattern in patterns)
