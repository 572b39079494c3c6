"""Code by the back door: no JSON file of a checkpoint or a variant makes anything foreign run, or load."""

import json
import re
import shutil

import pytest

from divprune_hf import convert_checkpoint
from divprune_hf.inference.loading import load_pruned
from tests.helpers.folders import edit_json, load_json, tree
from tests.helpers.foreign_files import CASES, LEFT_OUT, REFUSED
from tests.helpers.hub_parts import CAN_COPY, commits


NAME, FRESH = "org/lean-llava", "llava-hf/llava-1.5-13b-hf"
UPLOAD = [] if CAN_COPY else ["--upload-weights"]
EVIL = "open({ran!r}, 'w').close()\nraise SystemExit('foreign code ran')\n"


@pytest.fixture(autouse=True)
def ran(tmp_path):
    """Where foreign code would leave a trace; no test does."""
    trace = tmp_path / "ran"
    yield trace
    assert not trace.exists()


def hide_code(folder, ran):
    """What the cases point to: Python files, and a config that is read in place of the other."""
    for name in ("evil.py", "custom_generate/generate.py"):
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(EVIL.format(ran=str(ran)))
    other = {**load_json(folder / "config.json"), "auto_map": {"AutoConfig": "evil.Config"}}
    (folder / "config.4.0.0.json").write_text(json.dumps(other))


def all_keys(content):
    """Every key in a JSON value, at any depth."""
    parts = content.values() if isinstance(content, dict) else content if isinstance(content, list) else ()
    own = set(content) if isinstance(content, dict) else set()
    return own.union(*map(all_keys, parts))


def assert_names(case, error):
    """An error says where the foreign thing stands, or what it is."""
    assert case.file in error or case.named in error


def texts(folder):
    return "".join(path.read_text() for path in folder.rglob("*.json*") if path.name != "tokenizer.json")


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_base_with_it_is_refused_or_converted_without_it(base, tmp_path, ran, case, capsys):
    hide_code(base, ran)
    case.apply(base)
    before = tree(tmp_path)
    if case.outcome == REFUSED:
        with pytest.raises(ValueError, match=re.escape(case.named)):
            convert_checkpoint(base, tmp_path / "out")
        assert tree(tmp_path) == before
        return
    out = convert_checkpoint(base, tmp_path / "out")
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Left out")]
    assert case.named in line
    left = all_keys(case.put) - {"sp_model_kwargs"}  # whose harmless settings are kept
    assert left and not left & all_keys(load_json(out / case.file))
    assert not re.search(r"evil|/etc/passwd", texts(out))
    assert not [path for path in out.rglob("*.py") if "evil" in path.name or path.parent != out]


REFUSALS = {name: case for name, case in CASES.items() if case.outcome == REFUSED}


@pytest.mark.parametrize("case", REFUSALS.values(), ids=REFUSALS)
def test_a_base_or_variant_with_it_is_not_loaded(base, variant, ran, case):
    for folder in (base, variant):
        hide_code(folder, ran)
        case.apply(folder)
        with pytest.raises(ValueError, match=re.escape(case.named)):
            load_pruned(folder, trust_remote_code=True)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_variant_folder_with_it_is_not_verified(hub, variant, case):
    case.apply(variant)
    assert_names(case, hub.run("verify", variant).error)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_variant_with_it_is_not_pushed(hub, variant, ran, case):
    hide_code(variant, ran)
    shutil.rmtree(variant / "custom_generate")
    (variant / "evil.py").unlink()
    case.apply(variant)
    assert_names(case, hub.run("push", variant, NAME, load=True).error)
    assert NAME not in hub.store.repos and commits(hub) == 0


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_a_published_variant_with_it_is_not_verified(hub, variant, case):
    """Also without a base to compare with: the keys alone tell."""
    edit_json(variant / "config.json", remove=["divprune_base"])
    case.apply(variant)
    hub.store.add(NAME, variant)
    assert_names(case, hub.run("verify", NAME).error)


PUBLISHED = ["custom_pipelines", "configuration_files", "audio_tokenizer", "attn_internal", "auto_map_deep", "unknown"]
PUBLISHED += ["tokenizer_class", "compiler", "vocab_file", "custom_generate"]


@pytest.mark.parametrize("name", PUBLISHED)
def test_a_hub_base_with_it_is_refused_or_published_without_it(hub, base, ran, name):
    case = CASES[name]
    hide_code(base, ran)
    case.apply(base)
    hub.store.add(FRESH, base)
    answer = hub.run("publish", FRESH, NAME, "--num-tokens", "5", *UPLOAD, load=True)
    if case.outcome == REFUSED:
        assert case.named in answer.error and NAME not in hub.store.repos
        return
    assert answer.code == 0 and case.named in answer.out
    repo = hub.store.repos[NAME]
    assert not set(case.put) & all_keys(json.loads(repo.files()[case.file].content))
    assert not any("evil" in path or "custom_generate" in path for path in repo.files())
    assert "Python files are those" in hub.succeed("verify", NAME).out


def test_a_stock_bases_own_record_of_a_base_reaches_neither_card_nor_config(base, tmp_path, capsys):
    recorded = {"repo_id": "evil/repo", "commit": "0" * 40}
    edit_json(base / "config.json", divprune_base=recorded, divprune_config={"num_tokens": 3})
    out = convert_checkpoint(base, tmp_path / "out")
    assert "divprune_base" in capsys.readouterr().err
    config = load_json(out / "config.json")
    assert "divprune_base" not in config and config["divprune_config"] == {"retention_ratio": 0.098, "order": "raster"}
    assert "evil/repo" not in (out / "README.md").read_text()


RUN_BY_STOCK = """
import sys
from transformers import AutoConfig, AutoModelForImageTextToText
load = {"config": AutoConfig, "model": AutoModelForImageTextToText}[sys.argv[2]]
load.from_pretrained(sys.argv[1], trust_remote_code=True)
"""


@pytest.mark.parametrize("way", ["configuration_files", "auto_map", "custom_generate"])
def test_stock_transformers_runs_what_is_refused_here(base, run_isolated, tmp_path, way):
    """The attacks are real: the same files, loaded without a judgement, leave their trace."""
    trace = tmp_path / "ran_by_stock"
    hide_code(base, trace)
    if way != "custom_generate":
        put = {"configuration_files": ["config.4.0.0.json"], "auto_map": {"AutoConfig": "evil.Config"}}
        edit_json(base / "config.json", **{way: put[way]})
        edit_json(base / "config.json", remove=["model_type"])
    with pytest.raises(AssertionError, match="foreign code ran"):
        run_isolated(RUN_BY_STOCK, base, "model" if way == "custom_generate" else "config")
    assert trace.exists()


def test_the_table_has_both_outcomes():
    outcomes = [case.outcome for case in CASES.values()]
    assert len(CASES) >= 70 and outcomes.count(LEFT_OUT) >= 20 and outcomes.count(REFUSED) >= 45
