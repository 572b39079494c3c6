"""What is refused before anything is written, each with the reason in the message."""

import math
import shutil

import pytest

from divprune_hf import convert_checkpoint
from tests.helpers.folders import assert_refused, edit_json, load_json


INDEX = "model.safetensors.index.json"
SHARD = "model-00002-of-00003.safetensors"


def cut(path, size):
    path.write_bytes(path.read_bytes()[:size])


def edit_weight_map(base, key, shard):
    edit_json(base / INDEX, weight_map={**load_json(base / INDEX)["weight_map"], key: shard})


def move_shard_out(base, name):
    """The shard exists where the index says, but that is not beside the index."""
    target = base / name
    target.parent.mkdir(exist_ok=True)
    shutil.copy(base / SHARD, target)
    edit_weight_map(base, "some.weight", name)


def rename_weights(base, name):
    (base / "model.safetensors").rename(base / name)


def write_weights(base, content):
    (base / "model.safetensors").write_bytes(content)


def empty(base):
    for path in base.iterdir():
        path.unlink()


def name_code(base, file, reference):
    edit_json(base / file, auto_map={"AutoModel": reference})


def edit_config(base, **changes):
    edit_json(base / "config.json", **changes)


def edit_tower_without_processor(base, **changes):
    vision_config = {**load_json(base / "config.json")["vision_config"], **changes}
    edit_config(base, vision_config=vision_config)
    edit_json(base / "processor_config.json", remove=["num_additional_image_tokens"])


NO_HEADER = "no valid safetensors header"
LFS_POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 0\n"
FOREIGN = "foreign remote code"
ORIGINAL = "original LLaVA checkpoint"
BAD_BASES = {
    "pickled_weights": (lambda base: rename_weights(base, "pytorch_model.bin"), "only pickled weights"),
    "no_weights": (lambda base: (base / "model.safetensors").unlink(), "no weights"),
    "truncated_weights": (lambda base: cut(base / "model.safetensors", 100_000), "truncated"),
    "one_byte_short": (lambda base: cut(base / "model.safetensors", -1), "truncated"),
    "one_byte_too_many": (lambda base: (base / "model.safetensors").open("ab").write(b"x"), "damaged"),
    "cut_inside_the_header": (lambda base: cut(base / "model.safetensors", 200), NO_HEADER),
    "empty_weights": (lambda base: cut(base / "model.safetensors", 0), NO_HEADER),
    "garbage_weights": (lambda base: write_weights(base, b"\xff" * 4096), NO_HEADER),
    "header_that_is_a_list": (lambda base: write_weights(base, b"\2\0\0\0\0\0\0\0[]"), NO_HEADER),
    "git_lfs_pointer": (lambda base: write_weights(base, LFS_POINTER), NO_HEADER),
    "kernels_in_config": (lambda base: edit_json(base / "config.json", attn_implementation="evil/kernels"), FOREIGN),
    "code_in_config": (lambda base: name_code(base, "config.json", "modeling_other.Other"), FOREIGN),
    "code_in_tokenizer": (lambda base: name_code(base, "tokenizer_config.json", ["other.Slow", None]), FOREIGN),
    "code_in_processor": (lambda base: name_code(base, "processor_config.json", "other.Processor"), FOREIGN),
    "code_in_nested_image_processor": (
        lambda base: edit_json(base / "processor_config.json", image_processor={"auto_map": {"AutoX": "other.Fast"}}),
        FOREIGN,
    ),
    "code_of_another_repo_under_our_name": (
        lambda base: name_code(base, "tokenizer_config.json", "other/repo--modeling_divprune_llava.Other"),
        FOREIGN,
    ),
    "code_named_like_ours": (
        lambda base: name_code(base, "tokenizer_config.json", ["modeling_divprune_evil.Tok", None]),
        FOREIGN,
    ),
    "code_in_a_list_of_configs": (
        lambda base: edit_config(base, parts=[{"auto_map": {"AutoModel": "other.Model"}}]),
        FOREIGN,
    ),
    "original_by_architecture": (lambda base: edit_config(base, architectures=["LlavaLlamaForCausalLM"]), ORIGINAL),
    "original_by_vision_tower": (lambda base: edit_config(base, mm_vision_tower="openai/clip"), ORIGINAL),
    "unsupported_family": (lambda base: edit_config(base, model_type="qwen2_vl"), "'qwen2_vl'"),
    "no_model_type": (lambda base: edit_config(base, remove=["model_type"]), "not supported"),
    "no_architecture_names": (lambda base: edit_config(base, architectures=[None], model_type="gpt2"), "'gpt2'"),
    "unknown_vision_tower": (lambda base: edit_config(base, vision_config={"model_type": "mystery"}), "mystery"),
    "pixtral_tower": (lambda base: edit_config(base, vision_config={"model_type": "pixtral"}), "'pixtral'"),
    "vision_config_is_a_string": (lambda base: edit_config(base, vision_config="x"), "vision_config='x'"),
    "impossible_text_config": (lambda base: edit_config(base, text_config=7), "not one of a LLaVA checkpoint"),
    "impossible_tower": (
        lambda base: edit_tower_without_processor(base, image_size=0),
        "not one of a working vision tower",
    ),
    "no_config": (lambda base: (base / "config.json").unlink(), "has no config.json"),
    "config_is_not_json": (lambda base: (base / "config.json").write_text("{nothing"), "is not valid JSON"),
    "config_is_a_list": (lambda base: (base / "config.json").write_text("[]"), "expected a JSON object"),
    "processor_config_is_not_json": (
        lambda base: (base / "processor_config.json").write_bytes(b"\xff\xfe"),
        "is not valid JSON",
    ),
    "empty_folder": (empty, "has no config.json"),
}
BAD_SHARDS = {
    "missing_shard": (lambda base: (base / SHARD).unlink(), f"{SHARD} is missing"),
    "truncated_shard": (lambda base: cut(base / SHARD, -100), "truncated"),
    "shard_in_parent_folder": (lambda base: move_shard_out(base, "../x.safetensors"), "'../x.safetensors'"),
    "shard_in_sub_folder": (lambda base: move_shard_out(base, "sub/x.safetensors"), "'sub/x.safetensors'"),
    "shard_behind_backslash": (lambda base: move_shard_out(base, "..\\x.safetensors"), "plain file name"),
    "pickled_shard": (lambda base: move_shard_out(base, "x.bin"), "'x.bin'"),
    "key_that_its_shard_lacks": (lambda base: edit_weight_map(base, "no.such.weight", SHARD), "lacks 'no.such.weight'"),
    "index_without_weight_map": (lambda base: edit_json(base / INDEX, remove=["weight_map"]), "has no weight_map"),
    "index_is_not_json": (lambda base: cut(base / INDEX, 100), "is not valid JSON"),
}


@pytest.mark.parametrize(("spoil", "reason"), BAD_BASES.values(), ids=BAD_BASES)
def test_base_is_refused(base, tmp_path, spoil, reason):
    spoil(base)
    assert_refused(tmp_path, base, tmp_path / "out", reason)


@pytest.mark.parametrize(("spoil", "reason"), BAD_SHARDS.values(), ids=BAD_SHARDS)
def test_sharded_base_is_refused(sharded_base, tmp_path, spoil, reason):
    spoil(sharded_base)
    assert_refused(tmp_path, sharded_base, tmp_path / "out", reason)


def test_refusal_leaves_the_variant_that_was_to_be_replaced(base, tmp_path):
    out = convert_checkpoint(base, tmp_path / "out")
    cut(base / "model.safetensors", 100_000)
    assert_refused(tmp_path, base, out, "truncated", overwrite=True)


@pytest.mark.parametrize(
    ("divprune_config", "reason"),
    [
        pytest.param({"keep": 5}, "['keep']", id="unknown_key"),
        pytest.param({"num_tokens": 5, "retention_ratio": 0.1}, "expected one budget", id="both_budgets"),
        pytest.param({"order": "sorted"}, "order='sorted'", id="unknown_order"),
        pytest.param("num_tokens=5", "expected a dict or a DivPruneConfig", id="a_string"),
        *(
            pytest.param({"retention_ratio": ratio}, "retention_ratio=", id=f"ratio_{ratio!r}")
            for ratio in (0, 0.0, -0.1, 1.5, 2, math.nan, math.inf, "0.5", True)
        ),
        *(
            pytest.param({"num_tokens": number}, "num_tokens=", id=f"num_tokens_{number!r}")
            for number in (0, -5, 2.5, "64", True)
        ),
    ],
)
def test_budget_is_refused(base, tmp_path, divprune_config, reason):
    assert_refused(tmp_path, base, tmp_path / "out", reason, divprune_config=divprune_config)
