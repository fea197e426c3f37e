"""What a run does besides fitting, each at its moment of a step: record, evaluate, log, stop.

A run's callbacks are called in the order of the list in `detector.fit`. Checkpoints are written by
`training.checkpoints`, and `training.nonfinite_guard` handles steps whose numbers are not finite.
"""

from __future__ import annotations

import difflib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol, SupportsFloat

from torch import Tensor

from detector.config.schema import Config, TrainConfig
from detector.data.batch import Batch
from detector.data.dataset import Dataset
from detector.data.loader import Loader
from detector.errors import UserError, shorten
from detector.gradients.entries import Entry
from detector.gradients.ledger import Ledger
from detector.gradients.recorder import GradientRecorder
from detector.loggers.base import Logger
from detector.loggers.throttle import Throttle
from detector.rows import Key
from detector.runtime.distributed import SingleProcess
from detector.training.clipping import ClippingMeter
from detector.training.evaluation import evaluate
from detector.training.examples import prediction_images
from detector.training.schedule import Schedule
from detector.training.state import TrainState

Row = dict[str, Any]
"""A recorded step: key -> number. See `detector.rows` for the keys."""

SECONDS_BETWEEN_PICTURES = 10  # of predictions: drawing them for W&B takes as long as some training steps


class Callback:
    """Called by the engine; every method here does nothing. Derive from it and override what you need.

    >>> from detector import Callback, fit, load_config
    >>> class KeepNorms(Callback):
    ...     def __init__(self):
    ...         self.norms = []
    ...     def on_record(self, row):
    ...         self.norms.append(row["train/grad_norm"])
    >>> mine = KeepNorms()
    >>> short = ["data.image_size=64", "train.steps=2", "run.dir=watched"]
    >>> run = fit(load_config("coco8", short), callbacks=[mine])
    >>> len(mine.norms), min(mine.norms) > 0
    (2, True)
    """

    def on_train_begin(self, state: TrainState) -> None:
        """Training is about to begin, or to resume, with this state."""

    def on_step_begin(self, step: int) -> None:
        """Before the passes of a step. Training ends here if `state.should_stop` was set, here or earlier."""

    def on_backward_end(self, step: int) -> None:
        """The gradients are complete: of the whole batch, unscaled, and not yet clipped."""

    def on_step_end(self, step: int) -> None:
        """The weights are updated."""

    def on_record(self, row: Row) -> None:
        """A recorded step is over, or one that was rejected: read its numbers, or add some."""

    def on_train_end(self) -> None:
        """Training has ended, in whatever way."""


class Guard(Protocol):
    """Decides what happens to a step that fails, or whose numbers are not finite."""

    def attempt(self) -> AbstractContextManager[None]:
        """Around a step's passes: an error in them leaves the state as it was before the step."""

    def accepts(self, micro_batches: list[Batch], loss: Tensor, grad_norm: Tensor) -> bool:
        """Whether the step may be taken. All processes get the same answer."""


class CallbackList(Callback):
    """Several callbacks as one, called in order."""

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        self.callbacks = list(callbacks)

    def on_train_begin(self, state: TrainState) -> None:
        """See `Callback`."""
        for callback in self.callbacks:
            callback.on_train_begin(state)

    def on_step_begin(self, step: int) -> None:
        """See `Callback`."""
        for callback in self.callbacks:
            callback.on_step_begin(step)

    def on_backward_end(self, step: int) -> None:
        """See `Callback`."""
        for callback in self.callbacks:
            callback.on_backward_end(step)

    def on_step_end(self, step: int) -> None:
        """See `Callback`."""
        for callback in self.callbacks:
            callback.on_step_end(step)

    def on_record(self, row: Row) -> None:
        """See `Callback`."""
        for callback in self.callbacks:
            callback.on_record(row)

    def on_train_end(self) -> None:
        """See `Callback`."""
        for callback in self.callbacks:
            callback.on_train_end()


class OwnCallbacks(CallbackList):
    """Those that `fit` was given: what they are and what they add to a row is checked.

    Raises:
        UserError: one is no instance of a `Callback`, has a method that is never called, or adds no number.
    """

    def __init__(self, callbacks: Iterable[Callback]) -> None:
        super().__init__(callbacks)
        for callback in self.callbacks:
            if isinstance(callback, type):
                name = callback.__name__
                raise UserError(f"callbacks: {name} is a class: give an instance of it, {name}()")
            hooks, kind = [name for name in dir(Callback) if name.startswith("on_")], type(callback)
            if not all(hasattr(kind, hook) for hook in hooks):
                raise UserError(f"callbacks: {shorten(repr(callback))} is not a detector.Callback")
            for name in dir(kind):
                if name.startswith("on_") and name not in hooks and callable(getattr(kind, name)):
                    near = difflib.get_close_matches(name, hooks, n=1)
                    hint = f"did you mean {near[0]}?" if near else f"the moments are {', '.join(hooks)}"
                    raise UserError(f"callbacks: {kind.__name__}.{name} is never called; {hint}")

    def on_record(self, row: Row) -> None:
        """Call each, and turn what it added into numbers: a row with anything else could not be read back."""
        for callback in self.callbacks:
            before = dict(row)
            callback.on_record(row)
            for key in (Key.STEP, Key.EPOCH):
                if row.get(key) != before.get(key):
                    where = f"{type(callback).__name__}.on_record: row[{key!r}]"
                    raise UserError(f"{where} says which row it is: leave it, and add a key of your own")
            for key in [key for key in row if key not in before or row[key] is not before[key]]:
                value = row[key].detach() if isinstance(row[key], Tensor) else row[key]
                try:
                    if isinstance(value, str) or not isinstance(value, SupportsFloat):
                        raise TypeError
                    row[key] = value if isinstance(value, int) else float(value)
                except (TypeError, ValueError, RuntimeError):
                    where = f"{type(callback).__name__}.on_record: row[{key!r}]"
                    wrong = shorten(repr(value))
                    raise UserError(f"{where} must be a number, or a tensor of one, not {wrong}") from None


class StopOnRequest(Callback):
    """Ends training after the step in progress when `request` says so, such as after a Ctrl-C."""

    def __init__(self, state: TrainState, request: Callable[[], bool]) -> None:
        self.state, self.request = state, request

    def on_train_begin(self, state: TrainState) -> None:
        """What stopped an earlier training of this state is over."""
        state.should_stop = False

    def on_step_begin(self, step: int) -> None:
        """Ask."""
        self.state.should_stop = self.request() or self.state.should_stop


class StopEarly(Callback):
    """Ends training at an evaluation, `train.patience` epochs after the best one: the run is finished then.

    Without a patience it never does. Checkpoints hold what it goes by: a resumed run ends at the same step.
    """

    def __init__(
        self,
        state: TrainState,
        schedule: Schedule,
        patience: int | None,
        dist: SingleProcess,
        report: Callable[[str], None],
    ) -> None:
        self.state, self.schedule, self.patience = state, schedule, patience
        self.dist, self.report, self.stopped = dist, report, False

    def on_step_begin(self, step: int) -> None:
        """After an evaluation, once its checkpoint knows whether it was the best."""
        if self.patience is None or step == 0 or not self.schedule.should_evaluate(step - 1):
            return
        best = self.dist.broadcast_object(self.state.best_step)
        if (waited := self.schedule.epochs_of(step - best)) >= self.patience:
            self.stopped = self.state.should_stop = True
            since = f"no evaluation is better than that of step {best}, {waited:.0f} epochs ago"
            self.report(f"stopped early at step {step}: {since} (train.patience={self.patience})")


class RecordGradients(Callback):
    """Measures every layer's gradient on the recorded steps. The first to see a row: see `on_record`."""

    def __init__(
        self, state: TrainState, schedule: Schedule, recorder: GradientRecorder, config: TrainConfig
    ) -> None:
        self.state, self.schedule, self.recorder = state, schedule, recorder
        self.keep_rejected = config.on_nonfinite != "skip"  # else the curves show the steps that were taken
        self.clipping = ClippingMeter(state.model, config)
        self._since, self._steps = time.perf_counter(), 0

    def on_step_begin(self, step: int) -> None:
        """Put the hooks on."""
        if self._steps == 0:  # the stopwatch times training steps alone, not evaluations and logging
            self._since = time.perf_counter()
        if self.schedule.should_record(step):
            self.recorder.begin()

    def on_backward_end(self, step: int) -> None:
        """Measure."""
        if self.recorder.active:
            self.clipping.measure()
            self.recorder.gradients(self.state.scaler.get_scale())  # which waits for the device

    def on_step_end(self, step: int) -> None:
        """Count the step."""
        self._steps += 1
        if self.state.step == step and not self.keep_rejected:
            self.recorder.cancel()
            self.clipping.clear()

    def on_record(self, row: Row) -> None:
        """Turn the row's tensors into numbers, together with the record: one transfer from the device."""
        row |= self.clipping.report(row[Key.GRAD_NORM])
        row |= self.recorder.end({key: row[key] for key in row if key not in (Key.STEP, Key.EPOCH, Key.LR)})
        row[Key.STEP_MS] = 1000 * (time.perf_counter() - self._since) / self._steps
        self._steps = 0

    def on_train_end(self) -> None:
        """Take the hooks off."""
        self.recorder.cancel()


class RecordLedger(Callback):
    """Follows the gradient through every operation at the first step and the last."""

    def __init__(
        self, schedule: Schedule, ledger: Ledger, write: Callable[[int, Sequence[Entry]], None]
    ) -> None:
        """`write` takes the step and its entries."""
        self.schedule, self.ledger, self.write = schedule, ledger, write

    def on_step_begin(self, step: int) -> None:
        """Put the hooks on."""
        if self.schedule.ledger_due(step):
            self.ledger.begin()

    def on_backward_end(self, step: int) -> None:
        """Take the hooks off and write."""
        if self.ledger.active:
            self.write(step, self.ledger.entries())

    def on_train_end(self) -> None:
        """Take the hooks off."""
        self.ledger.cancel()


class Evaluate(Callback):
    """Measures mAP on the evaluation's steps, and on the step at which training diverged."""

    def __init__(
        self,
        state: TrainState,
        schedule: Schedule,
        dataset: Dataset,
        loaders: Mapping[str, Loader],
        config: Config,
        logger: Logger,
        dist: SingleProcess,
    ) -> None:
        self.state, self.schedule, self.dataset, self.loaders = state, schedule, dataset, loaders
        self.config, self.logger, self.dist = config, logger, dist
        self.pictures = Throttle(SECONDS_BETWEEN_PICTURES)

    def on_record(self, row: Row) -> None:
        """Add `val/mAP50-95` and the others; log pictures of the predictions."""
        step, diverged = row["step"], self.state.step == row["step"]
        if not (self.schedule.should_evaluate(step) or diverged):
            return
        last = diverged or self.state.step == self.schedule.steps
        draw = self.dist.is_main_process and self.pictures.ready(force=last)
        for split in ("train", "val") if self.config.train.eval_train else ("val",):
            batches = self.loaders[split].eval_batches(batch=self.config.train.batch)
            items, others = self.dataset.splits[split], self.config.train.metrics
            result = evaluate(self.state, batches, items, self.dist, others)
            row |= {f"{split}/{name}": value for name, value in result.metrics.items()}
            if draw:
                limit = self.config.tracking.images
                images = prediction_images(self.dataset, split, result.predictions, limit)
                self.logger.predictions(step, images)


class Log(Callback):
    """Hands every row to the loggers, and keeps the time."""

    def __init__(self, state: TrainState, logger: Logger) -> None:
        self.state, self.logger = state, logger
        self._earlier, self._started = state.seconds, time.perf_counter()

    def on_record(self, row: Row) -> None:
        """Log."""
        self.logger.log(row)
        self._keep_time()

    def on_train_end(self) -> None:
        """Take the last steps into account."""
        self._keep_time()

    def _keep_time(self) -> None:
        self.state.seconds = self._earlier + time.perf_counter() - self._started
