"""The engine with the callbacks that every run has, for tests that need no run directory."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

import torch

from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.gradients.nonfinite import NonFiniteOrigin
from detector.gradients.recorder import GradientRecorder
from detector.models.base import DetectionModel
from detector.models.loss import LossFunction
from detector.runtime.distributed import SingleProcess
from detector.training.callbacks import Callback, CallbackList, RecordGradients, Row, StopOnRequest
from detector.training.engine import train
from detector.training.nonfinite_guard import NonFiniteGuard, NonFiniteStep
from detector.training.prepare import distribute
from detector.training.schedule import Schedule
from detector.training.state import TrainState

ALONE = SingleProcess()


@dataclass
class Outcome:
    status: str
    origin: NonFiniteOrigin | None  # of the last rejected step


class Report(Callback):
    def __init__(self, take: Callable[[Row], None]) -> None:
        self.take = take

    def on_record(self, row: Row) -> None:
        self.take(dict(row))


def create_state(model: DetectionModel, config: TrainConfig, dist: SingleProcess = ALONE) -> TrainState:
    return distribute(model, config, torch.device("cpu"), dist)


def train_steps(
    state: TrainState,
    loss_fn: LossFunction,
    batches: Iterable[Batch],
    schedule: Schedule,
    config: TrainConfig,
    recorder: GradientRecorder,
    report: Callable[[Row], None] = lambda row: None,
    stop: Callable[[], bool] = lambda: False,
    *,
    failed: Callable[[NonFiniteStep], None] = lambda step: None,
    dist: SingleProcess = ALONE,
    before: Iterable[Callback] = (),
    callbacks: Iterable[Callback] = (),
) -> Outcome:
    guard = NonFiniteGuard(state, loss_fn, config, dist, failed)
    callback = CallbackList(
        [
            StopOnRequest(state, stop),
            *before,
            RecordGradients(state, schedule, recorder, config),
            guard,
            *callbacks,
            Report(report),
        ]
    )
    source: Any = dist.prepare_batches(batches)
    callback.on_train_begin(state)
    status = train(state, loss_fn, source, schedule, config, callback, guard, dist)
    callback.on_train_end()
    return Outcome(status, guard.origin)
