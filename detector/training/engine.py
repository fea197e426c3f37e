"""The engine: training as one loop, to be read in one sitting."""

from __future__ import annotations

from collections.abc import Iterable
from itertools import islice
from typing import Literal

import torch

from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.models.loss import Loss, LossFunction, named
from detector.rows import Key
from detector.runtime.distributed import SingleProcess
from detector.training.callbacks import Callback, Guard
from detector.training.clipping import clip_gradients
from detector.training.optimizer import set_learning_rate
from detector.training.schedule import Schedule
from detector.training.state import TrainState

Status = Literal["finished", "stopped", "diverged"]


def train(
    state: TrainState,
    loss_fn: LossFunction,
    batches: Iterable[Batch],
    schedule: Schedule,
    config: TrainConfig,
    callback: Callback,
    guard: Guard,
    dist: SingleProcess,
) -> Status:
    """Train from `state.step` to `schedule.steps`: forward, backward, record, clip, step.

    Args:
        state: the model and what trains it; changed in place.
        loss_fn: raw predictions and targets -> the loss.
        batches: `schedule.accumulate` a step, beginning with those of step `state.step`.
        schedule: how many steps, and which are recorded.
        config: how the weights are fitted.
        callback: what else happens, and when: see `Callback`.
        guard: against numbers that are not finite.
        dist: the processes that train together, each with its shard of every batch.
    """
    optimizer, scaler, source = state.optimizer, state.scaler, iter(batches)
    while state.step < schedule.steps:
        step, epoch = state.step, schedule.epoch(state.step)
        callback.on_step_begin(step)
        if state.should_stop:
            return "stopped"
        state.train_mode()
        loss_fn.begin_epoch(epoch)
        lr = set_learning_rate(optimizer, step, schedule.steps, config)

        # Forward and backward, once a micro-batch; the gradients add up.
        with guard.attempt():
            optimizer.zero_grad(set_to_none=True)
            micro_batches = list(islice(source, schedule.accumulate))
            losses = [backward(state, loss_fn, batch).parts for batch in micro_batches]
        loss = dist.all_reduce(torch.stack(losses).mean(0))  # (3,): box, class, DFL
        dist.all_reduce_([p.grad for p in state.parameters if p.grad is not None])
        scaler.unscale_(optimizer)

        # Record. This is the true gradient: of the whole batch, unscaled, and not yet clipped.
        callback.on_backward_end(step)
        grad_norm = clip_gradients(state.parameters, config.clip, state.clip_parts)

        # Step, unless a number is not finite.
        accepted = guard.accepts(micro_batches, loss, grad_norm)
        if accepted:
            scaler.step(optimizer)
            scaler.update()
            dist.average_(state.unsynced_norm_stats)
            state.finish_step()
        callback.on_step_end(step)

        if schedule.should_record(step) or not accepted:
            row = {Key.STEP: step, Key.EPOCH: epoch, Key.LR: lr, **named(loss), Key.GRAD_NORM: grad_norm}
            callback.on_record(row)
            if state.step == step:  # neither taken nor skipped
                return "diverged"
    return "finished"


def backward(state: TrainState, loss_fn: LossFunction, batch: Batch) -> Loss:
    """One forward and backward pass; gradients are added to what is there."""
    loss = forward(state, loss_fn, batch)
    state.scaler.scale(loss.total).backward()
    return loss


def forward(state: TrainState, loss_fn: LossFunction, batch: Batch) -> Loss:
    """One forward pass."""
    batch = batch.to(state.device)
    with state.autocast():
        preds = state.model(state.preprocess(batch.images))
    return loss_fn(preds, batch.targets())
