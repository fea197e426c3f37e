"""What a checkpoint holds: everything needed to go on, exactly. Its file is nn/checkpoint_file.py's."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from detector.errors import UserError
from detector.files import remove_leftovers
from detector.nn.checkpoint_file import FORMAT, read, write
from detector.ranks import ALONE, Ranks
from detector.training.learner import Learner
from detector.training.randomness import random_state, restore_random_state

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
            remove_leftovers(directory)

    def save(self, learner: Learner, row: Mapping[str, float] | None = None) -> None:
        """Write `last.pt`, and `best.pt` if `row` holds a better evaluation than any before.

        The best comes first: a run that ends between the two goes on from the older `last.pt`, and comes to
        this same evaluation again. An untrained network is nobody's best.

        Raises:
            OSError: a file cannot be written; the one before is still there.
        """
        if not self.ranks.first:
            return
        before = learner.best
        is_best = row is not None and (score := _score(row)) > before
        if is_best:
            learner.best = score
        state = state_dict(learner) | {"extra": self.extra}
        try:
            if is_best or (learner.step and not self.best.exists()):
                write(state, self.best)
            write(state, self.last)
        except BaseException:
            learner.best = before
            raise


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
    wanted = [
        {key: type(value) for key, value in g.items() if key != "params"} for g in optimizer.param_groups
    ]
    optimizer.load_state_dict(dict(state))
    found = [
        {key: type(value) for key, value in g.items() if key != "params"} for g in optimizer.param_groups
    ]
    if found != wanted:
        raise ValueError("the optimiser's settings are of other types")
    for group in optimizer.param_groups:
        for parameter in group["params"]:
            for key, value in optimizer.state.get(parameter, {}).items():
                if isinstance(value, torch.Tensor) and value.dim() and value.shape != parameter.shape:
                    raise ValueError(f"the optimiser's {key!r} has the wrong shape")
