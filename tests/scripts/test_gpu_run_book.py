"""`make gpu`: stages that end well, fail or take too long; what is resumed; its targets, on figures of real runs."""

import json
import sys

import pytest
import torch

from divprune_hf.cli.parser import build_parser
from scripts import gpu_run_book as book
from scripts.gpu_run_book import BENCH, ROOT, STAGES, TARGETS, Stage, ratio, selection_ms
from tests.helpers import devices


TINY = (
    Stage("selection", (*BENCH, "selection", "--shapes", "64/6", "576/56", "--long", "--repeats", "1"), 300),
    Stage("failing", ("-c", "print('what went wrong'); raise SystemExit(3)"), 60),
    Stage("slow", ("-c", "import time; time.sleep(60)"), 1),
    Stage("absent", ("-c", "pass"), 60, needs="no_such_module"),
    Stage("plain", ("-c", "print('2 passed')"), 60),
)


def run(monkeypatch, capsys, *arguments):
    """Run the script; return its exit code or its last words, and what it printed."""
    monkeypatch.setattr(sys, "argv", ["gpu_run_book.py", *map(str, arguments)])
    with pytest.raises(SystemExit) as stopped:
        book.main()
    return stopped.value.code, capsys.readouterr().out


def test_stages_write_what_they_measured_and_others_go_on(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(book, "STAGES", TINY)
    code, printed = run(monkeypatch, capsys, "--on-cpu", "--out", tmp_path)
    assert code == 1
    assert {path.name for path in tmp_path.iterdir()} == {
        *("selection.json", "plain.json", "selection.log", "failing.log", "slow.log", "plain.log")
    }
    assert (tmp_path / "failing.log").read_text() == "what went wrong\n" and "failing: exit code 3, see" in printed
    assert "slow: exit code 124" in printed and "absent: left out, no_such_module is not installed" in printed
    plain = json.loads((tmp_path / "plain.json").read_text())
    assert (plain["exit_code"], plain["summary"]) == (0, ["2 passed"]) and plain["hardware"] and plain["date"]
    measured = json.loads((tmp_path / "selection.json").read_text())
    assert selection_ms(576, "torch")(measured) > 0
    rows = [line for line in printed.splitlines() if line.startswith("|")]
    assert len(rows) == 2 + len(TARGETS)
    assert any("selection of 576/56" in row and "not in selection.json" in row for row in rows)  # no Triton here
    assert any("LLaVA-1.6-7B" in row and "not measured" in row for row in rows)


def test_a_second_run_does_only_what_is_missing(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(book, "STAGES", TINY)
    run(monkeypatch, capsys, "--on-cpu", "--out", tmp_path, "--stages", "plain", "failing")
    before = (tmp_path / "plain.json").stat().st_mtime_ns
    code, printed = run(monkeypatch, capsys, "--on-cpu", "--out", tmp_path, "--stages", "plain")
    assert code == 0 and "plain: there already" in printed
    assert (tmp_path / "plain.json").stat().st_mtime_ns == before and not (tmp_path / "selection.json").exists()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_without_a_gpu_nothing_is_run(tmp_path, monkeypatch, capsys):
    code, printed = run(monkeypatch, capsys, "--out", tmp_path / "out")
    assert code == "make gpu needs a CUDA GPU: torch finds none here. Nothing was run."
    assert not printed and not list(tmp_path.iterdir())


def test_targets_are_read_from_the_figures_of_a_comparison():
    written = json.loads((ROOT / "docs" / "performance" / "tiny-cpu.json").read_text())
    by_path = {row["path"]: row for row in written["rows"] if (row["batch"], row["budget"]) == (4, 0.098)}
    expected = by_path["divprune"]["prefill_ms"] / by_path["oracle"]["prefill_ms"]
    assert ratio(4, "prefill_over_oracle")(written) == pytest.approx(expected)
    least = next(target for target in TARGETS if target.more_is_better)
    assert least.is_met(least.target) and not least.is_met(least.target - 0.1)
    most = next(target for target in TARGETS if not target.more_is_better)
    assert most.is_met(most.target) and not most.is_met(most.target + 0.1)


def test_every_stage_is_short_and_its_command_exists():
    for stage in STAGES:
        assert stage.seconds < 9 * 60
        if stage.is_benchmark:
            options = build_parser().parse_args([*stage.arguments[2:], "--json", "x", "--device", "cuda"])
            assert options.json == "x"
    assert {target.stage for target in TARGETS} <= {stage.name for stage in STAGES}


def test_what_is_skipped_without_a_gpu_is_marked_as_one_of_its_stage():
    def test():
        pass

    assert {mark.name for mark in devices.needs_gpu(test).pytestmark} == {"gpu", "skipif"}
    (tests,) = [stage for stage in STAGES if stage.name == "tests"]
    assert tests.arguments[tests.arguments.index("-m", 1) + 1] == "gpu"
