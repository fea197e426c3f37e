"""A broken step leaves no trace but its count, and is kept so that it can be done again."""

from __future__ import annotations

import copy
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.data.dataset import Dataset, Item
from detector.errors import UserError
from detector.gradients.recorder import GradientRecorder
from detector.models.loss import DetectionLoss, Loss
from detector.rundir import RunDir
from detector.runtime.checkpoint_file import read, write
from detector.runtime.json_numbers import to_json
from detector.training.callbacks import Row
from detector.training.checkpoints import load_state, state_dict
from detector.training.nonfinite_guard import (
    NonFiniteStep,
    StepSnapshot,
    save_nonfinite_step,
)
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from tests.training.harness import Outcome, train_steps

MakeState = Callable[..., tuple[TrainState, DetectionLoss]]
MakeBatch = Callable[..., Batch]
BAD = -1.0  # the class of the objects in a batch that breaks the loss
SETTINGS = {"ema": 0.9, "clip": 1.0, "momentum": 0.9, "on_nonfinite": "skip"}


class Breakable(DetectionLoss):
    """The loss, infinite for a batch of class BAD."""

    def __call__(self, preds: Any, targets: dict[str, torch.Tensor]) -> Loss:
        bad = bool((targets["cls"] == BAD).any())
        loss = super().__call__(preds, targets | {"cls": targets["cls"].clamp(min=0)})
        return Loss(loss.total * math.inf, loss.parts * math.inf) if bad else loss


def broken(batch: Batch) -> Batch:
    return replace(batch, cls=torch.full_like(batch.cls, BAD))


def run(
    state: TrainState, batches: list[Batch], first: int = 0, *, accumulate: int = 1, **config: Any
) -> tuple[Outcome, list[Row], list[NonFiniteStep]]:
    """Train on one batch a step, from step `first`."""
    settings = TrainConfig(**SETTINGS | config)
    rows: list[Row] = []
    failures: list[NonFiniteStep] = []
    outcome = train_steps(
        state,
        Breakable(state.model, settings),
        iter(batches[first * accumulate :]),
        Schedule(len(batches) // accumulate, 2, accumulate, 1, None),
        settings,
        GradientRecorder(state.model.backbone_layers()),
        rows.append,
        lambda: False,
        failed=failures.append,
    )
    return outcome, rows, failures


def same(one: Any, other: Any) -> bool:
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other)


def but_counters(state: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in state.items() if key not in ("skipped", "skipped_in_a_row")}


def test_a_skipped_step_counts_and_changes_nothing(make_state: MakeState, make_batch: MakeBatch) -> None:
    batches = [make_batch(seed=seed) for seed in range(5)]
    batches[1] = broken(batches[1])
    state, _ = make_state(**SETTINGS)
    outcome, rows, failures = run(state, batches)
    assert outcome.status == "finished"
    assert (state.step, state.skipped, state.skipped_in_a_row) == (5, 1, 0)
    assert [row["step"] for row in rows] == [0, 1, 2, 3, 4]
    assert [row.get("train/skipped") for row in rows] == [None, 1, None, None, None]
    assert not any(key.startswith(("gradient", "activation_grad")) for key in rows[1])
    assert math.isinf(rows[1]["train/loss"]) and all(math.isfinite(v) for v in rows[2].values())
    assert failures[0].indices == ((0, 1),)

    other, _ = make_state(**SETTINGS)  # the same without that step: it is jumped over by hand
    settings = TrainConfig(**SETTINGS)
    for steps in ([0], [2, 3, 4]):
        other.step = steps[0]
        train_steps(
            other,
            Breakable(other.model, settings),
            iter([batches[step] for step in steps]),
            Schedule(5, 2, 1, 1, None),
            settings,
            GradientRecorder(other.model.backbone_layers()),
            lambda row: None,
            lambda last=steps[-1]: other.step > last,
        )
    assert same(but_counters(state_dict(state)), but_counters(state_dict(other)))


def test_so_many_in_a_row_and_then_it_stops(make_state: MakeState, make_batch: MakeBatch) -> None:
    good, bad = make_batch(), broken(make_batch())
    state, _ = make_state(**SETTINGS)
    outcome, rows, failures = run(state, [bad, bad, good, bad, bad, bad, good], max_skipped=2)
    assert outcome.status == "diverged"
    assert outcome.origin is not None and outcome.origin.where == "forward loss"
    assert (state.step, state.skipped) == (5, 4)  # the good one in between began a new count
    assert [row.get("train/skipped") for row in rows] == [1, 2, None, 3, 4, None]
    assert len(failures) == 5


@pytest.mark.parametrize("mode", ["stop", "record"])
def test_the_others_end_at_the_first(make_state: MakeState, make_batch: MakeBatch, mode: str) -> None:
    state, _ = make_state(**SETTINGS)
    outcome, rows, failures = run(state, [make_batch(), broken(make_batch())], on_nonfinite=mode)
    assert outcome.status == "diverged"
    assert (state.step, state.skipped, len(rows), len(failures)) == (1, 0, 2, 1)


@pytest.mark.parametrize("stop", [1, 2, 3])
def test_resuming_around_skipped_steps_is_exact(
    make_state: MakeState, make_batch: MakeBatch, tmp_path: Path, stop: int
) -> None:
    batches = [make_batch(seed=seed) for seed in range(10)]
    for number in (2, 5):  # one of the two micro-batches of step 1, and of step 2
        batches[number] = broken(batches[number])
    whole, _ = make_state(**SETTINGS)
    _, rows, _ = run(whole, batches, accumulate=2, max_skipped=3)

    part, _ = make_state(**SETTINGS)
    settings = TrainConfig(**SETTINGS, max_skipped=3)
    head: list[Row] = []
    train_steps(
        part, Breakable(part.model, settings), iter(batches), Schedule(5, 2, 2, 1, None), settings,
        GradientRecorder(part.model.backbone_layers()), head.append, lambda: part.step == stop,
    )  # fmt: skip
    write(state_dict(part), tmp_path / "last.pt")
    resumed, _ = make_state(seed=9, **SETTINGS)
    load_state(read(tmp_path / "last.pt"), resumed)
    _, tail, _ = run(resumed, batches, stop, accumulate=2, max_skipped=3)

    def timeless(rows: list[Row]) -> str:
        return json.dumps([{k: v for k, v in row.items() if "time/" not in k} for row in rows])

    assert timeless(head + tail) == timeless(rows)
    assert same(state_dict(resumed), state_dict(whole))
    assert whole.skipped == 2


def test_a_gradient_scaler_may_overflow_until_it_is_at_one(
    make_state: MakeState, make_batch: MakeBatch
) -> None:
    """Infinite gradients of a finite loss: expected while the loss is scaled up, the network's own at 1."""

    class Steep(DetectionLoss):
        def __call__(self, preds: Any, targets: dict[str, torch.Tensor]) -> Loss:
            loss = super().__call__(preds, targets)
            return loss._replace(total=loss.total + (loss.total * 0).sqrt())  # gradient: 0 · Inf

    state, _ = make_state()
    state.scaler = torch.amp.GradScaler("cpu", init_scale=4.0)
    settings = TrainConfig(on_nonfinite="skip", max_skipped=1)
    rows: list[Row] = []
    outcome = train_steps(
        state, Steep(state.model, settings), iter([make_batch()] * 9), Schedule(9, 2, 1, 1, None), settings,
        GradientRecorder(state.model.backbone_layers()), rows.append, lambda: False,
    )  # fmt: skip
    assert outcome.status == "diverged"
    assert [row.get("train/skipped") for row in rows] == [None, None, 1, None]
    assert outcome.origin is not None and outcome.origin.where == "backward loss"


def test_going_back_restores_statistics_counters_and_generators() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Dropout()).train()
    snapshot = StepSnapshot(model)
    model(torch.ones(2, 3, 8, 8))
    snapshot.take()
    before = copy.deepcopy(model.state_dict())
    first = model(torch.ones(2, 3, 8, 8)), np.random.rand()  # noqa: NPY002
    model(torch.full((2, 3, 8, 8), math.nan))
    assert not torch.isfinite(model[1].running_mean).any()
    snapshot.restore()
    assert same(dict(before), dict(model.state_dict()))
    again = model(torch.ones(2, 3, 8, 8)), np.random.rand()  # noqa: NPY002
    assert torch.equal(first[0], again[0])
    assert first[1] == again[1]
    snapshot.restore()
    assert same(dict(before), dict(model.state_dict()))  # one mark, any number of returns


@pytest.fixture
def failure(make_state: MakeState, make_batch: MakeBatch) -> Iterator[NonFiniteStep]:
    state, _ = make_state(**SETTINGS)
    _, _, failures = run(state, [make_batch(), broken(make_batch())], on_nonfinite="stop")
    yield failures[0]


def keep(directory: Path, failure: NonFiniteStep) -> list[str]:
    nothing = np.zeros((0, 4), np.float32)
    items = tuple(Item(Path(f"/data/{name}.jpg"), np.zeros(0, np.int64), nothing) for name in "ab")
    dataset = Dataset("mine", ("one",), {"train": items}, (), "f")
    said: list[str] = []
    save_nonfinite_step(failure, RunDir(directory), dataset, {"architecture": {}}, "cpu in fp32", said.append)
    return said


def test_what_is_kept(failure: NonFiniteStep, tmp_path: Path) -> None:
    said = keep(tmp_path, failure)
    assert said[0].startswith("not finite at step 1, first in: forward loss, in mul")
    assert said[1] == f"its images: a.jpg, b.jpg; to repeat the step: detector replay {tmp_path}"
    report = json.loads((tmp_path / "failure" / "failure.json").read_text())
    assert report["images"] == [["/data/a.jpg", "/data/b.jpg"]]
    assert (report["step"], report["train/loss"], report["culprit"]["layer"]) == (1, "Infinity", "loss")
    saved = RunDir(tmp_path).read_failure()
    assert json.loads(to_json(saved["failure"])) == report
    assert saved["indices"] == ((0, 1),)
    assert all(torch.isfinite(value).all() for value in saved["model"].values())


def test_a_disk_that_is_full_costs_only_the_file(
    failure: NonFiniteStep, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    said = keep(tmp_path, failure)
    assert "No space left" in said[1]
    assert list((tmp_path / "failure").iterdir()) == []


def test_a_run_without_a_failure_and_a_file_that_is_none(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no run's directory"):
        RunDir(tmp_path).read_failure()
    (tmp_path / "config.yaml").touch()
    with pytest.raises(UserError, match="always finite"):
        RunDir(tmp_path).read_failure()
    (tmp_path / "failure").mkdir()
    write({"format": 1, "model": {}, "step": 0}, tmp_path / "failure" / "state.pt")
    with pytest.raises(UserError, match="not a step saved"):
        RunDir(tmp_path).read_failure()
