"""What a checkpoint holds: everything needed to go on, exactly. Its file is nn/checkpoint_file.py's."""

from __future__ import annotations

import copy
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detector.errors import UserError
from detector.runtime.checkpoint_file import FORMAT, read, write
from detector.runtime.files import remove_leftovers
from detector.runtime.random_state import random_state, restore_random_state
from detector.runtime.ranks import ALONE, Ranks
from detector.training.state import Learner

__all__ = ["Checkpoints", "load_state", "read", "state_dict", "write"]


SHARE = 0.02  # of a run's time, for checkpoints


class Checkpoints:
    """`last.pt` after evaluations, and `best.pt`, the best of them all.

    Best means: highest mAP50-95 on val; between equals, on train. Without the second, a detector that
    never generalises (COCO8 from scratch) would keep its first weights as the best.

    Where evaluations follow each other fast, not every one is worth a file: see `offer`.
    """

    def __init__(
        self, directory: Path, extra: Mapping[str, Any], ranks: Ranks = ALONE, share: float = SHARE
    ) -> None:
        """Save to `directory`, made if need be; `extra` is plain data kept with each checkpoint.

        Of several processes the first saves, for all: they have the same state.
        """
        self.directory, self.extra = directory, dict(extra)
        self.last, self.best = directory / "last.pt", directory / "best.pt"
        self.ranks, self.share = ranks, share
        self._due = 0.0  # when the next one is, on the clock of time.monotonic
        self._best: dict[str, Any] | None = None  # the best state so far, while it is not on the disk
        if ranks.first:
            directory.mkdir(parents=True, exist_ok=True)
            remove_leftovers(directory)

    def offer(self, learner: Learner, row: Mapping[str, float]) -> None:
        """After an evaluation: save, unless saving would take more than `share` of the time.

        Then the state is kept in memory if it is the best, until the next one is saved. A run that is
        killed in between goes on from an earlier step and does the same again.
        """
        if not self.ranks.first:
            return
        if time.monotonic() >= self._due:
            self.save(learner, row)
        elif _is_best(row, learner):
            self._best = copy.deepcopy(self._state(learner))

    def save(self, learner: Learner, row: Mapping[str, float] | None = None) -> None:
        """Write `last.pt`, and `best.pt` if the best evaluation, which may be `row`'s, is not there yet.

        The best comes first: a run that ends between the two goes on from the older `last.pt`, and comes to
        this same evaluation again. An untrained network is nobody's best.

        Raises:
            OSError: a file cannot be written; the one before is still there.
        """
        if not self.ranks.first:
            return
        started = time.monotonic()
        is_best = row is not None and _is_best(row, learner)
        state = self._state(learner)
        if is_best or (learner.step and self._best is None and not self.best.exists()):
            self._best = state
        self.save_best()
        write(state, self.last)
        ended = time.monotonic()
        self._due = ended + (ended - started) / self.share

    def save_best(self) -> None:
        """Write `best.pt`, if the best evaluation's state is not there yet."""
        if self._best is not None:
            write(self._best, self.best)
            self._best = None

    def _state(self, learner: Learner) -> dict[str, Any]:
        return state_dict(learner) | {"extra": self.extra}


def _is_best(row: Mapping[str, float], learner: Learner) -> bool:
    """Whether `row` holds a better evaluation than any before; if so the learner remembers it."""
    if (score := _score(row)) <= learner.best:
        return False
    learner.best = score
    return True


def _score(row: Mapping[str, float]) -> tuple[float, ...]:
    # A NaN (nothing to find in the split) compares as false with everything: count it as the worst.
    scores = (row.get("val/mAP50-95", -1.0), row.get("train/mAP50-95", -1.0))
    return tuple(score if score == score else -1.0 for score in scores)


def state_dict(learner: Learner) -> dict[str, Any]:
    """Everything needed to go on as if nothing had happened."""
    return {
        "format": FORMAT,
        "model": learner.model.state_dict(),
        "ema": None if learner.ema is None else learner.ema.state_dict(),
        "optimizer": learner.optimizer.state_dict(),
        "scaler": learner.scaler.state_dict(),
        "rng": random_state(learner.device),
        "step": learner.step,
        "skipped": learner.skipped,
        "skipped_in_a_row": learner.skipped_in_a_row,
        "seconds": learner.seconds,
        "best": learner.best,
    }


def load_state(state: Mapping[str, Any], learner: Learner) -> None:
    """Put a checkpoint's state into a learner built from the same configuration.

    Raises:
        UserError: it does not fit: it is damaged, or of another configuration.
    """
    try:
        _load_state(state, learner)
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


def _load_state(state: Mapping[str, Any], learner: Learner) -> None:
    learner.model.load_state_dict(state["model"])
    if learner.ema is not None:
        learner.ema.load_state_dict(state["ema"])
    _load_optimizer(state["optimizer"], learner.optimizer)
    if state["scaler"]:
        learner.scaler.load_state_dict(state["scaler"])
    restore_random_state(state["rng"], learner.device)
    learner.step, learner.seconds, learner.best = state["step"], state["seconds"], tuple(state["best"])
    learner.skipped = state.get("skipped", 0)  # absent in early checkpoints
    learner.skipped_in_a_row = state.get("skipped_in_a_row", 0)


def _load_optimizer(state: Mapping[str, Any], optimizer: torch.optim.Optimizer) -> None:
    """As `optimizer.load_state_dict`, which checks no shape and no setting, so that a step would fail."""
    own = [{key: group[key] for key in _KERNELS} for group in optimizer.param_groups]
    wanted = [_types(group) for group in optimizer.param_groups]
    optimizer.load_state_dict(dict(state))
    found = [_types(group) for group in optimizer.param_groups]
    if found != wanted:
        raise ValueError("the optimiser's settings are of other types")
    for group, kernels in zip(optimizer.param_groups, own, strict=True):
        group.update(kernels)
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"the optimiser's {key!r} has the wrong shape")


_KERNELS = "foreach", "fused"  # how the optimiser computes, not what: whoever goes on may do it another way


def _types(group: Mapping[str, Any]) -> dict[str, type]:
    return {key: type(value) for key, value in group.items() if key not in ("params", *_KERNELS)}
