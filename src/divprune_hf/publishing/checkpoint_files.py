"""What a base checkpoint must look like before a file of it is copied, and which of its files are."""

import json
import struct
from fnmatch import fnmatch
from pathlib import Path

from divprune_hf.families import FAMILIES, VISION_MODEL_TYPES
from divprune_hf.remote_code.configuration_divprune import auto_map


WEIGHT_PATTERNS = ["*.safetensors", "model.safetensors.index.json"]
# Files that can run code while they are loaded.
PICKLED_PATTERNS = ["*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle"]
# Where PEFT is installed, transformers loads the model that an adapter names in place of the one beside it.
ADAPTER_PATTERNS = ["adapter_config.json", "adapter_model.*"]
LEGAL_PATTERNS = ["LICENSE*", "LICENCE*", "NOTICE*", "USE_POLICY*"]
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
FILES_THAT_NAME_CODE = [
    *EDITED_FILES,
    "tokenizer_config.json",
    "preprocessor_config.json",
    "video_preprocessor_config.json",
    "generation_config.json",
]
# A base may be a variant of ours, whose classes these are; any other code is foreign.
OUR_CLASSES = {reference for name in FAMILIES for reference in auto_map(name).values()} | {
    family.processor_reference for family in FAMILIES.values()
}
LARGEST_HEADER = 100_000_000  # bytes, the limit of the safetensors format


def read_json(path):
    """The JSON object in a file; a `ValueError` names the file where there is none."""
    try:
        content = json.loads(Path(path).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ValueError(f"{Path(path).parent} has no {Path(path).name}: expected a checkpoint folder.") from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}).") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path} holds a {type(content).__name__}, expected a JSON object.")
    return content


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
    """Whether a config is that of a variant of ours."""
    return any(config.get("model_type") == family.config_class.model_type for family in FAMILIES.values())


def recorded_base(config):
    """The Hub base that the config of a variant records: a dict with its `repo_id` and `commit`, or None."""
    recorded = config.get("divprune_base")
    if recorded is None:
        return None
    if not isinstance(recorded, dict) or not all(isinstance(recorded.get(key), str) for key in ("repo_id", "commit")):
        raise ValueError(f"config.json has divprune_base={recorded!r}, expected a repo_id and a commit.")
    return recorded


def check_no_foreign_code(folder):
    """Refuse a base that brings code of its own: its classes would be lost, or run under our name."""
    for name in FILES_THAT_NAME_CODE:
        path = Path(folder) / name
        if not path.is_file():
            continue
        content = read_json(path)
        # The outermost auto_map of an edited file is replaced: that of a variant may point to our classes in any repo.
        replaced = {"auto_map": content.pop("auto_map", None)} if name in EDITED_FILES else {}
        references = [*code_references(content), *(ref.split("--")[-1] for ref in code_references(replaced))]
        foreign = [reference for reference in references if reference not in OUR_CLASSES]
        if foreign:
            raise ValueError(
                f"{path} names foreign remote code {foreign}: expected a checkpoint that runs on stock "
                "transformers classes."
            )


def code_references(content):
    """The code that a config file names, also in the configs that it holds.

    It is the classes in an `auto_map`, and an implementation of attention or experts that is a repo of kernels.
    """
    if isinstance(content, list):
        for part in content:
            yield from code_references(part)
    for name, value in content.items() if isinstance(content, dict) else ():
        if name == "auto_map":
            entries = value.values() if isinstance(value, dict) else [value]
            for entry in entries:
                yield from (
                    str(reference) for reference in (entry if isinstance(entry, list) else [entry]) if reference
                )
        elif name.endswith(("_implementation", "_implementation_internal")):
            chosen = value.values() if isinstance(value, dict) else [value]
            yield from (str(implementation) for implementation in chosen if "/" in str(implementation))
        else:
            yield from code_references(value)


def weight_files(folder):
    """The safetensors files of a checkpoint, checked against their headers.

    Returns:
        `list[str]`: file names, the index last where there is one.
    """
    folder = Path(folder)
    index_path = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").is_file():
        check_shard(folder / "model.safetensors")
        return ["model.safetensors"]
    if not index_path.is_file():
        pickled = sorted(path.name for path in folder.glob("*") if matches(path.name, PICKLED_PATTERNS))
        found = f"only pickled weights ({', '.join(pickled)})" if pickled else "no weights"
        raise ValueError(
            f"{folder} has {found}, expected model.safetensors or model.safetensors.index.json. Pickled files can run "
            "code when they are loaded: save the base with safe_serialization=True first."
        )
    weight_map = read_json(index_path).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise ValueError(f"{index_path} has no weight_map, expected one that names the shards.")
    shards = sorted(set(map(str, weight_map.values())))
    for shard in shards:
        if "/" in shard or "\\" in shard or not shard.endswith(".safetensors"):
            raise ValueError(
                f"{index_path} names the shard {shard!r}, expected a plain file name ending in .safetensors."
            )
        keys = check_shard(folder / shard)
        absent = [key for key, name in weight_map.items() if name == shard and key not in keys]
        if absent:
            raise ValueError(f"{folder / shard} lacks {absent[0]!r}, which {index_path.name} says it holds.")
    return [*shards, index_path.name]


def check_shard(path):
    """Check that a safetensors file is as long as its header says; return the shapes of its tensors, by name."""
    if not path.is_file():
        raise ValueError(f"{path} is missing, expected all shards of the checkpoint.")
    size = path.stat().st_size
    try:
        with path.open("rb") as file:
            (header_size,) = struct.unpack("<Q", file.read(8))
            if header_size > min(size, LARGEST_HEADER):
                raise ValueError
            header = json.loads(file.read(header_size))
        tensors = {name: tensor for name, tensor in header.items() if name != "__metadata__"}
        expected = 8 + header_size + max((tensor["data_offsets"][1] for tensor in tensors.values()), default=0)
    except (ValueError, LookupError, TypeError, AttributeError, struct.error):
        raise ValueError(f"{path} has no valid safetensors header: is it truncated, or a download pointer?") from None
    if size != expected:
        raise ValueError(
            f"{path} is truncated or damaged: it has {size} bytes, its header says {expected}. Download it again."
        )
    return {name: tuple(tensor.get("shape", ())) for name, tensor in tensors.items()}


def tensor_shapes(folder, weights):
    """The shape of every tensor in the files that `weight_files` lists."""
    shards = [name for name in weights if name.endswith(".safetensors")]
    return [shape for name in shards for shape in check_shard(Path(folder) / name).values()]


def copied_files(folder):
    """Names of the files that go into a variant byte for byte, weights apart."""
    folder = Path(folder)
    names = [path.relative_to(folder).as_posix() for path in [*folder.glob("*"), *folder.glob("*/*.jinja")]]
    return sorted(name for name in names if (folder / name).is_file() and matches(name, COPIED_PATTERNS))


def matches(name, patterns):
    """Whether a file name fits one of the patterns, in any case."""
    return any(fnmatch(name.upper(), pattern.upper()) for pattern in patterns)
