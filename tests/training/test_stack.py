"""Runs that train together: each leaves what it leaves alone, to the last digits of float32."""

from __future__ import annotations

import math
import os
import shutil
import signal
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from torch import Tensor, nn

from detector.config.loading import load_config
from detector.fit import fit
from detector.jobs.runner import LOG
from detector.jobs.together import train_together
from detector.models.stacked import StackedNetworks
from detector.models.stacked_loss import StackedLoss
from detector.rundir import RunDir
from detector.runtime.signals import StopRequest
from detector.tools.compare.command import compare
from detector.training.callbacks import Callback
from detector.training.stack import Work
from detector.training.state import TrainState
from tests.support import ROOT, TINY

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


def assert_equal_run(found: RunDir, expected: RunDir) -> None:
    """Bit for bit, as one command with itself."""
    rows, others = (
        [{key: value for key, value in row.items() if key != "time/step_ms"} for row in run.read_history()]
        for run in (found, expected)
    )
    assert str(rows) == str(others)  # in words, in which NaN is NaN
    here, there = (run.read_checkpoint("last")["model"] for run in (found, expected))
    assert here.keys() == there.keys() and all(torch.equal(here[key], there[key]) for key in there)


def resume(runs: Sequence[Path]) -> int:
    return together({directory: ["--resume", str(directory)] for directory in runs})


class Watched(StackedNetworks):
    """Notes how many networks each stack has, and when its passes are."""

    sizes: list[int]
    passes: list[str]

    def __init__(self, models: Sequence[nn.Module], template: nn.Module) -> None:
        self.sizes.append(len(models))
        super().__init__(models, template)

    def forward(self, images: Sequence[Tensor]) -> Any:
        self.passes.append("forward")
        output = super().forward(images)
        output["boxes"].register_hook(lambda _: self.passes.append("backward"))
        return output


@pytest.fixture
def watched(monkeypatch: pytest.MonkeyPatch) -> type[Watched]:
    monkeypatch.setattr(Watched, "sizes", [], raising=False)
    monkeypatch.setattr(Watched, "passes", [], raising=False)
    monkeypatch.setattr("detector.training.stack.StackedNetworks", Watched)
    return Watched


@pytest.mark.parametrize("cell", CELLS)
def test_every_run_leaves_what_it_leaves_alone(
    cell: str, tmp_path: Path, coco8: Path, watched: type[Watched], monkeypatch: pytest.MonkeyPatch
) -> None:
    if cell == "xavier_init":  # as one of two heads, it is then computed run by run
        monkeypatch.setattr(StackedLoss, "fits", staticmethod(lambda loss: False))
    runs, singly = calls(cell, tmp_path / "stacked"), calls(cell, tmp_path / "alone")
    assert together(runs) == 0
    assert watched.sizes == [SEEDS]  # one, in one order, whichever run is the first at a step
    micro_batches = 2 if "train.accumulate=2" in CELLS[cell] else 1
    # One at a time: the activations of a micro-batch are gone before the next one has its own.
    assert watched.passes == ["forward", "backward"] * STEPS * micro_batches
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


@pytest.fixture(scope="module")
def five(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> tuple[str, ...]:
    """Five training images in batches of 2, 2 and 1, four of them a step: where each run is shows."""
    folder = tmp_path_factory.mktemp("data")
    root = shutil.copytree(coco8 / "coco8", folder / "five")
    for kind in ("images", "labels"):
        moved = min((root / kind / "val").iterdir())
        moved.rename(root / kind / "train" / moved.name)
    data = yaml.safe_load((ROOT / "datasets/coco8.yaml").read_text())
    del data["source"]
    path = folder / "five.yaml"
    path.write_text(yaml.safe_dump(data | {"path": str(root)}))
    return f"data.path={path}", "train.batch=2", "train.accumulate=4", "train.optimizer=sgd"


def begin_apart(out: Path, five: tuple[str, ...]) -> dict[Path, list[str]]:
    """Three runs, the last of which has a step's lead: of four batches it shares the layout of two."""
    singly = {directory: [*call, *FEW, *five] for directory, call in calls("baseline", out).items()}
    ahead = list(singly)[-1]
    ahead.mkdir(parents=True)
    alone(singly[ahead], StopAt(1))
    return singly | {ahead: ["--resume", str(ahead)]}


def test_runs_at_different_places_of_an_epoch_meet_where_their_batches_are_alike(
    tmp_path: Path, five: tuple[str, ...], watched: type[Watched]
) -> None:
    runs = begin_apart(tmp_path / "stacked", five)
    assert together(runs) == 0
    assert watched.sizes[:3] == [3, 2, 1]
    for directory, (expected, call) in zip(runs, calls("baseline", tmp_path / "alone").items(), strict=True):
        alone([*call, *FEW, *five])
        assert_same_run(RunDir(directory), RunDir(expected))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory, five: tuple[str, ...]) -> list[Path]:
    """The same runs as a stack to which nothing happens."""
    runs = begin_apart(tmp_path_factory.mktemp("whole"), five)
    assert together(runs) == 0
    return list(runs)


@pytest.mark.parametrize("where", ["forward", "backward", "collect"])
def test_where_memory_runs_out_in_a_joint_pass_every_run_keeps_what_it_has(
    where: str, tmp_path: Path, five: tuple[str, ...], whole: list[Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though other joint passes of the step succeed. Each goes on as if nothing had been."""
    late = iter(range(100))

    def fail(place: str, networks: StackedNetworks) -> None:
        if place == where and len(networks.models) == SEEDS and next(late) == 2:
            raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: not enough memory")

    class Failing(StackedNetworks):
        def forward(self, images: Sequence[Tensor]) -> Any:
            fail("forward", self)
            output = super().forward(images)
            output["boxes"].register_hook(lambda _: fail("backward", self))
            return output

        def collect(self) -> None:
            fail("collect", self)
            super().collect()

    runs = begin_apart(tmp_path / "failing", five)
    monkeypatch.setattr("detector.training.stack.StackedNetworks", Failing)
    assert together(runs) == 2
    for directory in runs:
        log = (directory / LOG).read_text()
        assert "error: out of memory" in log and "or leave out --stack" in log and "resume with" in log
        assert "Traceback" not in log
    assert resume(list(runs)) == 0
    for directory, expected in zip(runs, whole, strict=True):
        assert_equal_run(RunDir(directory), RunDir(expected))


def test_an_error_of_the_program_s_own_is_told_in_each_run_s_log(
    tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong(*_: object) -> None:
        raise KeyError("of the program")

    monkeypatch.setattr(StackedNetworks, "collect", wrong)
    runs = calls("no_residual", tmp_path)
    assert together(runs) == 1
    assert "Traceback" not in capsys.readouterr().err
    for directory in runs:
        assert (directory / LOG).read_text().rstrip().endswith("KeyError: 'of the program'")


def test_runs_that_lie_in_memory_in_different_ways_are_computed_apart(
    tmp_path: Path, coco8: Path, watched: type[Watched]
) -> None:
    """Else the gradients of one would lie as the weights of another do."""
    runs, singly = calls("no_batchnorm", tmp_path / "stacked"), calls("no_batchnorm", tmp_path / "alone")
    resumed, expected = next(iter(runs)), next(iter(singly))
    for directory, call in ((resumed, runs[resumed]), (expected, singly[expected])):
        directory.mkdir(parents=True)
        alone([*call, "train.channels_last=false"], StopAt(1))
    assert together(runs | {resumed: ["--resume", str(resumed)]}) == 0
    assert sorted(watched.sizes[:2]) == [1, 2]
    fit(RunDir(expected).read_config(), resume=expected)
    for directory in list(singly)[1:]:
        alone(singly[directory])
    for directory, other in zip(runs, singly, strict=True):
        assert_same_run(RunDir(directory), RunDir(other))


def test_a_batch_on_another_device_or_of_other_strides_has_another_layout() -> None:
    images = torch.empty(2, 3, 8, 8)
    others = images.to("meta"), images.to(memory_format=torch.channels_last), images[:1]
    assert Work(images, {}).layout == Work(images.clone(), {}).layout
    assert all(Work(other, {}).layout != Work(images, {}).layout for other in others)


def test_a_run_that_began_as_no_stack_can_compute_it_is_named(tmp_path: Path, coco8: Path) -> None:
    """Its own configuration counts, not that of the command that goes on with it."""
    runs = calls("no_residual", tmp_path)
    resumed = next(iter(runs))
    resumed.mkdir()
    alone(runs[resumed], StopAt(1))
    config = RunDir(resumed).config_file
    config.write_text(config.read_text().replace("workers: 0", "workers: 2"))
    assert together(runs | {resumed: ["--resume", str(resumed)]}) == 2
    words = (
        f"error: {resumed}: data.workers=2: the runs of a stack load in their own process: train it without"
    )
    assert words in (resumed / LOG).read_text()
    statuses = [RunDir(directory).scan_summary()[0]["status"] for directory in runs]
    assert statuses == ["stopped", "finished", "finished"]


class PressAt(Callback):
    """Presses Ctrl-C at the end of a step of the first run that comes to it, and waits until it is noticed.

    No other run can then have begun the next step.
    """

    def __init__(self, step: int) -> None:
        self.step, self.pressed = step, False

    def on_step_end(self, step: int) -> None:
        if step == self.step and not self.pressed:
            self.pressed = True
            os.kill(os.getpid(), signal.SIGINT)
            stop = StopRequest._in_main_thread
            while stop is not None and stop.signal is None:
                time.sleep(0.01)


def test_ctrl_c_lets_every_run_finish_its_step_and_be_resumed(
    tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, runs = (
        {
            directory: [*call, "train.steps=20"]
            for directory, call in list(calls("xavier_init", tmp_path / name).items())[:2]
        }
        for name in ("whole", "stopped")
    )
    assert together(whole) == 0
    with monkeypatch.context() as patch:
        patch.setattr("detector.jobs.together.fit", partial(fit, callbacks=[PressAt(3)]))
        assert together(runs) == 130
    for directory in runs:
        assert RunDir(directory).scan_summary()[0]["status"] == "stopped"
        assert "interrupted; resume with" in (directory / LOG).read_text()
    assert resume(list(runs)) == 0
    for directory, expected in zip(runs, whole, strict=True):
        assert [row["step"] for row in RunDir(directory).read_history()] == list(range(20))
        assert_equal_run(RunDir(directory), RunDir(expected))
