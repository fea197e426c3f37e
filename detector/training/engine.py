"""The engine: one function that trains and one that evaluates, each to be read in one sitting."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from detector.config.schema import TrainConfig
from detector.data.dataset import Item
from detector.data.loader import Batch
from detector.gradients.nonfinite import Culprit
from detector.gradients.recorder import GradientRecorder
from detector.models.base import Predictions
from detector.models.loss import Loss
from detector.training.evaluation import predict_split
from detector.training.metrics import Prediction, coco_map
from detector.training.nonfinite_guard import Failure, Rewind, examine
from detector.training.optimizer import learning_rate
from detector.training.schedule import Plan
from detector.training.state import Learner

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
    culprit: Culprit | None = None  # after "diverged": where numbers first were not finite


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
    failed: Callable[[Failure], None] = lambda failure: None,
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
        failed: takes each step whose numbers were not finite, once it is undone and understood; of several
            processes, every one of them is given the same.
    """
    model, optimizer, scaler, ranks = learner.model, learner.optimizer, learner.scaler, learner.ranks
    source, clock, rewind = iter(batches), Stopwatch(), Rewind(model)
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
        rewind.mark()

        # Forward and backward, once a micro-batch; the gradients add up.
        optimizer.zero_grad(set_to_none=True)
        with rewind.undoing():
            micro_batches = ranks.agree(lambda: list(islice(source, plan.accumulate)))
        with rewind.undoing(), itemise(step):
            losses = [backward(learner, criterion, batch).parts for batch in micro_batches]
        parts = ranks.sum(torch.stack(losses).mean(0))
        ranks.add_up([p.grad for p in model.parameters() if p.grad is not None])

        # Record: the true gradient is the one after accumulation, all processes' sum and unscaling, before
        # clipping. From here on every process has the same numbers.
        scaler.unscale_(optimizer)
        if plan.records(step):
            recorder.gradients(scaler.get_scale())
        norm = clip_gradients(model, config.clip)

        # Step, unless the numbers are broken. A gradient scaler above 1 expects infinite gradients, and
        # leaves those steps out by itself; at 1 they are the network's own. What is broken for one process
        # is so for all, whatever the last digits of a norm may be on another make of GPU.
        suspect = parts.sum() if scaler.get_scale() > 1 else parts.sum() + norm
        broken = bool(ranks.largest(not bool(torch.isfinite(suspect))))
        if not broken:
            scaler.step(optimizer)
            scaler.update()
            learner.join_statistics()
            if learner.ema is not None:
                learner.ema.update_parameters(model)
            learner.step, learner.skipped_in_a_row = step + 1, 0
        elif config.on_nonfinite == "skip":
            recorder.cancel()  # the curves show the steps that were taken
        clock.lap()

        if broken or plan.records(step):
            measured = recorder.end({"train/loss": parts.sum(), **named(parts), "train/grad_norm": norm})
            row = {"step": step, "epoch": plan.epoch(step), "train/lr": rate, **measured}
            row["time/step_ms"] = clock.mean_ms()
            if broken:
                indices = joined_indices(ranks.everyone([batch.indices for batch in micro_batches]))
                losses_again = scaled_losses(learner, criterion, micro_batches)
                failure = examine(learner, losses_again, rewind, row, indices)
                if learner.skip(config):
                    row["train/skipped"] = learner.skipped
                failed(failure)
            report(row)
            if broken and learner.step == step:
                return Outcome("diverged", failure.culprit)
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

    ranks = learner.ranks
    shares = ranks.collect(ranks.agree(lambda: predict_split(forward, learner.model, batches, items)))
    if not shares:
        return Evaluation({}, [])
    truths, predictions = ([one for share in part for one in share] for part in zip(*shares, strict=True))
    return Evaluation(coco_map(truths, predictions, learner.model.num_classes), predictions)


def backward(learner: Learner, criterion: Criterion, batch: Batch) -> Loss:
    """One forward and backward pass; gradients are added to what is there."""
    loss = forward(learner, criterion, batch)
    learner.scaler.scale(loss.total).backward()
    return loss


def forward(learner: Learner, criterion: Criterion, batch: Batch) -> Loss:
    """One forward pass."""
    batch = batch.to(learner.device)
    with learner.autocast():
        preds = learner.model(learner.images(batch.images))
    return criterion(preds, batch.targets())


def scaled_losses(learner: Learner, criterion: Criterion, batches: Sequence[Batch]) -> Iterator[Tensor]:
    """What a step differentiates, one micro-batch at a time, each computed when it is asked for."""
    for batch in batches:
        yield learner.scaler.scale(forward(learner, criterion, batch).total)


def clip_gradients(model: torch.nn.Module, limit: float | None) -> Tensor:
    """Scale all gradients down so that their joint norm is at most `limit`; return the norm before."""
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    norm = torch.nn.utils.get_total_norm(gradients)
    # On a GPU, to look at the norm would mean to wait for it: there, all are multiplied, if need be by 1.
    if limit is not None and (norm.is_cuda or not norm <= limit):
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


def joined_indices(shares: Sequence[Sequence[tuple[int, ...]]]) -> tuple[tuple[int, ...], ...]:
    """Of every process, the images of each of its micro-batches -> those of each joined micro-batch."""
    return tuple(tuple(chain.from_iterable(parts)) for parts in zip(*shares, strict=True))


def named(parts: Tensor) -> Mapping[str, Tensor]:
    """The parts of a loss under their names in the history."""
    return dict(zip(("train/loss_box", "train/loss_cls", "train/loss_dfl"), parts, strict=True))
