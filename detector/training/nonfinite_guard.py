"""A step whose numbers are not finite: undone, looked at once more, and kept to be replayed."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detector.data.dataset import Dataset
from detector.errors import UserError
from detector.gradients.nonfinite import Culprit, first_culprit
from detector.runtime.checkpoint_file import FORMAT, read, write
from detector.runtime.files import write_text
from detector.runtime.random_state import random_state, restore_random_state
from detector.runtime.ranks import ALONE, Ranks
from detector.training.state import Learner

UNDONE = "The step was undone: the learner is as it was before it."
FOLDER, STATE, REPORT = "failure", "state.pt", "failure.json"
MEASURED = "train/loss", "train/loss_box", "train/loss_cls", "train/loss_dfl", "train/grad_norm"


class Rewind:
    """What a forward pass changes: the norms' statistics and the random generators. Weights it does not."""

    def __init__(self, model: nn.Module) -> None:
        buffers = [buffer for buffer in model.buffers() if buffer.numel()]
        kinds = {(buffer.dtype, buffer.device) for buffer in buffers}
        # By type, so that each group is copied in one go.
        self._live = [[b for b in buffers if (b.dtype, b.device) == kind] for kind in kinds]
        self._kept = [[buffer.clone() for buffer in group] for group in self._live]
        self._device = next(model.parameters()).device
        self._random = random_state(self._device)

    @torch.no_grad()
    def mark(self) -> None:
        """Remember this moment."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)
        self._random = random_state(self._device)

    @torch.no_grad()
    def back(self) -> None:
        """Return to it."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)
        restore_random_state(self._random, self._device)

    @contextmanager
    def undoing(self) -> Iterator[None]:
        """Around a step's passes: an error that breaks them off leaves the learner as it was before them.

        The error says so in a note, `UNDONE`: such a learner can be saved.
        """
        try:
            yield
        except Exception as error:
            self.back()
            error.add_note(UNDONE)
            raise


@dataclass(frozen=True)
class Failure:
    """A step that was undone, and everything to do its passes again."""

    row: Mapping[str, float]  # what was measured: step, epoch, loss and its parts, gradient norm
    indices: tuple[
        tuple[int, ...], ...
    ]  # of each micro-batch's images in the training split, on all processes
    culprit: Culprit | None  # None: the same passes were finite the second time
    state: Mapping[str, Any]  # what the passes depend on besides the batches, as it was before them


def examine(
    learner: Learner,
    losses: Iterable[Tensor],
    rewind: Rewind,
    row: Mapping[str, float],
    indices: tuple[tuple[int, ...], ...],
) -> Failure:
    """Undo a step that was not taken, run its passes again to find the culprit, and undo those.

    Of several processes, each examines its own share, and all are given the one culprit that came first.

    Args:
        learner: its gradients are left empty.
        losses: the scaled loss of each micro-batch, computed when it is asked for.
        rewind: marked before the step.
        row, indices: see `Failure`.
    """
    rewind.back()
    # Copied, since training may go on.
    weights = {key: value.detach().cpu().clone() for key, value in learner.model.state_dict().items()}
    state = {"model": weights, "scaler": learner.scaler.state_dict(), "rng": random_state(learner.device)}
    try:
        culprit = first_culprit(learner.model, losses, learner.ranks)
    finally:
        learner.optimizer.zero_grad(set_to_none=True)
        rewind.back()
    return Failure(row, indices, culprit, state)


class FailureFile:
    """Keeps the newest failure of a run in its directory: `failure/state.pt`, and `failure.json` to read.

    Args:
        run: the run's directory.
        dataset: whose training images the batches are.
        extra: what a checkpoint keeps of the run: architecture, fingerprint of the data, ….
        where: device and precision.
        say: takes a line for a person.
        ranks: of several processes the first writes, for all: they are given the same failure.
    """

    def __init__(
        self,
        run: Path,
        dataset: Dataset,
        extra: Mapping[str, Any],
        where: str,
        say: Callable[[str], None],
        ranks: Ranks = ALONE,
    ) -> None:
        self.run, self.dataset, self.extra, self.where, self.say = run, dataset, dict(extra), where, say
        self.ranks = ranks

    def __call__(self, failure: Failure) -> None:
        """Say what happened and keep it. A full disk costs the file, not the run."""
        if not self.ranks.first:
            return
        items = self.dataset.splits["train"]
        images = [[str(items[index].image) for index in batch] for batch in failure.indices]
        row = failure.row
        known = {
            "step": int(row["step"]),
            "epoch": int(row["epoch"]),
            # JSON has no NaN.
            **{key: row[key] if math.isfinite(row[key]) else str(row[key]) for key in MEASURED},
            "culprit": asdict(failure.culprit) if failure.culprit else None,
            "images": images,
            "where": self.where,
        }
        cause = failure.culprit or "no layer, when its passes were run again"
        skipped = f"; skipped, {row['train/skipped']} so far" if "train/skipped" in row else ""
        self.say(f"not finite at step {known['step']}, first in: {cause}{skipped}")
        try:
            folder = self.run / FOLDER
            folder.mkdir(exist_ok=True)
            state = {"format": FORMAT, "step": known["step"], "extra": self.extra, **failure.state}
            write(state | {"failure": known, "indices": failure.indices}, folder / STATE)
            write_text(folder / REPORT, json.dumps(known, indent=2, ensure_ascii=False) + "\n")
        except OSError as error:
            self.say(f"the step could not be saved for replay: {error}")
        else:
            shown = sorted({Path(name).name for batch in images for name in batch})
            names = ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
            self.say(f"its images: {names}; to repeat the step: detector replay {self.run}")


def read_failure(run: Path) -> dict[str, Any]:
    """What `FailureFile` wrote, as plain data.

    Raises:
        UserError: the run has none, or it is damaged.
    """
    path = run / FOLDER / STATE
    if not path.exists():
        is_run = (run / "config.yaml").exists()
        why = "its numbers were always finite" if is_run else "this is no run's directory"
        raise UserError(f"{run}: there is no {FOLDER}/{STATE}: {why}")
    saved = read(path)
    if not {"failure", "indices", "extra", "model", "scaler", "rng"} <= saved.keys():
        raise UserError(f"{path}: not a step saved for replay")
    return saved
