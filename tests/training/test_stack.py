"""Runs that train together: each leaves what it leaves alone, to the last digits of float32."""

from __future__ import annotations

import math
import os
import signal
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.config.loading import load_config
from detector.fit import fit
from detector.jobs.runner import LOG
from detector.jobs.stack_process import train_together
from detector.models.stacked import StackedNetworks
from detector.models.stacked_loss import StackedLoss
from detector.rundir import RunDir
from detector.tools.compare.command import compare
from detector.training.callbacks import Callback
from detector.training.state import TrainState
from tests.support import TINY

ROUNDING = 1e-4  # relative: of float32 gradients, after a few steps of training
SEEDS = 3
STEPS = 4
SHORT = (
    *TINY, "data.image_size=64", f"train.steps={STEPS}", "train.lr=0.01", "gradients.every=1",
    "data.fallback=none",
)  # fmt: skip
FEW = "train.eval_every=null", "train.eval_train=false", "gradients.probe=false", "tracking.images=0"
# The ablation, and what else is tried out with it.
CELLS = {
    "baseline": ("coco8", "train.eval_every=2", "train.ema=0.9", "train.optimizer=adamw"),
    "no_residual": ("ablations/no_residual.yaml", *FEW, "train.clip=0.1"),
    "no_batchnorm": ("ablations/no_batchnorm.yaml", *FEW, "gradients.points=blocks"),
    "sigmoid": ("ablations/sigmoid.yaml", *FEW, "train.batch=2", "train.accumulate=2"),
    "xavier_init": ("ablations/xavier_init.yaml", *FEW, "train.clip_by=part", "train.clip=0.1"),
}


def calls(cell: str, out: Path) -> dict[Path, list[str]]:
    """What `train.py` is called with for each seed."""
    config, *own = CELLS[cell]
    runs = {out / f"{cell}-s{seed}": seed for seed in range(SEEDS)}
    return {
        directory: ["--config", config, *SHORT, *own, f"train.seed={seed}", f"run.dir={directory}"]
        for directory, seed in runs.items()
    }


def together(runs: dict[Path, list[str]]) -> int:
    for directory in runs:
        directory.mkdir(parents=True, exist_ok=True)
    return train_together(runs)


def alone(call: list[str], *callbacks: Callback) -> None:
    _, config, *overrides = call
    fit(load_config(Path(config), overrides), callbacks=callbacks)


def files(directory: Path) -> list[str]:
    return sorted(str(path.relative_to(directory)) for path in directory.rglob("*") if path.name != LOG)


def close(found: Any, expected: Any, floor: float) -> bool:
    if not isinstance(expected, float):
        return bool(found == expected)
    both_nan = math.isnan(found) and math.isnan(expected)
    return both_nan or math.isclose(found, expected, rel_tol=ROUNDING, abs_tol=floor)


def assert_same_run(found: RunDir, expected: RunDir) -> None:
    rows, others = found.read_history(), expected.read_history()
    assert [list(row) for row in rows] == [list(row) for row in others]
    for row, other in zip(rows, others, strict=True):
        # Indices are logarithms, shares count units: near 0 only their absolute error says something.
        far = {
            key: (row[key], other[key])
            for key in row
            if key != "time/step_ms" and not close(row[key], other[key], 0 if "_grad/" in key else 1e-4)
        }
        assert not far
    steps, ledger = found.read_ledger(), expected.read_ledger()
    assert [(e["step"], e["block"], e["operation"]) for e in steps] == [
        (e["step"], e["block"], e["operation"]) for e in ledger
    ]
    assert all(close(e["factor"], o["factor"], 0) for e, o in zip(steps, ledger, strict=True))
    here, there = found.read_checkpoint("last"), expected.read_checkpoint("last")
    assert torch.equal(here["rng"]["torch"], there["rng"]["torch"])
    for part in ("model", "ema"):
        for key, value in (there[part] or {}).items():
            difference = (here[part][key].double() - value.double()).norm()
            assert difference <= ROUNDING * value.double().norm().clamp_min(1e-3), key
    summary, other = found.scan_summary()[0], expected.scan_summary()[0]
    assert summary.pop("stacked") > 1 and "stacked" not in other  # the last digits are another sum's
    assert list(summary) == list(other) and summary["status"] == "finished"


@pytest.mark.parametrize("cell", CELLS)
def test_every_run_leaves_what_it_leaves_alone(
    cell: str, tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stacks: list[int] = []

    class Counted(StackedNetworks):
        def __init__(self, models: Sequence[nn.Module], template: nn.Module) -> None:
            stacks.append(len(models))
            super().__init__(models, template)

    monkeypatch.setattr("detector.training.stack.StackedNetworks", Counted)
    if cell == "xavier_init":  # as one of two heads, it is then computed run by run
        monkeypatch.setattr(StackedLoss, "fits", staticmethod(lambda loss: False))
    runs, singly = calls(cell, tmp_path / "stacked"), calls(cell, tmp_path / "alone")
    assert together(runs) == 0
    assert stacks == [SEEDS]  # one, in one order, whichever run is the first at a step
    for directory, (expected, call) in zip(runs, singly.items(), strict=True):
        alone(call)
        assert files(directory) == files(expected)
        assert_same_run(RunDir(directory), RunDir(expected))
        assert f"seed {call[-2][-1]}," in (directory / LOG).read_text()  # each prints to its own log
    first, second = (RunDir(directory).read_history()[0]["train/loss"] for directory in list(runs)[:2])
    assert first != second
    (group,) = compare(*runs).groups
    assert len(group.runs) == SEEDS


class StopAt(Callback):
    """Asks a run to end before this step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_begin(self, state: TrainState) -> None:
        self.state = state

    def on_step_begin(self, step: int) -> None:
        self.state.should_stop = step == self.step


def test_each_run_ends_in_its_own_way(tmp_path: Path, coco8: Path) -> None:
    """One cannot begin, one diverges, one resumes at another step than the rest; none disturbs the others."""
    whole, resumed, diverging = calls("no_residual", tmp_path / "stacked").items()
    singly = calls("no_residual", tmp_path / "alone")
    wrong = tmp_path / "wrong", [*whole[1][:-1], f"run.dir={tmp_path}/wrong", "data.path=missing.yaml"]
    resumed[0].mkdir(parents=True)
    alone(resumed[1], StopAt(2))
    runs = dict([wrong, whole, (resumed[0], ["--resume", str(resumed[0])]), diverging])
    runs[diverging[0]] = [*diverging[1], "train.lr=1e30", "train.warmup_steps=0", "train.clip=null"]
    assert together(runs) == 3
    assert "error: " in (wrong[0] / LOG).read_text() and "error" not in (whole[0] / LOG).read_text()
    assert RunDir(diverging[0]).scan_summary()[0]["status"] == "diverged"
    for directory, (expected, call) in zip([whole[0], resumed[0]], singly.items(), strict=False):
        alone(call)
        assert_same_run(RunDir(directory), RunDir(expected))


def test_ctrl_c_lets_every_run_finish_its_step_and_be_resumed(tmp_path: Path, coco8: Path) -> None:
    runs = {
        directory: [*call, "train.steps=20"]
        for directory, call in list(calls("xavier_init", tmp_path).items())[:2]
    }
    first = RunDir(next(iter(runs)))

    def interrupt() -> None:
        while not first.last_row():
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGINT)

    watching = threading.Thread(target=interrupt, daemon=True)
    watching.start()
    assert together(runs) == 130
    watching.join()
    for directory in runs:
        assert RunDir(directory).scan_summary()[0]["status"] == "stopped"
        assert "interrupted; resume with" in (directory / LOG).read_text()
    assert together({directory: ["--resume", str(directory)] for directory in runs}) == 0
    for directory in runs:
        assert [row["step"] for row in RunDir(directory).read_history()] == list(range(20))
