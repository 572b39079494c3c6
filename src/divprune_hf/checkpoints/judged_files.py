"""The JSON files of a base or a variant, judged key by key before anything loads them.

A key that names code is refused. A key that no class of the family declares is left out and reported.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from divprune_hf.checkpoints import declared_keys as declared
from divprune_hf.checkpoints.families import FAMILIES, VISION_MODEL_TYPES, Family
from divprune_hf.checkpoints.json_files import exists, read_json
from divprune_hf.remote_code.family_names import auto_map


Content = dict[str, Any]  # of a JSON file

# The classes of our variants, which may serve as bases too. Any other code is foreign.
OUR_CLASSES = {reference for name in FAMILIES for reference in auto_map(name).values()} | {
    family.processor_reference for family in FAMILIES.values()
}
# Keys by which transformers finds code, or a file or repo that may name code, in any config.
CODE_KEYS = {
    "auto_map": "classes in Python files",
    "custom_pipelines": "classes of pipelines, of any repo",
    "configuration_files": "other files, which are read in place of config.json",
    "fast_tokenizer_files": "other files, which are read in place of tokenizer.json",
    "audio_tokenizer": "a model of another repo, loaded with the processor",
    "audio_tokenizer_class": "the class of that model",
    "audio_tokenizer_name_or_path": "its repo",
    "custom_generate": "a repo whose code generates",
    "base_model_name_or_path": "the model that an adapter is put on",
}
# Attention or experts from a repo of kernels, such as `attn_implementation` and `_attn_implementation_internal`
# (CVE-2026-4372).
CODE_ENDINGS = ("_implementation", "_implementation_internal")
# Files whose keys are judged. Vocabulary files are not among them: they hold tokens and numbers only.
JUDGED_FILES = [
    *("config.json", "processor_config.json", "tokenizer_config.json", "preprocessor_config.json"),
    *("video_preprocessor_config.json", "generation_config.json", "special_tokens_map.json", "chat_template.json"),
    "model.safetensors.index.json",
]
# Files whose outermost auto_map `convert` replaces.
REPLACED = ("config.json", "processor_config.json")


@dataclass
class Judged:
    """The judged JSON files of a checkpoint, by name, and the keys left out of them, as FILE: PATH.TO.KEY."""

    contents: dict[str, dict[str, Any]] = field(default_factory=dict)
    dropped: list[str] = field(default_factory=list)

    def changed(self, name: str) -> bool:
        """Tell whether a key was left out of a file."""
        return any(entry.startswith(f"{name}: ") for entry in self.dropped)


def judge(folder: str | Path, family: Family, is_variant: bool) -> Judged:
    """Judge the JSON files of a folder.

    Args:
        folder: a folder with a checkpoint's small files.
        family: its family.
        is_variant: a variant made by `convert` may hold the keys that `convert` writes.

    Raises:
        ValueError: a file cannot be read, or names code, a class or a kind of model that is not supported.
    """
    judged = Judged()
    for name in JUDGED_FILES:
        path = Path(folder) / name
        if exists(path):
            content = read_json(path)
            check_names_no_code(path, content, replaced="auto_map" if name in REPLACED else None)
            judged.contents[name] = kept_of_file(name, content, family, is_variant, judged.dropped, path)
    return judged


def check_names_no_code(path: Path, content: dict[str, Any], replaced: str | None = None) -> None:
    """Refuse a file that names code other than ours. The key `replaced` may name our classes in any repo."""
    own = {replaced: content[replaced]} if replaced in content else {}
    references = [*code_references({key: value for key, value in content.items() if key != replaced})]
    foreign = [reference for reference in references if reference not in OUR_CLASSES]
    foreign += [ref for ref in code_references(own) if ref.split("--")[-1] not in OUR_CLASSES]
    if foreign:
        raise ValueError(
            f"{path} names foreign remote code {foreign}: expected a checkpoint that runs on stock "
            "transformers classes."
        )


def code_references(content: Any) -> Iterator[str]:
    """Yield every reference to code in a config, at any depth."""
    if isinstance(content, list):
        for part in content:
            yield from code_references(part)
    for name, value in content.items() if isinstance(content, dict) else ():
        if name == "auto_map":
            yield from (text for text in texts_in(value) if text)
        elif name in CODE_KEYS:
            if value:
                yield f"{name}: {value}"
        elif name.endswith(CODE_ENDINGS):
            yield from (text for text in texts_in(value) if "/" in text)
        else:
            yield from code_references(value)


def texts_in(value: Any) -> Iterator[str]:
    """Yield every value in lists and dicts of any depth as text."""
    if isinstance(value, (dict, list)):
        for part in value.values() if isinstance(value, dict) else value:
            yield from texts_in(part)
    elif value is not None:
        yield str(value)


def kept_of_file(
    name: str, content: Content, family: Family, is_variant: bool, dropped: list[str], path: Path
) -> Content:
    """Return the allowed content of a JSON file, and add the other keys to `dropped`; see `judge`."""
    where = f"{name}: "
    if name == "config.json":
        return kept_config(content, family, is_variant, dropped, path)
    if name == "processor_config.json":
        return kept_processor_config(content, family, is_variant, dropped, path)
    if name == "generation_config.json":
        kept = kept_keys(content, declared.generation_keys(), dropped, where)
        check_generation(path, kept)
        return kept
    if name == "tokenizer_config.json":
        allowed = declared.TOKENIZER_KEYS | saved_keys(is_variant)
        kept = kept_tokens(content, allowed, dropped, where)
        if isinstance(kept.get("sp_model_kwargs"), dict):
            settings = kept["sp_model_kwargs"]
            kept["sp_model_kwargs"] = kept_keys(
                settings, declared.SENTENCEPIECE_KEYS, dropped, f"{where}sp_model_kwargs."
            )
        check_classes(path, kept)
        return kept
    if name == "special_tokens_map.json":
        return kept_tokens(content, {"additional_special_tokens", "extra_special_tokens"}, dropped, where)
    if name == "chat_template.json":
        return kept_keys(content, {"chat_template"}, dropped, where)
    if name == "model.safetensors.index.json":
        return kept_keys(content, {"metadata", "weight_map"}, dropped, where)
    return kept_part(content, name.startswith("video"), is_variant, dropped, where, path)


def kept_config(content: Content, family: Family, is_variant: bool, dropped: list[str], path: Path) -> Content:
    """Return the allowed content of `config.json`: the family's keys, and those of its two nested configs."""
    allowed = declared.config_keys(family.base_model_type) | {"text_config", "vision_config"}
    if is_variant:
        allowed |= declared.OUR_CONFIG_KEYS
    kept = kept_keys(content, allowed, dropped, "config.json: ")
    parts: dict[str, tuple[str, Iterable[str]]] = {
        "text_config": ("llama", declared.text_model_types()),
        "vision_config": ("clip_vision_model", VISION_MODEL_TYPES),
    }
    check_not_quantised(path, content)
    for part, (default, types) in parts.items():
        config = kept.get(part)
        check_not_quantised(path, config)
        if isinstance(config, dict):
            model_type = config.get("model_type", default)
            if not isinstance(model_type, str) or model_type not in types:
                raise ValueError(
                    f"{path} has a {part} of model_type {model_type!r}, which is not supported; expected one such as "
                    f"{default!r}."
                )
            kept[part] = kept_keys(config, declared.config_keys(model_type), dropped, f"config.json: {part}.")
            check_generation(path, kept[part])
            check_classes(path, kept[part])
    check_generation(path, kept)
    check_classes(path, kept)
    return kept


def check_not_quantised(path: Path, config: Any) -> None:
    """Refuse a config of quantised weights, whose shapes and dtypes differ from those of the model."""
    if isinstance(config, dict) and config.get("quantization_config"):
        raise ValueError(f"{path} has a quantization_config, expected weights that are not quantised: take that base.")


def kept_processor_config(
    content: Content, family: Family, is_variant: bool, dropped: list[str], path: Path
) -> Content:
    """Return the allowed content of `processor_config.json`: the processor's keys, and those of its nested parts."""
    parts = ["image_processor", *(["video_processor"] if family.takes_videos else [])]
    allowed = {*declared.processor_keys(family), *parts}
    if is_variant:
        allowed |= {"auto_map", "divprune_config"}
    kept = kept_keys(content, allowed, dropped, "processor_config.json: ")
    for part in parts:
        if isinstance(kept.get(part), dict):
            where = f"processor_config.json: {part}."
            kept[part] = kept_part(kept[part], part == "video_processor", is_variant, dropped, where, path)
    return kept


def kept_part(
    content: Content, is_video: bool, is_variant: bool, dropped: list[str], where: str, path: Path
) -> Content:
    """Return the allowed content of the config of an image or video processor."""
    allowed = declared.VIDEO_KEYS if is_video else declared.IMAGE_KEYS
    kept = kept_keys(content, allowed | saved_keys(is_variant), dropped, where)
    check_classes(path, kept)
    return kept


def saved_keys(is_variant: bool) -> set[str]:
    """Return `auto_map` for a variant: transformers saves the one of a processor into its parts too."""
    return {"auto_map"} if is_variant else set()


def kept_tokens(content: Content, allowed: set[str], dropped: list[str], where: str) -> Content:
    """Return the content of the allowed keys and of every key that ends in `_token`."""
    tokens = {key for key in content if key.endswith("_token")}
    return kept_keys(content, allowed | tokens, dropped, where)


def kept_keys(content: Content, allowed: set[str], dropped: list[str], where: str) -> Content:
    """Return the content of the allowed keys, and add the others to `dropped` with the prefix `where`."""
    dropped += [f"{where}{key}" for key in content if key not in allowed]
    return {key: value for key, value in content.items() if key in allowed}


def check_classes(path: Path, content: dict[str, Any]) -> None:
    """Refuse a processor, tokenizer or dtype that is not in `NAMED_CLASSES`."""
    for key, classes in declared.NAMED_CLASSES.items():
        named = content.get(key)
        if named is not None and (not isinstance(named, str) or named not in classes):
            raise ValueError(f"{path} has {key}={named!r}, expected one of {sorted(classes)}.")


def check_generation(path: Path, content: dict[str, Any]) -> None:
    """Refuse generation settings for which transformers downloads code from the Hub."""
    for key, harmless in declared.GENERATION_FROM_THE_HUB.items():
        value = content.get(key)
        if not any(type(value) is type(other) and value == other for other in harmless):
            raise ValueError(
                f"{path} has {key}={value!r}, for which transformers loads foreign remote code from the Hub; "
                f"expected {harmless[-1]!r}."
            )
