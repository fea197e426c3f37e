"""Callbacks of one's own: what is refused, and what a row takes from them."""

import math
from collections.abc import Callable
from fractions import Fraction
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch

from detector.config.schema import TrainConfig
from detector.errors import UserError
from detector.gradients.recorder import GradientRecorder
from detector.runtime.distributed import SingleProcess
from detector.training.callbacks import Callback, OwnCallbacks, RecordGradients, StopEarly
from detector.training.schedule import Schedule


class Adds(Callback):
    def __init__(self, value: Any) -> None:
        self.value = value

    def on_record(self, row: dict[str, Any]) -> None:
        row["mine/note"] = self.value


class Typo(Callback):
    def on_recrod(self, row: dict[str, Any]) -> None: ...


@pytest.mark.parametrize(
    "value", ["hi", "3", None, [1.0], {"a": 1}, torch.ones(2), np.ones(2), 1j, torch.tensor(1j), np.str_("3")]
)
def test_a_value_that_is_no_number_is_refused_by_callback_and_key(value: Any) -> None:
    with pytest.raises(UserError, match=r"^Adds\.on_record: row\['mine/note'\] must be a number") as error:
        OwnCallbacks([Adds(1.0), Adds(value)]).on_record({"step": 0})
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("value", "number"),
    [
        (3, 3),
        (True, True),
        (0.5, 0.5),
        (math.inf, math.inf),
        (torch.tensor(2.5, requires_grad=True), 2.5),
        (torch.ones(1, 1), 1.0),
        (np.float32(0.25), 0.25),
        (np.int64(7), 7),
        (Fraction(1, 4), 0.25),
    ],
)
def test_numbers_and_tensors_of_one_become_numbers(value: Any, number: float) -> None:
    row = {"step": 0, "train/loss": 1.5}
    OwnCallbacks([Adds(value)]).on_record(row)
    assert row == {"step": 0, "train/loss": 1.5, "mine/note": number}
    assert type(row["mine/note"]) in (int, float, bool)


def test_the_device_is_asked_for_its_scale_at_recorded_steps_alone(
    make_state: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    state, asked = make_state()[0], []
    monkeypatch.setattr(state.scaler, "get_scale", lambda: asked.append(True) or 1.0)
    recorder, schedule = GradientRecorder(state.model.backbone_layers()), Schedule(4, 1, 1, 2, None)
    record = RecordGradients(state, schedule, recorder, TrainConfig())
    for step, expected in ((1, 0), (2, 1)):
        record.on_step_begin(step)
        record.on_backward_end(step)
        assert len(asked) == expected
    record.on_train_end()


def test_the_step_of_a_row_is_not_the_callback_s_to_change() -> None:
    class Renumbers(Callback):
        def on_record(self, row: dict[str, Any]) -> None:
            row["step"] += 1

    class Forgets(Callback):
        def on_record(self, row: dict[str, Any]) -> None:
            del row["epoch"]

    for callback, key in ((Renumbers(), "step"), (Forgets(), "epoch")):
        said = rf"^{type(callback).__name__}\.on_record: row\['{key}'\] says which row it is"
        with pytest.raises(UserError, match=said):
            OwnCallbacks([callback]).on_record({"step": 3, "epoch": 1})


def test_what_is_no_callback_or_never_called_is_refused() -> None:
    for wrong, said in (
        (Adds, r"Adds is a class: give an instance of it, Adds\(\)"),
        (print, "print.* is not a detector.Callback"),
        (Typo(), r"Typo\.on_recrod is never called; did you mean on_record\?"),
    ):
        with pytest.raises(UserError, match=said):
            OwnCallbacks([wrong])  # type: ignore[list-item]


@pytest.mark.parametrize(
    ("best", "step", "ends"),
    [
        (10, 20, False),  # two evaluations of ten steps, of two epochs, ago
        (10, 30, True),
        (0, 25, False),  # no evaluation
        (30, 30, False),
        (0, 0, False),
    ],
)
def test_a_run_ends_so_many_epochs_after_its_best_evaluation(best: int, step: int, ends: bool) -> None:
    state = SimpleNamespace(best_step=best, should_stop=False)
    schedule = Schedule(100, batches_per_epoch=10, accumulate=2, record_every=5, evaluate_every=10)
    said: list[str] = []
    callback = StopEarly(state, schedule, 4, SingleProcess(), said.append)  # type: ignore[arg-type]
    callback.on_step_begin(step)
    assert (callback.stopped, state.should_stop, len(said)) == (ends, ends, ends)
