"""What a checkpoint holds: everything needed to resume exactly. Its file is runtime/checkpoint_file.py's."""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import torch

from detector.errors import UserError
from detector.registry import lookup
from detector.rows import Key
from detector.rundir import RunDir
from detector.runtime.checkpoint_check import CheckpointState, Metadata
from detector.runtime.checkpoint_file import FORMAT, evaluated_weights
from detector.runtime.files import remove_leftovers
from detector.runtime.random_state import random_state, restore_random_state
from detector.training.callbacks import Callback, Row
from detector.training.metrics import METRICS
from detector.training.schedule import Schedule
from detector.training.state import TrainState

SHARE = 0.02  # of a run's time, for checkpoints


class Checkpointing(Callback):
    """`last.pt` after evaluations, and `best.pt`, the best of them all.

    Best means: best by the monitored metric on val; between equals, on train. Without the second, a detector
    that never generalizes (COCO8 from scratch) would keep its first weights as the best.

    Where evaluations follow each other fast, not every one is worth a file: see `offer`.
    """

    def __init__(
        self,
        state: TrainState,
        schedule: Schedule,
        run: RunDir,
        extra: Metadata,
        monitor: str = Key.MAP,
        *,
        writes: bool = True,
        share: float = SHARE,
    ) -> None:
        """Save `state` to the run's folder of checkpoints, which is created if need be.

        Args:
            state: that is trained.
            schedule: when the model is evaluated.
            run: whose files they are.
            extra: plain data kept with each checkpoint.
            monitor: the metric that says which evaluation is the best.
            writes: whether this process is the one that saves: several have the same state.
            share: how much of the time may be spent on saving after an evaluation.
        """
        self.state, self.schedule, self.extra = state, schedule, extra
        self.run, self.last, self.best = run, run.last, run.best
        self.monitor, self.writes, self.share = monitor, writes, share
        self._due = 0.0  # when the next one is, on the clock of time.monotonic
        self._best: CheckpointState | None = None  # the best state so far, while it is not on the disk
        if writes:
            run.checkpoints.mkdir(parents=True, exist_ok=True)
            remove_leftovers(run.checkpoints)

    def on_record(self, row: Row) -> None:
        """After an evaluation, unless training diverged at it."""
        if self.schedule.should_evaluate(row["step"]) and self.state.step > row["step"]:
            (self.save if self.state.step == self.schedule.steps else self.offer)(row)

    def offer(self, row: Row) -> None:
        """After an evaluation: save, unless saving would take more than `share` of the time.

        Then the state is kept in memory if it is the best, until the next one is saved. A run that is
        killed in between resumes from an earlier step and does the same again.
        """
        if not self.writes:
            return
        if time.monotonic() >= self._due:
            self.save(row)
        elif self._is_best(row):
            self._best = copy.deepcopy(self._state())

    def save(self, row: Row | None = None) -> None:
        """Write `last.pt`, and `best.pt` if the best evaluation, which may be `row`'s, is not there yet.

        The best comes first: a run that ends between the two resumes from the older `last.pt`, and comes to
        this same evaluation again. An untrained network is nobody's best.

        Raises:
            OSError: a file cannot be written; the one before is still there.
        """
        if not self.writes:
            return
        started = time.monotonic()
        is_best = row is not None and self._is_best(row)
        state = self._state()
        rated = self.state.best and self.best.exists()  # else it holds an earlier stop's state, if anything
        if is_best or (self.state.step and self._best is None and not rated):
            self._best = state
        self.save_best()
        self.run.write_checkpoint("last", state)
        ended = time.monotonic()
        self._due = ended + (ended - started) / self.share

    def save_best(self) -> None:
        """Write `best.pt`, if the best evaluation's state is not there yet."""
        if self._best is not None:
            self.run.write_checkpoint("best", self._best)
            self._best = None

    def finish(self) -> None:
        """The run is over: of the best only what predicting and fine-tuning need is kept, a quarter of it."""
        if not self.writes or not self.best.exists():
            return
        best = self.run.read_checkpoint("best")
        if best["optimizer"] or best["ema"] is not None:
            less: CheckpointState = {**best, "model": evaluated_weights(best), "ema": None, "optimizer": {}}
            with suppress(OSError):  # on a full disk the whole one stays
                self.run.write_checkpoint("best", less)

    def _state(self) -> CheckpointState:
        return state_dict(self.state, self.extra)

    def _is_best(self, row: Row) -> bool:
        """Whether `row` holds a better evaluation than any before; if so the state remembers it."""
        if (score := score_of(row, self.monitor)) <= self.state.best:
            return False
        self.state.best, self.state.best_step = score, self.state.step
        return True


def score_of(row: Mapping[str, float], monitor: str) -> tuple[float, ...]:
    """An evaluation's metric on val and on train, such that the greater tuple is the better one."""
    sign = 1 if lookup("metric", monitor, METRICS).better == "higher" else -1
    scores = [sign * row.get(f"{split}/{monitor}", math.nan) for split in ("val", "train")]
    # A NaN (nothing to find in the split) compares as false with everything: count it as the worst.
    worst = -1.0 if monitor in METRICS else -math.inf
    return tuple(score if score == score else worst for score in scores)


def state_dict(train_state: TrainState, extra: Metadata | None = None) -> CheckpointState:
    """Everything needed to resume as if nothing had happened, and what is known of the run."""
    return {
        "format": FORMAT,
        "extra": extra or {},
        "model": train_state.model.state_dict(),
        "ema": None if train_state.ema is None else train_state.ema.state_dict(),
        "optimizer": train_state.optimizer.state_dict(),
        "scaler": train_state.scaler.state_dict(),
        "rng": random_state(train_state.device),
        "step": train_state.step,
        "skipped": train_state.skipped,
        "skipped_in_a_row": train_state.skipped_in_a_row,
        "seconds": train_state.seconds,
        "best": train_state.best,
        "best_step": train_state.best_step,
    }


def load_state(saved: Mapping[str, Any], train_state: TrainState) -> None:
    """Load a checkpoint into a state built from the same configuration.

    Raises:
        UserError: it does not fit: it is damaged, or of another configuration.
    """
    try:
        _load_state(saved, train_state)
    except (
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        AttributeError,
        IndexError,
        OverflowError,
    ) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(
            f"the checkpoint does not fit the run's configuration ({type(error).__name__}: {reason}); "
            f"one of them was changed or is damaged"
        ) from error


def _load_state(saved: Mapping[str, Any], train_state: TrainState) -> None:
    train_state.model.load_state_dict(saved["model"])
    if train_state.ema is not None:
        train_state.ema.load_state_dict(saved["ema"])
    _load_optimizer(saved["optimizer"], train_state.optimizer)
    if saved["scaler"]:
        train_state.scaler.load_state_dict(saved["scaler"])
    restore_random_state(saved["rng"], train_state.device)
    train_state.step, train_state.seconds, train_state.best = (
        saved["step"],
        saved["seconds"],
        tuple(saved["best"]),
    )
    train_state.best_step = saved.get("best_step", 0)
    train_state.skipped = saved.get("skipped", 0)  # absent in early checkpoints
    train_state.skipped_in_a_row = saved.get("skipped_in_a_row", 0)


def _load_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """As `optimizer.load_state_dict`, which checks no shape and no setting, so that a step would fail."""
    own = [{key: group[key] for key in _KERNELS if key in group} for group in optimizer.param_groups]
    wanted = [_types(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    found = [_types(group) for group in optimizer.param_groups]
    if found != wanted:
        raise ValueError("the optimizer's settings are of other types")
    for group, kernels in zip(optimizer.param_groups, own, strict=True):
        group.update(kernels)
        if not isinstance(optimizer, torch.optim.SGD | torch.optim.AdamW):
            continue  # Adafactor's and others' state may have any shape
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"the optimizer's {key!r} has the wrong shape")


_KERNELS = "foreach", "fused"  # how the optimizer computes, not what: a resumed run may do it another way


def _types(group: Mapping[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in group.items() if key not in ("params", *_KERNELS)}
