"""The cards in `model_cards/` are what the table says, hold valid metadata, tell whose figures they show, and run."""

import re
import runpy
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml
from PIL import Image
from transformers import LlamaConfig

import divprune_hf
from divprune_hf import convert_checkpoint, keep_count
from divprune_hf.cards.flops import prompt_flops
from divprune_hf.cards.metadata import check_metadata
from divprune_hf.cards.variants import asset, read_table
from divprune_hf.checkpoints.families import FAMILIES
from divprune_hf.common.pocket_llava import pocket_llava


ROOT = Path(__file__).parents[2]
NAMES = [
    "llava-1.5-7b",
    "llava-1.5-13b",
    "llava-v1.6-vicuna-7b",
    "llava-v1.6-mistral-7b",
    "llava-next-video-7b",
    "llava-interleave-qwen-0.5b",
    "llava-onevision-qwen2-7b",
    "pocket-llava",
]
CARDS = {name: (ROOT / "model_cards" / name / "README.md").read_text(encoding="utf-8") for name in NAMES}


def metadata(card):
    return yaml.safe_load(card.split("---\n")[1])


def test_the_table_has_these_variants():
    assert list(read_table()[1]) == NAMES
    assert {path.parent.name for path in (ROOT / "model_cards").glob("*/README.md")} == set(NAMES)


@pytest.fixture(scope="module")
def render_cards():
    """The script of `make cards`."""
    assert "python scripts/render_cards.py\n" in (ROOT / "Makefile").read_text(encoding="utf-8")
    return runpy.run_path(str(ROOT / "scripts" / "render_cards.py"))["main"]


def test_no_card_is_stale(render_cards, capsys):
    assert render_cards(["--check"]) == 0, f"run `make cards`: {capsys.readouterr().out}"


def test_a_stale_card_is_noticed_and_rendered_again(render_cards, tmp_path):
    assert render_cards(["--check", "--out", str(tmp_path)]) == 1 and not list(tmp_path.iterdir())
    assert render_cards(["--out", str(tmp_path)]) == 0
    assert {path.parent.name: path.read_text(encoding="utf-8") for path in tmp_path.glob("*/README.md")} == CARDS
    stale = tmp_path / "llava-1.5-7b" / "README.md"
    stale.write_text(CARDS["llava-1.5-7b"].replace("15.6%", "10.0%"), encoding="utf-8")
    assert render_cards(["--check", "--out", str(tmp_path)]) == 1
    assert render_cards(["--out", str(tmp_path)]) == 0 and stale.read_text(encoding="utf-8") == CARDS["llava-1.5-7b"]


@pytest.mark.parametrize("name", NAMES)
def test_metadata_follows_the_rules(name):
    check_metadata(CARDS[name])
    data, row = metadata(CARDS[name]), read_table()[1][name]
    assert data["library_name"] == "transformers" and data["pipeline_tag"] == "image-text-to-text"
    assert {"divprune", "llava", "visual-token-pruning"} <= set(data["tags"])
    assert data["license"] == row.licence.id
    if name != "pocket-llava":  # whose base is not on the Hub
        assert data["base_model"] == row.base and data["base_model_relation"] == "finetune"


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ("license: llama2", "license: llama-2", "license='llama-2'"),
        ("license: llama2", "license: other", "license_name and license_link"),
        ("license: llama2\n", "", "license=None"),
        ("library_name: transformers", "library_name: peft", "library_name='peft'"),
        ("pipeline_tag: image-text-to-text\n", "", "pipeline_tag=None"),
        ("- divprune\n", "", "tags="),
        ("base_model: llava-hf/", "base_model: llava-hf/a/", "base_model='llava-hf/a/"),
        ("base_model_relation: finetune", "base_model_relation: pruned", "base_model_relation='pruned'"),
        ("base_model_relation: finetune\n", "", "base_model_relation=None"),
        ("license: llama2", "license: [", "no readable metadata"),
    ],
)
def test_broken_metadata_is_refused(old, new, reason):
    card = CARDS["llava-1.5-7b"]
    assert old in card
    with pytest.raises(ValueError, match=re.escape(reason)):
        check_metadata(card.replace(old, new, 1))


# The paper's mean FLOP ratios (its section on efficiency), which the cards' own counts must come to.
RATIOS = {
    "llava-1.5-7b": "15.6%",
    "llava-1.5-13b": "15.7%",
    "llava-v1.6-vicuna-7b": "10.8%",
    "llava-next-video-7b": "14.1%",
}


@pytest.mark.parametrize(("name", "ratio"), RATIOS.items())
def test_flop_ratios_are_the_papers(name, ratio):
    assert f"| the same, as a share | 100% | {ratio} |" in CARDS[name]


def test_tokens_kept_are_counted():
    assert "| visual tokens per image | 576 | 56 |" in CARDS["llava-1.5-7b"]
    assert "| visual tokens per image | 729 | 71 |" in CARDS["llava-interleave-qwen-0.5b"]
    assert "| visual tokens per video | 1,152 | 115 |" in CARDS["llava-next-video-7b"]
    assert "| visual tokens per image | 2,929 | 287 |" in CARDS["llava-onevision-qwen2-7b"]
    assert f"| visual tokens per image | 256 | {keep_count(256, retention_ratio=0.098)} |" in CARDS["pocket-llava"]
    sizes = LlamaConfig(hidden_size=128, intermediate_size=256, num_hidden_layers=6)
    share = prompt_flops(sizes, 10, 256, 25) / prompt_flops(sizes, 10, 256)
    assert f"| the same, as a share | 100% | {share:.1%} |" in CARDS["pocket-llava"]


@pytest.mark.parametrize("name", NAMES)
def test_whose_figures_they_are_is_said(name):
    card, row = CARDS[name], read_table()[1][name]
    assert "**The paper's figures" in card and "**Our figures" in card
    assert ("its authors' measurements" in card) == (row.paper is not None)
    assert ("not measured" in card) == (row.measured is None)
    if row.measured:
        assert all(row.measured[key] in card for key in ("script", "hardware", "date"))


@pytest.mark.parametrize("name", NAMES)
def test_limits_usage_and_citation_are_there(name):
    for text in (
        "Text-heavy images",
        "decoding costs",
        "does not see the question",
        "@inproceedings{alvar2025divprune",
    ):
        assert text in CARDS[name]
    for call in ("AutoModelForImageTextToText", 'pipeline("image-text-to-text"'):
        assert call in CARDS[name]
    is_late = FAMILIES[read_table()[1][name].family].names.release > (5, 19)
    assert ("from vllm import LLM" in CARDS[name]) != is_late and ("not been tried in vLLM" in CARDS[name]) == is_late
    assert ("needs transformers 5.20 or later. It is tested with 5.20.2, 5.24.0." in CARDS[name]) == is_late


def blocks(card, name):
    """The Python blocks of a card, with the repo's id and its tag made the same for all."""
    assert f'revision="v{divprune_hf.__version__}"' in card
    return re.findall(r"```python\n(.*?)```", card.replace(f"org/{name}-divprune", "org/stand-in"), flags=re.DOTALL)


ALL_BLOCKS = sorted({block for name, card in CARDS.items() for block in blocks(card, name)})
PICTURE_BLOCKS = [block for block in ALL_BLOCKS if "vllm" not in block and "clip.mp4" not in block]


def run_in_folder_with_stand_in(folder, run_isolated, code, **variables):
    convert_checkpoint(pocket_llava(), folder / "org" / "stand-in")
    Image.open(pocket_llava() / "examples" / "scene_00.png").save(folder / "photo.png")
    return run_isolated(f"import os\nos.chdir({str(folder)!r})\n{code}", **variables)


@pytest.mark.parametrize("code", PICTURE_BLOCKS, ids=["auto", "pipeline"])
def test_code_blocks_run_on_pocket_llava(tmp_path, run_isolated, code):
    output = run_in_folder_with_stand_in(tmp_path, run_isolated, code)
    assert re.search(r"\b(yes|no)\b", output), output


def test_the_video_block_runs_on_a_tiny_model(tmp_path, run_isolated, make_checkpoint, video_files):
    (code,) = [block for block in ALL_BLOCKS if "clip.mp4" in block]
    assert code in blocks(CARDS["llava-next-video-7b"], "llava-next-video-7b")
    (tmp_path / "org").mkdir()
    (tmp_path / "org" / "stand-in").symlink_to(make_checkpoint(family="llava_next_video").variant)
    (tmp_path / "clip.mp4").symlink_to(video_files[0])
    assert run_isolated(f"import os\nos.chdir({str(tmp_path)!r})\n{code}").strip()


VLLM_BLOCK = next(block for block in ALL_BLOCKS if "vllm" in block)


def test_original_positions_are_told_in_place_of_the_engine_that_refuses_them(tmp_path):
    card = convert_checkpoint(pocket_llava(), tmp_path / "variant", {"positions": "original"}).joinpath("README.md")
    text = card.read_text(encoding="utf-8")
    assert '`positions` is "original"' in text and "from vllm" not in text
    assert "from vllm" in CARDS["pocket-llava"] and "`positions`" not in CARDS["llava-1.5-7b"]


def test_a_deeper_layer_is_told(tmp_path):
    card = convert_checkpoint(pocket_llava(), tmp_path / "variant", {"layer": 2}).joinpath("README.md")
    text = card.read_text(encoding="utf-8")
    assert "drops the rest in front of decoder layer 2." in text and "`layer` is 2" in text and "from vllm" not in text


def test_the_vllm_block_is_python_and_pins_code_and_weights():
    compile(VLLM_BLOCK, "README.md", "exec")
    pin = f'"v{divprune_hf.__version__}"'
    assert f"revision={pin}" in VLLM_BLOCK and f"code_revision={pin}" in VLLM_BLOCK


@pytest.mark.skipif(not find_spec("vllm"), reason="vLLM is not installed: its block of the cards was not run")
def test_the_vllm_block_runs_on_pocket_llava(tmp_path, run_isolated):
    variables = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_HOST_IP": "127.0.0.1"}  # for builds without a GPU
    small = VLLM_BLOCK.replace("trust_remote_code=True", "trust_remote_code=True, gpu_memory_utilization=0.2")
    output = run_in_folder_with_stand_in(tmp_path, run_isolated, small, **variables)
    assert re.search(r"\b(yes|no)\b", output), output


def test_the_training_record_is_part_of_the_card():
    """pocket-llava's training record is part of its card, word for word."""
    assert asset("pocket-llava.md").strip() in CARDS["pocket-llava"]
