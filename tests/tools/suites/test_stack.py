"""`detector ablate --stack`: a cell's seeds in one process, and what it refuses."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from detector.cli import main
from detector.jobs.stacked import check_stackable
from detector.rundir import RunDir
from detector.tools.compare.command import compare
from detector.tools.suites.suite import expand, load_suite
from tests.starter import Starter, fork_cells
from tests.support import ROOT, TINY

FEW = (*TINY, "train.steps=2", "train.eval_every=null", "gradients.ledger=false", "gradients.probe=false")


@pytest.fixture
def suite(tmp_path: Path) -> Path:
    path = tmp_path / "mine.yaml"
    path.write_text(
        f"base: {ROOT / 'configs/coco8.yaml'}\nseeds: 2\n"
        "cells:\n  baseline: {}\n  no_residual: {model: {shortcut: none}}\n"
    )
    return path


@pytest.mark.slow
@pytest.mark.usefixtures("own_names")
def test_a_cell_is_one_process_and_what_is_complete_is_not_run_again(
    suite: Path,
    tmp_path: Path,
    coco8: Path,
    warm_start: Starter,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    out = tmp_path / "out"
    own = tmp_path / "plugin.py"
    own.write_text(
        "import os\nfrom pathlib import Path\n"
        f"with Path({str(tmp_path / 'loaded.txt')!r}).open('a') as file:\n    print(os.getpid(), file=file)\n"
    )
    call = ["ablate", str(suite), *FEW, "--stack", "--plugin", str(own), "--out", str(out)]
    assert main([*call, "--seeds", "1", "--jobs", "1"]) == 0
    fork_cells(warm_start, monkeypatch)  # the first two were begun as any
    assert main(call) == 0
    processes = (tmp_path / "loaded.txt").read_text().split()
    assert processes.count(str(os.getpid())) == 1  # this command's own, once
    assert len(set(processes)) == 5  # two cells, twice
    runs = sorted(path.parent.name for path in out.glob("*/summary.json"))
    assert runs == ["baseline-s0", "baseline-s1", "no_residual-s0", "no_residual-s1"]
    capsys.readouterr()
    assert main(call) == 0
    assert "4 of them complete" in capsys.readouterr().err
    assert len((tmp_path / "loaded.txt").read_text().split()) == 5
    summary = json.loads((out / "baseline-s1" / "summary.json").read_text())
    assert summary["command"].startswith("train.py --config") and "train.seed=1" in summary["command"]
    assert [len(group.runs) for group in compare(out).groups] == [2, 2]
    assert len(RunDir(out / "no_residual-s1").read_history()) == 2


@pytest.mark.parametrize(
    "option, words",
    [
        (("train.precision=bf16",), "baseline: train.precision=bf16: a stack computes in fp32"),
        (("train.precision=auto",), "add train.precision=fp32"),
        (("data.workers=2",), "baseline: data.workers=2: the runs of a stack load in their own process"),
        (("--ray", "auto"), "--stack: trains on this machine: leave out --ray"),
    ],
)
def test_what_cannot_be_stacked_is_named(
    suite: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], option: tuple[str, ...], words: str
) -> None:
    assert main(["ablate", str(suite), "--stack", *option, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err
    assert words in error and error.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("path", sorted(ROOT.glob("ablations/suites/*.yaml")), ids=lambda path: path.stem)
def test_every_shipped_suite_can_be_stacked(path: Path) -> None:
    check_stackable(expand(load_suite(path)))
