"""What a checkpoint holds: everything needed to go on, exactly. Its file is nn/checkpoint_file.py's."""

from __future__ import annotations

import random
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.nn.checkpoint_file import FORMAT, read, write
from detector.ranks import ALONE, Ranks
from detector.training.learner import Learner

__all__ = ["Checkpoints", "load_state", "read", "state_dict", "write"]


class Checkpoints:
    """`last.pt` after every evaluation, and a copy as `best.pt` when it is the best so far.

    Best means: highest mAP50-95 on val; between equals, on train. Without the second, a detector that
    never generalises (COCO8 from scratch) would keep its first weights as the best.
    """

    def __init__(self, directory: Path, extra: Mapping[str, Any], ranks: Ranks = ALONE) -> None:
        """Save to `directory`, made if need be; `extra` is plain data kept with each checkpoint.

        Of several processes the first saves, for all: they have the same state.
        """
        self.directory, self.extra = directory, dict(extra)
        self.last, self.best = directory / "last.pt", directory / "best.pt"
        self.ranks = ranks
        if ranks.first:
            directory.mkdir(parents=True, exist_ok=True)

    def save(self, learner: Learner, row: Mapping[str, float] | None = None) -> None:
        """Write `last.pt`, and `best.pt` if `row` holds a better evaluation than any before."""
        if not self.ranks.first:
            return
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
        "rng": _random_state(learner.device),
        "step": learner.step,
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
    _restore_random_state(state["rng"], learner.device)
    learner.step, learner.seconds, learner.best = state["step"], state["seconds"], tuple(state["best"])


def _random_state(device: torch.device) -> dict[str, Any]:
    # numpy's global generator is not used here, but by libraries that augment.
    name, keys, *rest = np.random.get_state(legacy=True)  # noqa: NPY002
    return {
        "python": random.getstate(),
        "numpy": (
            str(name),
            [int(key) for key in keys],
            *(x if isinstance(x, float) else int(x) for x in rest),
        ),
        "torch": torch.get_rng_state(),
        # This process's GPU alone: the others are other processes', which draw the same.
        "cuda": [torch.cuda.get_rng_state(device)] if device.type == "cuda" else [],
    }


def _restore_random_state(state: Mapping[str, Any], device: torch.device) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and device.type == "cuda":
        torch.cuda.set_rng_state(state["cuda"][0], device)
