"""How many steps a run has, and at which of them something happens."""

from __future__ import annotations

import math
from dataclasses import dataclass

from detector.config import Config


@dataclass(frozen=True)
class Plan:
    """Steps count from 0; a step is one update of the weights."""

    steps: int
    batches_per_epoch: int
    accumulate: int  # batches a step
    record_every: int
    evaluate_every: int | None
    ledger: bool = True

    def epoch(self, step: int) -> int:
        """The epoch in which a step begins, from 0."""
        return step * self.accumulate // self.batches_per_epoch

    @property
    def epochs(self) -> int:
        """How many times the run goes through the training images, a last incomplete time not counted."""
        return self.epoch(self.steps)

    def evaluates(self, step: int) -> bool:
        """Whether the model is evaluated after this step; always after the last."""
        due = self.evaluate_every is not None and (step + 1) % self.evaluate_every == 0
        return due or step + 1 == self.steps

    def records(self, step: int) -> bool:
        """Whether this step's gradients are recorded: the first, every N-th, and wherever mAP is measured."""
        return step % self.record_every == 0 or self.evaluates(step)

    def itemises(self, step: int) -> bool:
        """Whether the gradient is followed through every operation: at the first step and the last."""
        return self.ledger and (step == 0 or step + 1 == self.steps)


def build_plan(config: Config, batches_per_epoch: int) -> Plan:
    """Resolve `train.epochs` to steps: each epoch is all its batches, the last step may span two epochs."""
    train = config.train
    if train.steps is not None:
        steps = train.steps
    else:
        assert train.epochs is not None  # the configuration demands exactly one of the two
        steps = math.ceil(train.epochs * batches_per_epoch / train.accumulate)
    gradients = config.gradients
    return Plan(
        steps, batches_per_epoch, train.accumulate, gradients.every, train.eval_every, gradients.ledger
    )
