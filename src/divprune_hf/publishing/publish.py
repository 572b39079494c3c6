"""Hub base -> model repo in one step: convert the small files, push them, and let the Hub copy the weights."""

import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import HfApi

from divprune_hf.cards.variants import licence_for
from divprune_hf.checkpoints import files
from divprune_hf.checkpoints.hub_errors import explained
from divprune_hf.checkpoints.safetensors_headers import tensor_spans
from divprune_hf.publishing import plan
from divprune_hf.publishing.hub_base import LocalBase, local_base
from divprune_hf.publishing.push import PushOptions, PushResult, check_repo_id, push_files
from divprune_hf.publishing.pushed_files import LocalVariant, RemoteWeights
from divprune_hf.publishing.variant_files import tell_left_out, variant_texts
from divprune_hf.remote_code.configuration_divprune import DivPruneConfig


def publish_variant(
    base: str,
    repo_id: str,
    divprune_config: dict[str, Any] | DivPruneConfig | None = None,
    *,
    public: bool = False,
    revision: str = "main",
    tag: str | None = None,
    dry_run: bool = False,
    upload_weights: bool = False,
    license: str | None = None,
    base_revision: str | None = None,
    say: Callable[[str], object] = print,
) -> PushResult:
    """Convert a checkpoint on the Hub and push the variant, without downloading the weights.

    Args:
        base (`str`): the id of a Hub repo.
        repo_id (`str`): ORG/NAME of the variant.
        divprune_config (`dict` or `DivPruneConfig`, *optional*): the settings of the pruning; by default 0.098 of the
            visual tokens are kept.
        upload_weights (`bool`): download the weights and upload them, for weights that the Hub cannot copy.
        base_revision (`str`, *optional*): branch, tag or commit of the base.
        public, revision, tag, dry_run, license, say: as in `push_variant`.

    Raises:
        ValueError: as in `convert_checkpoint` and `push_variant`, or the Hub cannot copy the weights.
    """
    if Path(base).is_dir():
        raise ValueError(f"{base} is a folder, expected the id of a Hub repo: use convert and push for a folder.")
    check_repo_id(repo_id)
    # Refuse an impossible budget or licence before downloading anything.
    DivPruneConfig.merged(override=divprune_config, takes_videos=True)
    licence_for(base, license)
    if not upload_weights and not plan.CAN_COPY:
        raise ValueError(
            "The installed huggingface_hub is too old to have the Hub copy weights between repos: upgrade it, or pass "
            "--upload-weights (upload_weights=True) to download and upload them."
        )
    local = local_base(base, base_revision)
    if upload_weights:
        local.download_weights()
    folder = local.folder
    with tempfile.TemporaryDirectory(prefix="divprune-publish-") as staging_name:
        staging = Path(staging_name)
        for name in files.copied_files(folder):
            (staging / name).parent.mkdir(exist_ok=True)
            shutil.copy(folder / name, staging / name)
        texts, dropped = variant_texts(base, folder, local.commit, divprune_config, repo_id)
        tell_left_out(say, dropped)
        for name, text in texts.items():
            (staging / name).write_text(text, encoding="utf-8")
        remote: RemoteWeights | None = None
        weights: list[str] = []
        if upload_weights:
            weights = files.weight_files(folder)
            for name in weights:
                os.symlink((folder / name).resolve(), staging / name)
        else:
            with explained(f"the base {base}"):
                remote = remote_weights(local, staging)
        contents = {path.relative_to(staging).as_posix(): path for path in staging.rglob("*") if path.is_file()}
        options = PushOptions(
            public=public,
            revision=revision,
            tag=tag,
            dry_run=dry_run,
            upload_weights=upload_weights,
            license=license,
        )
        return push_files(LocalVariant(staging, contents, weights, remote), repo_id, options, say)


def remote_weights(local: LocalBase, staging: Path) -> RemoteWeights:
    """Read the headers of a base's weights on the Hub, and copy its index into `staging`.

    Raises:
        ValueError: a shard is missing or lacks a tensor, a header is not valid, or the Hub cannot copy a file.
    """
    base, there = local.source, local.files
    metadata = HfApi().get_safetensors_metadata(base, revision=local.commit)
    for tensor, shard in metadata.weight_map.items():
        if tensor not in metadata.files_metadata[shard].tensors:
            raise ValueError(f"{shard} of {base} lacks {tensor!r}, which the index says it holds.")
    if not metadata.sharded:
        (staging / files.INDEX).unlink(missing_ok=True)  # transformers would not read it
    elif not (staging / files.INDEX).exists():  # there already if a key was left out of it
        shutil.copy(files.regular_file(local.folder / files.INDEX), staging / files.INDEX)
    names = sorted(metadata.files_metadata)
    absent = [name for name in names if name not in there]
    if absent:
        raise ValueError(f"The index of {base} names {absent[0]!r}, which is not among its files.")
    plain = [name for name in names if not (there[name].lfs and there[name].xet_hash)]
    if plain:
        raise ValueError(
            f"The Hub cannot copy {plain[0]} of {base}, which is not in its large file storage: pass --upload-weights "
            "(upload_weights=True) to download and upload it."
        )
    shapes: list[tuple[int, ...]] = []
    for name in names:
        header = {
            tensor: {"dtype": info.dtype, "shape": info.shape, "data_offsets": list(info.data_offsets)}
            for tensor, info in metadata.files_metadata[name].tensors.items()
        }
        shapes += [span.shape for span in tensor_spans(header, f"{name} of {base} has no valid safetensors header")]
    return RemoteWeights(names, shapes)
