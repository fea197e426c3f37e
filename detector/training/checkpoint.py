"""What a checkpoint holds: everything needed to go on, exactly. Its file is nn/checkpoint_file.py's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from detector.files import remove_leftovers
from detector.nn.checkpoint_file import FORMAT, read, write
from detector.training.learner import Learner
from detector.training.randomness import random_state, restore_random_state

__all__ = ["Checkpoints", "load_state", "read", "state_dict", "write"]


class Checkpoints:
    """`last.pt` after every evaluation, and a copy as `best.pt` when it is the best so far.

    Best means: highest mAP50-95 on val; between equals, on train. Without the second, a detector that
    never generalises (COCO8 from scratch) would keep its first weights as the best.
    """

    def __init__(self, directory: Path, extra: Mapping[str, Any]) -> None:
        """Save to `directory`, made if need be; `extra` is plain data kept with each checkpoint."""
        self.directory, self.extra = directory, dict(extra)
        self.last, self.best = directory / "last.pt", directory / "best.pt"
        directory.mkdir(parents=True, exist_ok=True)
        remove_leftovers(directory)

    def save(self, learner: Learner, row: Mapping[str, float] | None = None) -> None:
        """Write `last.pt`, and `best.pt` if `row` holds a better evaluation than any before."""
        is_best = row is not None and (score := _score(row)) > learner.best
        if is_best:
            learner.best = score
        state = state_dict(learner) | {"extra": self.extra}
        write(state, self.last)
        if is_best or not self.best.exists():
            write(state, self.best)


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
        "rng": random_state(),
        "step": learner.step,
        "skipped": learner.skipped,
        "skipped_in_a_row": learner.skipped_in_a_row,
        "seconds": learner.seconds,
        "best": learner.best,
    }


def load_state(state: Mapping[str, Any], learner: Learner) -> None:
    """Put a checkpoint's state into a learner built from the same configuration."""
    learner.model.load_state_dict(state["model"])
    if learner.ema is not None:
        learner.ema.load_state_dict(state["ema"])
    learner.optimizer.load_state_dict(state["optimizer"])
    if state["scaler"]:
        learner.scaler.load_state_dict(state["scaler"])
    restore_random_state(state["rng"])
    learner.step, learner.seconds, learner.best = state["step"], state["seconds"], tuple(state["best"])
    learner.skipped = state.get("skipped", 0)  # absent in early checkpoints
    learner.skipped_in_a_row = state.get("skipped_in_a_row", 0)
