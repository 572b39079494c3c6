"""Requirements of a base checkpoint, checked before a file of it is copied, and the files that are."""

from fnmatch import fnmatch
from pathlib import Path

from divprune_hf.checkpoints.families import FAMILIES, VISION_MODEL_TYPES
from divprune_hf.checkpoints.json_files import exists, read_json, regular_file
from divprune_hf.checkpoints.safetensors_headers import check_shard, tensor_shapes


__all__ = ["check_shard", "exists", "read_json", "regular_file", "tensor_shapes"]


WEIGHT_PATTERNS = ["*.safetensors", "model.safetensors.index.json"]
# Files that can run code while they are loaded.
PICKLED_PATTERNS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle"]
# Where PEFT is installed, transformers loads the model that an adapter names in place of the one beside it.
ADAPTER_PATTERNS = ["adapter_config.json", "adapter_model.*"]
LEGAL_PATTERNS = ["LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"]
# What a legal text is not, whatever it is called: LICENSE.py would be code.
OTHER_ENDINGS = ["*.py", "*.json", "*.jinja", "*.safetensors", "*.so", "*.exe", "*.sh", "*/*"]
# Copied byte for byte. The base's README is not: its card speaks for another model.
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
# What else may lie in a variant's repo: the card, its pictures and pages beside it, and what the Hub itself writes.
SHOWN_PATTERNS = ["*.md", "*.png", "*.jpg", "*.jpeg", "*.gif", "*.webp", ".gitattributes"]


def family_of(config, source):
    """The `Family` of a config read from `source`: a base's, or the base's of a variant of ours."""
    architectures = config.get("architectures")
    names = [str(name) for name in architectures] if isinstance(architectures, list) else []
    if "mm_vision_tower" in config or any(name.startswith("Llava") and "ForCausalLM" in name for name in names):
        raise ValueError(
            f"{source} is an original LLaVA checkpoint, expected one in transformers' layout: "
            "look for its counterpart in the llava-hf organisation, such as llava-hf/llava-1.5-7b-hf."
        )
    model_type = config.get("model_type")
    for family in FAMILIES.values():
        if model_type in (family.base_model_type, family.config_class.model_type):
            check_vision_tower(config, source)
            return family
    raise ValueError(
        f"{source} is of model_type {model_type!r}, which is not supported; expected one of {sorted(FAMILIES)}."
    )


def check_vision_tower(config, source):
    """Refuse a config whose vision tower is of a kind that is not supported."""
    vision_config = config.get("vision_config") or {}
    if not isinstance(vision_config, dict):
        raise ValueError(f"{source} has vision_config={vision_config!r}, expected a JSON object.")
    model_type = vision_config.get("model_type", "clip_vision_model")
    if model_type not in VISION_MODEL_TYPES:
        raise ValueError(
            f"{source} has a vision tower of model_type {model_type!r}, which is not supported; "
            f"expected one of {VISION_MODEL_TYPES}."
        )


def is_variant(config):
    """Tell whether a config is that of a variant of ours."""
    return any(config.get("model_type") == family.config_class.model_type for family in FAMILIES.values())


def recorded_base(config):
    """The Hub base that the config of a variant records: a dict with its `repo_id` and `commit`, or None."""
    recorded = config.get("divprune_base")
    if recorded is None:
        return None
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(key), str) for key in ("repo_id", "commit")):
        raise ValueError(f"config.json has divprune_base={recorded!r}, expected a repo_id and a commit.")
    return recorded


def weight_files(folder):
    """The safetensors files of a checkpoint, checked against their headers.

    Returns:
        `list[str]`: file names, the index last where there is one.
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
    weight_map = read_json(index_path).get("weight_map")
    shards = shards_of_index(weight_map, index_path)
    for shard in shards:
        keys = check_shard(folder / shard)
        absent = [key for key, name in weight_map.items() if name == shard and key not in keys]
        if absent:
            raise ValueError(f"{folder / shard} lacks {absent[0]!r}, which {INDEX} says it holds.")
    return [*shards, INDEX]


def shards_of_index(weight_map, source):
    """The names of the shards that an index lists: safetensors files beside it, nothing else that it could reach."""
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{source} has no weight_map, expected one that names the shards.")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        if "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise ValueError(f"{source} names the shard {shard!r}, expected a plain file name ending in .safetensors.")
    return shards


def copied_files(folder):
    """Names of the files that go into a variant byte for byte, weights apart; each is a regular file."""
    folder = Path(folder)
    paths = {path.relative_to(folder).as_posix(): path for path in [*folder.glob("*"), *folder.glob("*/*.jinja")]}
    # A folder may be called LICENSES, or as an unread template is; what is opened has to be a file.
    names = [name for name in paths if is_copied(name) and not (is_legal(name) and paths[name].is_dir())]
    return sorted(name for name in names if regular_file(paths[name]))


def is_legal(name):
    """Tell whether a file is a licence or a notice."""
    return matches(name, LEGAL_PATTERNS) and not matches(name, [*OTHER_ENDINGS, *PICKLED_PATTERNS])


def is_copied(name):
    """Tell whether a file of a base goes into a variant byte for byte, unless a key of it has to be left out."""
    return is_legal(name) or matches(name, [pattern for pattern in COPIED_PATTERNS if pattern not in LEGAL_PATTERNS])


def matches(name, patterns):
    """Tell whether a file name fits one of the patterns, in any case."""
    return any(fnmatch(name.upper(), pattern.upper()) for pattern in patterns)
