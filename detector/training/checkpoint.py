"""Checkpoints: tensors and plain data only, written so that a crash never costs the previous one."""

from __future__ import annotations

import os
import pickle
import random
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from detector.errors import UserError
from detector.training.learner import Learner

FORMAT = 1


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
        "rng": _random_state(),
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
    _restore_random_state(state["rng"])
    learner.step, learner.seconds, learner.best = state["step"], state["seconds"], tuple(state["best"])


def write(state: Mapping[str, Any], path: Path) -> None:
    """Write atomically: to a temporary file beside, flushed to the disk, then renamed."""
    handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}-")
    try:
        with os.fdopen(handle, "wb") as file:
            torch.save(dict(state), file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise


def read(path: Path) -> dict[str, Any]:
    """Read a checkpoint; no code in it is ever run.

    Raises:
        UserError: it is missing, broken, or not one of this project's.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise UserError(f"{path}: there is no checkpoint here") from None
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError, KeyError) as error:
        raise UserError(f"{path}: not a readable checkpoint ({type(error).__name__})") from error
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise UserError(f"{path}: not a checkpoint of this project (format {FORMAT} expected)")
    return state


def _random_state() -> dict[str, Any]:
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
        "cuda": torch.cuda.get_rng_state_all() if torch.cuda.is_available() else [],
    }


def _restore_random_state(state: Mapping[str, Any]) -> None:
    version, internal, gauss = state["python"]
    random.setstate((version, tuple(internal), gauss))
    np.random.set_state(tuple(state["numpy"]))  # noqa: NPY002
    torch.set_rng_state(state["torch"])
    if state["cuda"] and len(state["cuda"]) == torch.cuda.device_count():
        torch.cuda.set_rng_state_all(state["cuda"])
