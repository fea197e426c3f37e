"""A step whose numbers are not finite: restored, looked at once more, and kept to be replayed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.data.dataset import Dataset
from detector.gradients.nonfinite import NonFiniteOrigin, find_nonfinite_origin
from detector.models.loss import LossFunction
from detector.registry import with_plugins
from detector.rows import Key
from detector.rundir import RunDir
from detector.runtime.checkpoint_check import FailureState, Metadata
from detector.runtime.checkpoint_file import FORMAT
from detector.runtime.distributed import SingleProcess
from detector.runtime.random_state import random_state, restore_random_state
from detector.training.callbacks import Callback, Row
from detector.training.engine import forward
from detector.training.state import TrainState

MEASURED = Key.LOSS, *Key.LOSSES, Key.GRAD_NORM


class StepSnapshot:
    """What a forward pass changes: the norms' statistics and the random generators, but no weights."""

    def __init__(self, model: nn.Module) -> None:
        buffers = [buffer for buffer in model.buffers() if buffer.numel()]
        kinds = {(buffer.dtype, buffer.device) for buffer in buffers}
        # By type, so that each group is copied in one go.
        self._live = [[b for b in buffers if (b.dtype, b.device) == kind] for kind in kinds]
        self._kept = [[buffer.clone() for buffer in group] for group in self._live]
        self._device = next(model.parameters()).device
        self._random = random_state(self._device)

    @torch.no_grad()
    def take(self) -> None:
        """Remember this moment."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(kept, live)
        self._random = random_state(self._device)

    @torch.no_grad()
    def restore(self) -> None:
        """Return to it."""
        for kept, live in zip(self._kept, self._live, strict=True):
            torch._foreach_copy_(live, kept)
        restore_random_state(self._random, self._device)


@dataclass(frozen=True)
class NonFiniteStep:
    """A step that was not taken, and everything needed to run its passes again."""

    row: Mapping[str, float]  # what was measured: step, epoch, loss and its parts, gradient norm
    indices: tuple[tuple[int, ...], ...]  # of each joined micro-batch's images in the training split
    origin: NonFiniteOrigin | None  # None: the same passes were finite the second time
    state: Mapping[str, Any]  # what the passes depend on besides the batches, as it was before them


class NonFiniteGuard(Callback):
    """Rejects steps whose numbers are not finite, finds out where they went wrong, and skips or ends.

    Args:
        state: that is trained.
        loss_fn: with which the passes are run again.
        config: `on_nonfinite` and `max_skipped` say whether a step is skipped.
        dist: the processes that train together.
        report: takes each rejected step, understood; on several processes all get the same.
    """

    def __init__(
        self,
        state: TrainState,
        loss_fn: LossFunction,
        config: TrainConfig,
        dist: SingleProcess,
        report: Callable[[NonFiniteStep], None] = lambda step: None,
    ) -> None:
        self.state, self.loss_fn, self.config, self.dist, self.report = state, loss_fn, config, dist, report
        self.origin: NonFiniteOrigin | None = None  # of the last step that was rejected
        self._snapshot = StepSnapshot(state.model)
        self._rejected: Sequence[Batch] | None = None

    @contextmanager
    def attempt(self) -> Iterator[None]:
        """Around a step's passes: an error in them leaves the state as it was before the step.

        The error then carries `state_restored = True`: such a state can be saved.
        """
        self._snapshot.take()
        try:
            yield
        except Exception as error:
            self._snapshot.restore()
            error.state_restored = True  # type: ignore[attr-defined]
            raise

    def accepts(self, micro_batches: list[Batch], loss: Tensor, grad_norm: Tensor) -> bool:
        """Whether loss and gradient norm are finite, on all processes.

        A gradient scaler above 1 expects infinite gradients and skips those steps by itself; at 1 they are
        the network's own. A step that one process rejects is rejected by all, whatever the last digits of a
        norm may be on another make of GPU.
        """
        suspect = loss.sum() if self.state.scaler.get_scale() > 1 else loss.sum() + grad_norm
        rejected = bool(self.dist.all_reduce_max(not bool(torch.isfinite(suspect))))
        self._rejected = micro_batches if rejected else None
        return not rejected

    def on_record(self, row: Row) -> None:
        """Examine the step, if it was rejected; skip it, if the configuration allows one more."""
        if self._rejected is None:
            return
        rejected = self.diagnose_step(row, self._rejected)
        self.origin, self._rejected = rejected.origin, None
        if self.config.on_nonfinite == "skip" and self.state.skipped_in_a_row < self.config.max_skipped:
            self.state.skip_step()
            row[Key.SKIPPED] = self.state.skipped
        self.report(rejected)

    def diagnose_step(self, row: Row, batches: Sequence[Batch]) -> NonFiniteStep:
        """Restore the state before the step, run its passes again to find the origin, and restore again."""
        state, shards = self.state, self.dist.all_gather_object([batch.indices for batch in batches])
        indices = tuple(tuple(chain.from_iterable(parts)) for parts in zip(*shards, strict=True))
        self._snapshot.restore()
        # Copied, since training may continue.
        weights = {key: value.detach().cpu().clone() for key, value in state.model.state_dict().items()}
        before = {"model": weights, "scaler": state.scaler.state_dict(), "rng": random_state(state.device)}
        losses = (state.scaler.scale(forward(state, self.loss_fn, batch).total) for batch in batches)
        try:
            origin = find_nonfinite_origin(
                state.model, losses, self.dist.all_gather_object, self.dist.all_reduce_
            )
        finally:
            state.optimizer.zero_grad(set_to_none=True)
            self._snapshot.restore()
        return NonFiniteStep(row, indices, origin, before)


def save_nonfinite_step(
    step: NonFiniteStep,
    run: RunDir,
    dataset: Dataset,
    extra: Metadata,
    where: str,
    say: Callable[[str], None],
) -> None:
    """Say what happened, and keep the step in `failure/state.pt`, with `failure.json` to read.

    A full disk costs the file, not the run.

    Args:
        step: that was rejected.
        run: where it is kept.
        dataset: whose training images the batches are.
        extra: what a checkpoint keeps of the run: architecture, fingerprint of the data, ….
        where: device and precision.
        say: takes a line to print.
    """
    items = dataset.splits["train"]
    images = [[str(items[index].image) for index in batch] for batch in step.indices]
    row = step.row
    known: dict[str, Any] = {
        "step": int(row[Key.STEP]),
        "epoch": int(row[Key.EPOCH]),
        **{key: row[key] for key in MEASURED},
        "culprit": asdict(step.origin) if step.origin else None,
        "images": images,
        "where": where,
    }
    cause = step.origin or "no layer, when its passes were run again"
    skipped = f"; skipped, {row[Key.SKIPPED]} so far" if Key.SKIPPED in row else ""
    say(f"not finite at step {known['step']}, first in: {cause}{skipped}")
    state: FailureState = {
        "format": FORMAT,
        "step": known["step"],
        "extra": extra,
        "model": step.state["model"],
        "scaler": step.state["scaler"],
        "rng": step.state["rng"],
        "failure": known,
        "indices": step.indices,
    }
    try:
        run.write_failure(state)
    except OSError as error:
        say(f"the step could not be saved for replay: {error}")
    else:
        shown = sorted({Path(name).name for batch in images for name in batch})
        names = ", ".join(shown[:4]) + (f" and {len(shown) - 4} more" if len(shown) > 4 else "")
        say(f"its images: {names}; to repeat the step: {with_plugins(f'detector replay {run}')}")
