"""The engine: one function that trains and one that evaluates, each to be read in one sitting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from detector.config import TrainConfig
from detector.data.loader import Batch
from detector.data.yolo import Item
from detector.gradients.nonfinite import first_bad_layer
from detector.gradients.recorder import GradientRecorder
from detector.nn.loss import Loss
from detector.nn.model import Predictions
from detector.training.evaluate import predict_split
from detector.training.learner import Learner
from detector.training.metrics import Prediction, coco_map
from detector.training.optimizer import learning_rate
from detector.training.plan import Plan

Row = dict[str, float]


class Criterion(Protocol):
    """Scores raw predictions against targets."""

    def begin_epoch(self, epoch: int) -> None:
        """Training is in this epoch (from 0)."""

    def __call__(self, preds: Any, targets: dict[str, Tensor]) -> Loss:
        """Compute the loss."""


@dataclass
class Outcome:
    """How training ended."""

    status: str  # "finished", "stopped" on request, or "diverged"
    bad_layer: str | None = None  # after "diverged": the first layer whose numbers were not finite


def train(
    learner: Learner,
    criterion: Criterion,
    batches: Iterable[Batch],
    plan: Plan,
    config: TrainConfig,
    recorder: GradientRecorder,
    report: Callable[[Row], None],
    stop: Callable[[], bool],
    itemise: Callable[[int], AbstractContextManager[None]] = lambda step: nullcontext(),
) -> Outcome:
    """Train from `learner.step` to `plan.steps`: forward, backward, record, clip, step.

    Args:
        learner: the model and what trains it; changed in place.
        criterion: raw predictions and targets -> the loss.
        batches: `plan.accumulate` a step, beginning with those of step `learner.step`; of several
            processes, each has its share of every batch.
        plan: how many steps, and which are recorded.
        config: how the weights are fitted.
        recorder: measures the gradients of the recorded steps.
        report: takes the row of each recorded step, after the weights were updated: to evaluate, log, save.
        stop: asked before each step; all processes must get the same answer.
        itemise: put around a step's passes: the gradient's ledger.
    """
    model, optimizer, scaler, ranks = learner.model, learner.optimizer, learner.scaler, learner.ranks
    source, clock = iter(batches), Stopwatch()
    while learner.step < plan.steps:
        if stop():
            return Outcome("stopped")
        step = learner.step
        learner.train_mode()
        criterion.begin_epoch(plan.epoch(step))
        rate = learning_rate(step, plan.steps, config)
        for group in optimizer.param_groups:
            group["lr"] = rate * group["lr_factor"]
        if plan.records(step):
            recorder.begin()

        # Forward and backward, once a micro-batch; the gradients add up.
        optimizer.zero_grad(set_to_none=True)
        micro_batches = ranks.agree(lambda: list(islice(source, plan.accumulate)))
        with itemise(step):
            losses = [backward(learner, criterion, batch).parts for batch in micro_batches]
        parts = ranks.sum(torch.stack(losses).mean(0))
        ranks.add_up([p.grad for p in model.parameters() if p.grad is not None])

        # Record: the true gradient is the one after accumulation, all processes' sum and unscaling, before
        # clipping. From here on every process has the same numbers, and so takes the same decisions.
        scaler.unscale_(optimizer)
        if plan.records(step):
            recorder.gradients(scaler.get_scale())
        norm = clip_gradients(model, config.clip)

        # Step, unless the numbers are broken. A gradient scaler expects infinities, and skips those steps.
        suspect = parts.sum() if scaler.is_enabled() else parts.sum() + norm
        broken = not bool(torch.isfinite(suspect))
        if not broken:
            scaler.step(optimizer)
            scaler.update()
            learner.join_statistics()
            if learner.ema is not None:
                learner.ema.update_parameters(model)
            learner.step += 1
        clock.lap()

        if broken or plan.records(step):
            measured = recorder.end({"train/loss": parts.sum(), **_named(parts), "train/grad_norm": norm})
            row = {"step": step, "epoch": plan.epoch(step), "train/lr": rate, **measured}
            row["time/step_ms"] = clock.mean_ms()
            if broken:
                again = partial(_total_loss, learner, criterion, micro_batches)
                named = ranks.everyone(first_bad_layer(model, again))
                outcome = Outcome("diverged", min(named, key=_how_early))
                report(row)
                return outcome
            report(row)
            clock.restart()
    return Outcome("finished")


class Evaluation(NamedTuple):
    """One split's result."""

    metrics: dict[str, float]  # `mAP50-95` and `mAP50`
    predictions: list[Prediction]  # one an image, in the split's order, in pixels of the original image


def evaluate(learner: Learner, batches: Iterable[Batch], items: Sequence[Item]) -> Evaluation:
    """Predict a split and score it against its labels by the official COCO evaluation.

    Args:
        learner: its averaged weights are used where it has them.
        batches: the split's batches, in order; of several processes, each has its share of the split.
        items: the split, with labels as fractions of each image.

    Returns:
        The whole split's result on the first process; nothing elsewhere.
    """
    network = learner.evaluated_model.eval()

    def forward(images: Tensor) -> Predictions:
        with learner.autocast():
            raw: Predictions = network(learner.images(images))
        return raw

    shares = learner.ranks.collect(predict_split(forward, learner.model, batches, items))
    if not shares:
        return Evaluation({}, [])
    truths, predictions = ([one for share in part for one in share] for part in zip(*shares, strict=True))
    return Evaluation(coco_map(truths, predictions, learner.model.num_classes), predictions)


def backward(learner: Learner, criterion: Criterion, batch: Batch) -> Loss:
    """One forward and backward pass; gradients are added to what is there."""
    batch = batch.to(learner.device)
    with learner.autocast():
        preds = learner.model(learner.images(batch.images))
    loss = criterion(preds, batch.targets())
    learner.scaler.scale(loss.total).backward()
    return loss


def _total_loss(learner: Learner, criterion: Criterion, batches: Sequence[Batch]) -> Tensor:
    return torch.stack([backward(learner, criterion, batch).total for batch in batches]).sum()


def clip_gradients(model: torch.nn.Module, limit: float | None) -> Tensor:
    """Scale all gradients down so that their joint norm is at most `limit`; return the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    if limit is not None:
        torch.nn.utils.clip_grads_with_norm_(model.parameters(), limit, norm)
    return norm


class Stopwatch:
    """Times training steps, evaluations and logging left out."""

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin a new stretch of steps."""
        self._since, self._laps = time.perf_counter(), 0

    def lap(self) -> None:
        """A step is done."""
        self._laps += 1

    def mean_ms(self) -> float:
        """The mean lap since the restart, in milliseconds."""
        return 1000 * (time.perf_counter() - self._since) / self._laps


def _how_early(bad_layer: str | None) -> int:
    """What one process calls bad may have come to it from another, where it began earlier."""
    return 3 if bad_layer is None else {"forward": 0, "backward": 1}.get(bad_layer.split()[0], 2)


def _named(parts: Tensor) -> Mapping[str, Tensor]:
    return dict(zip(("train/loss_box", "train/loss_cls", "train/loss_dfl"), parts, strict=True))
