"""Checks before a variant leaves this machine. Nothing of it runs before its code is known to be this package's."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.families import Family
from divprune_hf.checkpoints.hub_errors import redact, without_tokens
from divprune_hf.checkpoints.judged_files import judge
from divprune_hf.checkpoints.model_shapes import check_weights_fit, needed_shapes
from divprune_hf.checkpoints.variant_configs import variant_config, variant_processor_config
from divprune_hf.common.printable import printable
from divprune_hf.publishing import load_check
from divprune_hf.publishing.variant_files import shipped_code
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig
from divprune_hf.remote_code.family_names import auto_map


LARGEST_TO_LOAD = 2**30  # bytes of weights; larger models are built on the meta device


def sha256(content: bytes) -> str:
    """Return the hexadecimal SHA-256 of a content."""
    return hashlib.sha256(content).hexdigest()


def code_differences(found: dict[str, bytes]) -> list[str]:
    """Return the differences between Python files, by name, and those of this package; empty if there are none."""
    expected = {name: sha256(text.encode()) for name, text in shipped_code().items()}
    hashes = {name: sha256(content) for name, content in found.items()}
    differences = [f"{name} is missing" for name in sorted(set(expected) - set(hashes))]
    differences += [f"{name} is not one of ours" for name in sorted(set(hashes) - set(expected))]
    both = sorted(set(expected) & set(hashes))
    return differences + [f"{name} differs" for name in both if expected[name] != hashes[name]]


def check_code(folder: Path) -> None:
    """Refuse a variant whose code differs from this package's; compare by hash."""
    found = {
        path.relative_to(folder).as_posix(): files.regular_file(path).read_bytes() for path in folder.rglob("*.py")
    }
    differences = code_differences(found)
    if differences:
        raise ValueError(
            printable(f"{folder} does not hold the code of this package: {'; '.join(differences)}. Convert it again ")
            + "with this version (divprune-hf convert FOLDER OUT)."
        )


def judged_differences(folder: Path, source: str | Path) -> list[str]:
    """Return the keys in the JSON files of a variant that `convert` writes otherwise, or not at all.

    Args:
        folder: the variant.
        source: the folder or Hub id by which the user named it, for errors.

    Raises:
        ValueError: the files are not those of a variant, or name code, a class or a kind of model that is refused.
    """
    config = files.read_json(folder / "config.json")
    if not files.is_variant(config):
        raise ValueError(
            f"{source} is of model_type {config.get('model_type')!r}, expected a variant (divprune-hf convert)."
        )
    family = files.family_of(config, source)
    check_own_auto_map(folder, config, family)
    judged = judge(folder, family, is_variant=True)
    differences = [f"{entry} is not one of the keys that convert keeps" for entry in judged.dropped]
    config = judged.contents["config.json"]
    divprune_config = DivPruneConfig.merged(config.get("divprune_config"), takes_videos=family.takes_videos)
    files.recorded_base(config)
    processor_config = judged.contents.get("processor_config.json", {})
    for name, found, expected in (
        ("config.json", config, variant_config(config, family, divprune_config)),
        (
            "processor_config.json",
            processor_config,
            variant_processor_config(processor_config, config, family, divprune_config),
        ),
    ):
        differences += [f"{name}: {key}" for key in expected if found.get(key) != expected[key]]
    index = judged.contents.get(files.INDEX)
    if index is not None:
        files.shards_of_index(index.get("weight_map"), files.INDEX)
    return differences


def check_own_auto_map(folder: Path, config: dict[str, Any], family: Family) -> None:
    """Refuse a variant whose auto_map names code outside its folder, which the comparison of hashes does not see."""
    if config.get("auto_map") != auto_map(family.base_model_type):
        raise ValueError(
            f"{folder} is not as convert writes it (config.json: auto_map): convert it again (divprune-hf convert "
            "FOLDER OUT)."
        )


def check_configs(folder: Path, shapes: list[tuple[int, ...]]) -> None:
    """Check the configs of a variant against each other and against its weights. Nothing is loaded before this check.

    Args:
        folder: the variant.
        shapes: the shape of every tensor in its weights, from the headers.

    Raises:
        ValueError: names what differs from the files that `convert` writes.
    """
    differences = judged_differences(folder, folder)
    # A push would leave these files behind, but whoever loads the folder itself would follow them.
    adapters = sorted(path.name for path in folder.iterdir() if files.matches(path.name, files.ADAPTER_PATTERNS))
    if adapters:
        raise ValueError(
            f"{folder} has {', '.join(adapters)}, which can make transformers load another model: merge the adapter "
            "into the base's weights and convert again, or move it out of the folder."
        )
    if differences:
        raise ValueError(
            f"{folder} is not as convert writes it ({', '.join(differences)}): convert it again (divprune-hf convert "
            "FOLDER OUT)."
        )
    config = files.read_json(folder / "config.json")
    check_weights_fit(needed_shapes(config, files.family_of(config, folder), folder), shapes, folder)


def check_loads(folder: Path, weight_bytes: int, has_weights: bool = True) -> dict[str, Any]:
    """Load a variant as remote code in a process without this package, and let it answer a tiny prompt.

    Args:
        folder: the variant.
        weight_bytes: the size of its weights. Above `LARGEST_TO_LOAD` the model is built on the meta device.
        has_weights: False builds the model on the meta device too.

    Returns:
        The report of `load_check.py`.

    Raises:
        ValueError: it does not load, loads other code than its own, or its answer does not fit the prompt.
    """
    on_meta = not has_weights or weight_bytes > LARGEST_TO_LOAD
    with tempfile.TemporaryDirectory(prefix="divprune-check-") as modules:
        environment = {name: value for name, value in os.environ.items() if "TOKEN" not in name}
        environment |= {"HF_MODULES_CACHE": modules, "HF_HUB_OFFLINE": "1", "TQDM_DISABLE": "1"}
        command = [sys.executable, load_check.__file__, str(folder), "meta" if on_meta else "weights"]
        result = subprocess.run(command, env=environment, cwd=modules, capture_output=True, text=True)
    if result.returncode:
        last = result.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(f"{folder} does not load as remote code: {printable(redact(last[0]))}")
    report = json.loads(result.stdout.splitlines()[-1])
    if not all(module.startswith("transformers_modules.") for module in report["modules"]):
        raise ValueError(f"{folder} loaded other code than its own: {report['modules']}.")
    if report["problems"]:
        raise ValueError(f"{folder} loads with {report['problems']}: its weights and its config do not fit.")
    for kind, answer in report["answers"].items():
        fits = answer["kept"] == [answer["placeholders"]] and answer["logits"][1] == answer["prompt"]
        if not (fits and answer["finite"]):
            raise ValueError(f"{folder} does not answer a tiny prompt about one {kind} as it should: {answer}.")
    return report


def check_no_token(contents: dict[str, bytes]) -> None:
    """Refuse files that hold a token of the Hub, or what looks like one."""
    for name, content in contents.items():
        text = content.decode("utf-8", errors="ignore")
        if without_tokens(text) != text:
            raise ValueError(
                f"{printable(name)} holds a token of the Hub, or what looks like one: remove it and revoke the token."
            )
