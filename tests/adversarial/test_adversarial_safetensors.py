"""Safetensors judged whole, files that are none, and configs that no model can be built from: one line each."""

import json
import os
import re
import shutil
import struct
import sys

import pytest
from safetensors import SafetensorError, safe_open

from divprune_hf import convert_checkpoint
from divprune_hf.checkpoints.safetensors_headers import check_shard
from divprune_hf.inference.loading import load_pruned
from tests.helpers import warm_python
from tests.helpers.folders import edit_json, load_json, tree


F32 = {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}
NEXT = {"dtype": "F32", "shape": [1], "data_offsets": [16, 20]}


def shard(header, data):
    """The bytes of a safetensors file; a text is taken as it is."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + b"\0" * data


def entry(**changes):
    return {"a": {**F32, **changes}}


# Bytes of a file, and what the error says.
BAD = {
    "overlap": (shard({"a": F32, "b": {**NEXT, "data_offsets": [12, 16]}}, 16), "overlaps"),
    "same_bytes_twice": (shard({"a": F32, "b": F32}, 16), "overlaps"),
    "inside": (shard({"a": F32, "b": {**NEXT, "data_offsets": [4, 8]}}, 16), "overlaps"),
    "gap": (shard({"a": F32, "b": {**NEXT, "data_offsets": [20, 24]}}, 24), "gap of 4 bytes"),
    "gap_at_the_start": (shard(entry(data_offsets=[4, 20]), 20), "gap of 4 bytes"),
    "negative_start": (shard(entry(data_offsets=[-16, 0]), 0), "data_offsets"),
    "negative_both": (shard(entry(data_offsets=[-32, -16]), 0), "data_offsets"),
    "backwards": (shard(entry(data_offsets=[16, 0]), 16), "data_offsets"),
    "one_offset": (shard(entry(data_offsets=[16]), 16), "data_offsets"),
    "three_offsets": (shard(entry(data_offsets=[0, 8, 16]), 16), "data_offsets"),
    "offsets_of_text": (shard(entry(data_offsets=["0", "16"]), 16), "data_offsets"),
    "offsets_of_floats": (shard(entry(data_offsets=[0.0, 16.0]), 16), "data_offsets"),
    "offsets_of_bools": (shard(entry(data_offsets=[False, True]), 1), "data_offsets"),
    "offsets_none": (shard(entry(data_offsets=None), 16), "data_offsets"),
    "offset_beyond_the_file": (shard(entry(shape=[2**60], data_offsets=[0, 2**62]), 16), "truncated or damaged"),
    "offset_of_many_digits": (shard(b'{"a": {"data_offsets": [0, 1' + b"0" * 5000 + b"]}}", 0), "no valid safetensors"),
    "shape_too_large": (shard(entry(shape=[2, 3]), 16), "does not take 16 bytes"),
    "shape_too_small": (shard(entry(shape=[2]), 16), "does not take 16 bytes"),
    "shape_that_overflows": (shard(entry(shape=[2**32, 2**32, 2]), 16), "does not take 16 bytes"),
    "shape_empty": (shard(entry(shape=[]), 16), "does not take 16 bytes"),
    "shape_zero": (shard(entry(shape=[0]), 16), "does not take 16 bytes"),
    "shape_negative": (shard(entry(shape=[-2, -2]), 16), "the shape [-2, -2]"),
    "shape_of_floats": (shard(entry(shape=[2.0, 2]), 16), "the shape [2.0, 2]"),
    "shape_of_bools": (shard(entry(shape=[4, True]), 16), "the shape [4, True]"),
    "shape_a_number": (shard(entry(shape=4), 16), "the shape 4"),
    "shape_a_text": (shard(entry(shape="22"), 16), "the shape '22'"),
    "shape_an_object": (shard(entry(shape={"0": 4}), 16), "the shape {'0': 4}"),
    "shape_none": (shard(entry(shape=None), 16), "the shape None"),
    "shape_missing": (shard({"a": {"dtype": "F32", "data_offsets": [0, 16]}}, 16), "no object of dtype"),
    "dtype_too_wide": (shard(entry(dtype="F64"), 16), "does not take 16 bytes"),
    "dtype_too_narrow": (shard(entry(dtype="F16"), 16), "does not take 16 bytes"),
    "dtype_unknown": (shard(entry(dtype="PICKLE"), 16), "dtype 'PICKLE'"),
    "dtype_lower_case": (shard(entry(dtype="f32"), 16), "dtype 'f32'"),
    "dtype_a_list": (shard(entry(dtype=["F32"]), 16), "dtype ['F32']"),
    "dtype_none": (shard(entry(dtype=None), 16), "dtype None"),
    "half_a_byte": (shard(entry(dtype="F4", shape=[3], data_offsets=[0, 2]), 2), "does not take 2 bytes"),
    "no_tensors": (shard({}, 0), "names no tensors"),
    "no_tensors_but_data": (shard({}, 16), "names no tensors"),
    "metadata_alone": (shard({"__metadata__": {"format": "pt"}}, 0), "names no tensors"),
    "metadata_a_list": (shard({"__metadata__": [], **entry()}, 16), "__metadata__"),
    "metadata_nested": (shard({"__metadata__": {"a": {"b": "c"}}, **entry()}, 16), "__metadata__"),
    "header_of_no_bytes": (shard(b"", 0), "no valid safetensors header"),
    "header_a_list": (shard([F32], 16), "no valid safetensors header"),
    "header_a_number": (shard(b"7", 0), "no valid safetensors header"),
    "header_no_json": (shard(b"{'a': 1}", 0), "no valid safetensors header"),
    "header_no_utf8": (shard(b'{"\xff": 1}', 0), "no valid safetensors header"),
    "header_of_a_pickle": (b"\x80\x05\x95\x10\0\0\0\0\0\0\0" + b"evil" * 8, "no valid safetensors header"),
    "tensor_a_list": (shard({"a": ["F32", [2, 2], [0, 16]]}, 16), "no object of dtype"),
    "tensor_none": (shard({"a": None}, 0), "no object of dtype"),
    "tensor_twice": (shard(b'{"a": %b, "a": %b}' % ((json.dumps(F32).encode(),) * 2), 16), "twice"),
    "dtype_twice": (
        shard(b'{"a": {"dtype": "F64", "dtype": "F32", "shape": [2, 2], "data_offsets": [0, 16]}}', 16),
        "twice",
    ),
    "deep_lists": (shard(b'{"a":' + b"[" * 100_000 + b"]" * 100_000 + b"}", 0), "nested too deeply"),
    "deep_objects": (shard(b'{"a":' * 100_000 + b"1" + b"}" * 100_000, 0), "nested too deeply"),
    "longer_than_the_file": (struct.pack("<Q", 2**20) + b"{}", "no valid safetensors header"),
    "longer_than_all_memory": (struct.pack("<Q", 2**64 - 1) + b"{}", "no valid safetensors header"),
    "seven_bytes": (b"\1\0\0\0\0\0\0", "no valid safetensors header"),
    "no_bytes": (b"", "no valid safetensors header"),
    "more_data": (shard(entry(), 17), "truncated or damaged"),
    "less_data": (shard(entry(), 15), "truncated or damaged"),
}
GOOD = {
    "one": shard(entry(), 16),
    "two": shard({"b": NEXT, "a": F32}, 20),
    "scalar": shard(entry(shape=[], data_offsets=[0, 4]), 4),
    "nothing_in_it": shard({"a": F32, "b": {"dtype": "F32", "shape": [0, 7], "data_offsets": [16, 16]}}, 16),
    "padded": shard(json.dumps(entry()).encode() + b"   ", 16),
    "metadata": shard({"__metadata__": {"format": "pt"}, **entry()}, 16),
    "eight_bits": shard(entry(dtype="F8_E4M3", shape=[16]), 16),
}
# What the format's own reader lets pass: other readers may take it in another way.
STRICTER = {"no_tensors", "metadata_alone", "tensor_twice", "dtype_twice", "tensor_a_list"}


@pytest.mark.parametrize(("content", "reason"), BAD.values(), ids=BAD)
def test_a_header_that_lies_is_one_sentence_that_names_the_file(tmp_path, content, reason):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(reason)) as caught:
        check_shard(path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("content", GOOD.values(), ids=GOOD)
def test_what_the_formats_reader_reads_passes(tmp_path, content):
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with safe_open(path, "pt") as file:
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118
    assert check_shard(path) == shapes


@pytest.mark.parametrize("name", [name for name in BAD if name not in STRICTER])
def test_the_formats_reader_refuses_the_same(tmp_path, name):
    """The judgement is no stricter than the format, but for what `STRICTER` names."""
    path = tmp_path / "model.safetensors"
    path.write_bytes(BAD[name][0])
    with pytest.raises((SafetensorError, OSError, ValueError)), safe_open(path, "pt"):
        pass


@pytest.mark.parametrize("name", ["overlap", "gap", "shape_a_number", "no_tensors", "deep_objects", "dtype_too_wide"])
def test_such_weights_are_not_converted_loaded_or_pushed(hub, base, variant, tmp_path, name):
    for folder in (base, variant):
        (folder / "model.safetensors").write_bytes(BAD[name][0])
    before = tree(tmp_path)
    with pytest.raises(ValueError, match=re.escape(BAD[name][1])):
        convert_checkpoint(base, tmp_path / "out")
    with pytest.raises(ValueError, match=re.escape(BAD[name][1])):
        load_pruned(base)
    assert BAD[name][1] in hub.run("push", variant, "org/lean-llava").error
    assert tree(tmp_path) == before


# Files of a checkpoint that are no files. A named pipe would be waited for, and a device never ends.
SPECIAL = {
    "pipe": (lambda path: os.mkfifo(path), "a named pipe"),
    "device": (lambda path: path.symlink_to("/dev/zero"), "a device"),
    "folder": (lambda path: path.mkdir(), "a folder"),
    "broken_link": (lambda path: path.symlink_to("nowhere"), "cannot be read"),
    "link_to_itself": (lambda path: path.symlink_to(path.name), "cannot be read"),
}
READ = ["config.json", "processor_config.json", "tokenizer_config.json", "generation_config.json", "model.safetensors"]
READ += ["tokenizer.json", "chat_template.jinja", "special_tokens_map.json", "preprocessor_config.json"]
COMMAND = "import sys; from divprune_hf.cli import main; sys.exit(main(sys.argv[1:]))"


@pytest.mark.parametrize("name", READ)
@pytest.mark.parametrize(("make", "kind"), SPECIAL.values(), ids=SPECIAL)
def test_what_is_no_file_is_named_and_not_waited_for(base, tmp_path, make, kind, name):
    path = base / name
    path.unlink(missing_ok=True)
    make(path)
    with pytest.raises(ValueError, match=f"{re.escape(name)} .*{kind}"):
        convert_checkpoint(base, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    if name in ("config.json", "model.safetensors"):
        with pytest.raises(ValueError, match=f"{re.escape(name)} .*{kind}"):
            load_pruned(base)


@pytest.mark.parametrize(("make", "kind"), SPECIAL.values(), ids=SPECIAL)
@pytest.mark.parametrize("command", ["convert", "verify", "push", "ask"])
def test_a_command_says_so_in_one_line_with_code_2(make_checkpoint, tmp_path, command, make, kind):
    folder = shutil.copytree(make_checkpoint().variant, tmp_path / "variant")
    (folder / "config.json").unlink()
    make(folder / "config.json")
    (tmp_path / "photo.png").write_bytes(PNG)
    arguments = {
        "convert": [folder, tmp_path / "out"],
        "verify": [folder],
        "push": [folder, "org/lean"],
        "ask": [folder, tmp_path / "photo.png", "w1"],
    }[command]
    result = warm_python.run(
        [sys.executable, "-c", COMMAND, command, *map(str, arguments)], capture_output=True, text=True, timeout=120
    )
    assert result.returncode == 2, result.stderr
    (line,) = [line for line in result.stderr.splitlines() if line.startswith("divprune-hf: error: ")]
    assert "config.json" in line or "leads out of the folder" in line
    assert "Traceback" not in result.stderr


PNG = bytes.fromhex(
    "89504e470d0a1a0a0000000d4948445200000001000000010802000000907753de0000000c49444154789c63606060000000040001f6173855"
    "0000000049454e44ae426082"
)


@pytest.mark.parametrize("name", ["x.py", "deep/x.py", "notes", "README.md"])
def test_a_pipe_anywhere_in_a_variant_is_not_waited_for(hub, variant, name):
    path = variant / name
    path.parent.mkdir(exist_ok=True)
    path.unlink(missing_ok=True)
    os.mkfifo(path)
    assert "a named pipe" in hub.run("push", variant, "org/lean-llava").error
    assert "a named pipe" in hub.run("verify", variant).error


BAD_JSON = {
    "deep": b'{"a":' * 100_000 + b"1" + b"}" * 100_000,
    "deep_list": b'{"a":' + b"[" * 100_000,
    "deep_for_python_alone": b'{"a":' + b"[" * 400 + b"]" * 400 + b"}",
    "twice": b'{"model_type": "llava", "model_type": "evil"}',
    "many_digits": b'{"a": 1' + b"0" * 5000 + b"}",
    "no_utf8": b'{"a": "\xff"}',
    "utf16": '{"a": 1}'.encode("utf-16"),
    "a_list": b"[]",
    "a_number": b"7",
    "null": b"null",
    "nothing": b"",
}


@pytest.mark.parametrize("name", ["config.json", "generation_config.json", "tokenizer_config.json"])
@pytest.mark.parametrize("content", BAD_JSON.values(), ids=BAD_JSON)
def test_json_that_is_no_object_is_one_sentence_that_names_the_file(base, tmp_path, name, content):
    (base / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(str(base / name))) as caught:
        convert_checkpoint(base, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()


def edit_part(base, part, **changes):
    edit_json(base / "config.json", **{part: {**load_json(base / "config.json")[part], **changes}})


UNFIT, UNBUILT = "does not fit its weights", "No model can be built"
# Configs that today's models cannot be built from, or whose models are other than the weights.
IMPOSSIBLE = {
    "more_layers": (lambda base: edit_part(base, "text_config", num_hidden_layers=3), UNFIT),
    "other_vocabulary": (lambda base: edit_part(base, "text_config", vocab_size=120), UNFIT),
    "wider": (lambda base: edit_part(base, "text_config", hidden_size=64), UNFIT),
    "other_projector": (lambda base: edit_json(base / "config.json", projector_hidden_act="nothing"), UNBUILT),
    "no_projector_bias": (lambda base: edit_part(base, "vision_config", intermediate_size=65), UNFIT),
    "odd_heads": (lambda base: edit_part(base, "text_config", num_attention_heads=0), ""),
    "negative_width": (lambda base: edit_part(base, "text_config", hidden_size=-32), ""),
    "text_width": (lambda base: edit_part(base, "text_config", hidden_size="wide"), ""),
    "null_width": (lambda base: edit_part(base, "text_config", hidden_size=None), ""),
    "huge_width": (lambda base: edit_part(base, "text_config", intermediate_size=2**62), ""),
    "more_tower_layers": (lambda base: edit_part(base, "vision_config", num_hidden_layers=9), UNFIT),
    "other_tower": (lambda base: edit_part(base, "vision_config", model_type="dinov2"), ""),
    "other_language_model": (lambda base: edit_part(base, "text_config", model_type="gpt2"), ""),
    "unknown_activation": (lambda base: edit_part(base, "text_config", hidden_act="nothing"), UNBUILT),
    "placeholder_beyond": (lambda base: edit_json(base / "config.json", image_token_index=9999), UNBUILT),
    "placeholder_negative": (lambda base: edit_json(base / "config.json", image_token_index=-1), UNBUILT),
    "feature_layer": (lambda base: edit_json(base / "config.json", vision_feature_layer=-40), UNBUILT),
    "patch_size_zero": (lambda base: edit_part(base, "vision_config", patch_size=0), ""),
}


@pytest.mark.parametrize(("spoil", "reason"), IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_a_config_that_no_model_of_these_weights_has_is_refused(base, tmp_path, spoil, reason):
    spoil(base)
    with pytest.raises(ValueError, match=reason or "config") as caught:
        convert_checkpoint(base, tmp_path / "out")
    assert "\n" not in str(caught.value) and not (tmp_path / "out").exists()
