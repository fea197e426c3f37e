"""The interventions in a run: what is recorded, what a run's own curve does to it, and what is refused."""

from __future__ import annotations

from collections.abc import Callable
from itertools import repeat
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.config.loading import load_config
from detector.config.schema import Config, GradientsConfig, TrainConfig
from detector.data.loader import Batch
from detector.errors import UserError
from detector.gradients.recorder import GradientRecorder
from detector.models.loss import DetectionLoss
from detector.rows import Key, by_layer
from detector.rundir import RunDir
from detector.training.callbacks import Callback, CallbackList, RecordGradients
from detector.training.engine import train
from detector.training.impose import interventions
from detector.training.nonfinite_guard import NonFiniteGuard
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from tests.training.harness import ALONE, Report

MakeState = Callable[..., tuple[TrainState, DetectionLoss]]
STEPS = 4


def config(**gradients: Any) -> Config:
    return Config(train=TrainConfig(steps=STEPS), gradients=GradientsConfig(every=1, **gradients))


def history(make_state: MakeState, batch: Batch, wanted: Config) -> list[dict[str, Any]]:
    """Train a few steps with what `fit` has around them."""
    state, loss_fn = make_state()
    schedule = Schedule.from_config(wanted, batches_per_epoch=1)
    rows: list[dict[str, Any]] = []
    guard = NonFiniteGuard(state, loss_fn, wanted.train, ALONE)
    recorder = GradientRecorder(state.model.backbone_layers())
    callback: Callback = CallbackList([
        *interventions(state, schedule, wanted),
        RecordGradients(state, schedule, recorder, wanted.train),
        guard,
        Report(rows.append),
    ])  # fmt: skip
    train(state, loss_fn, repeat(batch), schedule, wanted.train, callback, guard, ALONE)
    callback.on_train_end()
    return rows


@pytest.fixture
def plain(
    make_state: MakeState, make_batch: Callable[..., Batch], tmp_path: Path
) -> tuple[list[dict[str, Any]], Path]:
    """A run's rows, and its directory."""
    rows = history(make_state, make_batch(), config())
    run = RunDir.create(tmp_path / "plain", config())
    writer = run.open_history()
    for row in rows:
        writer.append(row)
    writer.close()
    return rows, run.path


def test_a_run_s_own_curve_gives_the_run_itself(
    make_state: MakeState, make_batch: Callable[..., Batch], plain: tuple[list[dict[str, Any]], Path]
) -> None:
    rows, directory = plain
    again = history(make_state, make_batch(), config(impose=str(directory)))
    for one, other in zip(rows, again, strict=True):
        assert other[Key.LOSS] == pytest.approx(one[Key.LOSS], rel=1e-4)
        curve = by_layer(one, Key.ACTIVATION_GRAD)
        assert by_layer(other, Key.ACTIVATION_GRAD) == pytest.approx(curve, rel=1e-3)
        assert by_layer(other, Key.RAW_ACTIVATION_GRAD) == pytest.approx(curve, rel=1e-3)
    assert not any(key.startswith("raw_") for row in rows for key in row)


def test_the_flat_curve_is_recorded_beside_the_raw_one(
    make_state: MakeState, make_batch: Callable[..., Batch]
) -> None:
    for row in history(make_state, make_batch(), config(impose="flat")):
        imposed, raw = by_layer(row, Key.ACTIVATION_GRAD), by_layer(row, Key.RAW_ACTIVATION_GRAD)
        assert list(imposed) == list(raw)
        assert list(imposed.values()) == pytest.approx([list(imposed.values())[-1]] * len(imposed), rel=1e-5)
        assert row[Key.VANISHING_INDEX] == pytest.approx(0, abs=1e-4)
        assert raw[list(raw)[-1]] == pytest.approx(imposed[list(raw)[-1]])
        assert raw[next(iter(raw))] != pytest.approx(imposed[next(iter(raw))], rel=0.01)


def test_an_imposed_curve_has_no_ledger() -> None:
    assert Schedule.from_config(config(), 1).ledger_due(0)
    assert not Schedule.from_config(config(impose="flat"), 1).ledger_due(0)


def test_equalised_weight_gradients_are_recorded_beside_the_raw_ones(
    make_state: MakeState, make_batch: Callable[..., Batch]
) -> None:
    for row in history(make_state, make_batch(), config(equalise=True)):
        raw = by_layer(row, Key.RAW_WEIGHT_GRAD)
        assert list(raw) == list(by_layer(row, Key.WEIGHT_GRAD))
        assert row[Key.WEIGHT_INDEX] == pytest.approx(0, abs=1e-4)


def test_a_trunk_that_does_not_learn_or_is_not_there(make_state: MakeState) -> None:
    state, _ = make_state()
    wanted = config(impose="flat")
    schedule = Schedule.from_config(wanted, batches_per_epoch=1)
    state.model.backbone.requires_grad_(False)
    with pytest.raises(UserError, match=r"gradients\.impose=flat: the trunk is frozen"):
        interventions(state, schedule, wanted)
    assert interventions(state, schedule, config()) == ()
    state.model.backbone_layers = dict[str, nn.Module]  # type: ignore[method-assign]
    with pytest.raises(UserError, match="names no layers of a trunk"):
        interventions(state, schedule, wanted)


def test_a_frozen_trunk_is_refused_where_it_is_written(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text("model: {freeze: backbone}\ngradients:\n  equalise: true\n")
    with pytest.raises(UserError) as caught:
        load_config(path)
    assert f"{path}:3: gradients.equalise: model.freeze=backbone" in str(caught.value)


def test_the_refusal_ends_the_step_before_a_weight_changes(
    make_state: MakeState, make_batch: Callable[..., Batch], tmp_path: Path
) -> None:
    state, _ = make_state()
    names = list(state.model.backbone_layers())
    path = tmp_path / "huge.json"
    path.write_text("{" + ", ".join(f'"{name}": 1e45' for name in names[:-1]) + f', "{names[-1]}": 1}}')
    before = {key: value.clone() for key, value in state.model.named_parameters()}
    seen: list[TrainState] = []

    def make(**train: object) -> tuple[TrainState, DetectionLoss]:
        found = make_state(**train)
        seen.append(found[0])
        return found

    with pytest.raises(UserError, match="more than a number can hold"):
        history(make, make_batch(), config(impose=str(path)))
    assert all(torch.equal(p, before[name]) for name, p in seen[0].model.named_parameters())
