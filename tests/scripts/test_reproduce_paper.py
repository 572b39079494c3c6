"""The paper's tables as runs of lmms-eval: names that exist, commands that run, results beside the paper's figures."""

import json
import shlex
from dataclasses import replace
from pathlib import Path

import pytest

from divprune_hf.common.pocket_llava import pocket_llava
from divprune_hf.engines.lmms_questions import write_task
from scripts import reproduce_paper
from scripts.paper_tables import DATASETS, MODELS, SETTINGS, Dataset
from scripts.reproduce_paper import Run, cell, main, planned


HELD_OUT = Path(__file__).parents[1] / "data" / "pocket_heldout" / "questions.jsonl"


def test_the_tables_hold_what_the_paper_prints():
    assert sum(dataset.table == 1 for dataset in DATASETS.values()) == 11 and len(DATASETS) == 16
    for model in MODELS.values():
        columns = [name for name, dataset in DATASETS.items() if dataset.table == model.table]
        assert list(model.original) == list(model.pruned) == columns
    seven, video = MODELS["llava-1.5-7b"], MODELS["llava-next-video-7b"]
    assert (seven.original["mme"], seven.pruned["pope"], seven.pruned["seed"]) == ("1506", "86.02", "59.47")
    assert (video.original["videochatgpt"], video.pruned["egoschema"]) == ("2.16", "39.76")


def test_every_task_and_metric_is_one_of_lmms_eval():
    pytest.importorskip("lmms_eval", reason="lmms-eval is installed apart: docs/evaluation.md")
    from lmms_eval import utils
    from lmms_eval.tasks import TaskManager

    tasks = TaskManager("ERROR")
    for dataset in DATASETS.values():
        for task, metric in dataset.metrics:
            assert task in tasks.all_subtasks, task
            config = utils.load_yaml_config(tasks.task_index[task]["yaml_path"], mode="simple")
            assert metric in [entry["metric"] for entry in config["metric_list"]], (task, metric)
            assert config["output_type"] == "generate_until"


def test_commands_name_model_budget_order_and_task(capsys):
    assert main(["--model", "llava-1.5-13b", "--tables", "1", "--out", "there", "--limit", "4"]) == 0
    commands = [shlex.split(line) for line in capsys.readouterr().out.splitlines()]
    assert len(commands) == 3 * 11
    asked = [(words[words.index("--model_args") + 1], words[words.index("--tasks") + 1]) for words in commands]
    base = "pretrained=llava-hf/llava-1.5-13b-hf"
    assert (f"{base},retention_ratio=1.0", "coco2017_cap_val") in asked
    assert (f"{base},retention_ratio=0.098,order=selection", "pope") in asked
    assert (f"{base},retention_ratio=0.098,order=raster", "seedbench") in asked
    assert len({words[words.index("--output_path") + 1] for words in commands}) == len(commands)
    assert all(words[-2:] == ["--limit", "4"] for words in commands)
    assert main(["--tables", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 3 * 5 and all("LLaVA-NeXT-Video-7B-hf,video_retention_ratio=" in line for line in lines)
    assert sum("frames_of_video=true" in line for line in lines) == 3
    assert main(["--model", "llava-1.5-7b", "--tables", "2"]) == 2


@pytest.mark.parametrize(
    ("paper", "measured", "limit", "expected"),
    [
        ("85.84", 85.7, None, "85.84 / 85.70 / -0.14"),
        (".96", 1.0049, None, ".96 / 1.00 / +0.04"),
        ("1506", 1510.6, 5, "1506 / 1511 / +5 (limit 5)"),
        ("38.7", None, None, "38.7 / - / -"),
    ],
)
def test_a_cell_is_paper_ours_and_difference(paper, measured, limit, expected):
    assert cell(paper, measured, limit) == expected


def write_results(run, out, results, model_args=None, date="1", limit=None):
    folder = run.folder(out) / "weights"
    folder.mkdir(parents=True, exist_ok=True)
    config = {"model_args": model_args or f"pretrained=x,{run.model_args}", "limit": limit}
    content = {"results": results, "config": config}
    (folder / f"2026110{date}_results.json").write_text(json.dumps(content), encoding="utf-8")


def test_several_metrics_are_averaged_and_the_newest_run_counts(tmp_path, capsys):
    run = Run("llava-next-video-7b", "selection", "videochatgpt")
    score = {f"{metric},none": 1.0 for _, metric in DATASETS["videochatgpt"].metrics}
    tasks = DATASETS["videochatgpt"].tasks
    write_results(run, tmp_path, {task: dict.fromkeys(score, 5.0) for task in tasks})
    write_results(run, tmp_path, {task: {**score, "gpt_eval_score_temporal,none": 2.0} for task in tasks}, date="2")
    assert main(["--model", "llava-next-video-7b", "--out", str(tmp_path), "--collect"]) == 0
    rows = capsys.readouterr().out.splitlines()
    assert "2.16 / - / -" in rows[2] and "1.92 / - / -" in rows[4]
    assert "1.92 / 1.20 / -0.72" in rows[3] and rows[2].count("- / -") == 5 and rows[3].count("- / -") == 4


def test_figures_stand_on_the_papers_scale(tmp_path, capsys):
    for name, value in (("pope", 0.85), ("mme", 1330.4)):
        ((task, metric),) = DATASETS[name].metrics
        write_results(Run("llava-1.5-7b", "raster", name), tmp_path, {task: {f"{metric},none": value}}, limit=9)
    assert main(["--model", "llava-1.5-7b", "--out", str(tmp_path), "--collect"]) == 0
    row = capsys.readouterr().out.splitlines()[4]
    assert "86.02 / 85.00 / -1.02 (limit 9)" in row and "1328 / 1330 / +2 (limit 9)" in row


def test_results_of_other_settings_are_refused(tmp_path):
    run = Run("llava-1.5-7b", "raster", "pope")
    write_results(run, tmp_path, {"pope": {"pope_f1_score,none": 0.8}}, "pretrained=x,retention_ratio=0.5,order=raster")
    with pytest.raises(ValueError, match="retention_ratio=0.5,order=raster, expected retention_ratio=0.098 among them"):
        main(["--model", "llava-1.5-7b", "--out", str(tmp_path), "--collect"])


def test_a_real_run_is_collected_and_a_failed_one_named(tmp_path, monkeypatch, capsys):
    """pocket-llava and its questions in the place of a row and two columns of the paper."""
    pytest.importorskip("lmms_eval", reason="lmms-eval is installed apart: docs/evaluation.md")
    write_task(HELD_OUT, tmp_path / "tasks", name="pocket", every=100)
    columns = {"pocket": Dataset("Pocket", 1, (("pocket", "accuracy"),), scale=100)}
    columns["absent"] = Dataset("Absent", 1, (("no_such_task", "accuracy"),), needs="a task")
    figures = {"pocket": "90.0", "absent": "1"}
    row = replace(MODELS["llava-1.5-7b"], repo_id=str(pocket_llava()), original=figures, pruned=figures)
    for table, content in ((DATASETS, columns), (MODELS, {"llava-1.5-7b": row})):
        monkeypatch.setattr(reproduce_paper, "DATASETS" if table is DATASETS else "MODELS", content)
    monkeypatch.setenv("HF_DATASETS_OFFLINE", "1")
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(reproduce_paper, "SETTINGS", {name: SETTINGS[name] for name in ("all", "raster")})
    command = ["--out", str(tmp_path / "runs"), "--include-path", str(tmp_path / "tasks"), "--device", "cpu"]
    assert main([*command, "--run", "--datasets", "pocket"]) == 0
    table = capsys.readouterr().out
    stored = {}
    for setting in ("all", "raster"):
        results = reproduce_paper.stored_results(Run("llava-1.5-7b", setting, "pocket"), tmp_path / "runs")
        stored[setting] = 100 * results["results"]["pocket"]["accuracy,none"]
        assert f"| 90.0 / {stored[setting]:.1f} / {stored[setting] - 90:+.1f} | 1 / - / - |" in table
    assert stored["all"] > stored["raster"] > 30
    assert main([*command, "--run"]) == 1  # what has results is not run again
    said = capsys.readouterr()
    assert said.out.count("$ ") == 2 and said.err.count("absent: no figure (exit code 0; it needs a task)") == 2


def test_runs_of_one_model_and_setting_stand_together():
    runs = planned(["llava-1.5-7b", "llava-1.6-7b"], [1, 2], ["pope", "gqa"])
    assert [(run.model[6:9], run.setting) for run in runs[::2]] == [
        (model, setting) for model in ("1.5", "1.6") for setting in SETTINGS
    ]
