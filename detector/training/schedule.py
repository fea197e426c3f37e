"""How many steps a run has, and at which of them something happens."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from detector.config.schema import Config
from detector.errors import UserError


@dataclass(frozen=True)
class Schedule:
    """Steps count from 0; a step is one update of the weights."""

    steps: int
    batches_per_epoch: int
    accumulate: int  # batches a step
    record_every: int
    evaluate_every: int | None
    ledger: bool = True

    @classmethod
    def from_config(cls, config: Config, batches_per_epoch: int) -> Schedule:
        """Resolve `train.epochs` to steps: an epoch is all its batches, the last step may span two epochs."""
        train, gradients = config.train, config.gradients
        if train.steps is not None:
            steps = train.steps
        else:
            assert train.epochs is not None  # the configuration demands exactly one of the two
            steps = math.ceil(train.epochs * batches_per_epoch / train.accumulate)
        # A curve that is imposed is no operation's doing: the factors would not multiply to it.
        ledger = gradients.ledger and gradients.impose is None
        return cls(steps, batches_per_epoch, train.accumulate, gradients.every, train.eval_every, ledger)

    def epoch(self, step: int) -> int:
        """The epoch in which a step begins, from 0."""
        return step * self.accumulate // self.batches_per_epoch

    def epochs_of(self, steps: int) -> float:
        """How often so many steps go through the training images."""
        return steps * self.accumulate / self.batches_per_epoch

    @property
    def epochs(self) -> int:
        """How many times the run goes through the training images, a last incomplete time not counted."""
        return self.epoch(self.steps)

    def should_evaluate(self, step: int) -> bool:
        """Whether the model is evaluated after this step; always after the last."""
        due = self.evaluate_every is not None and (step + 1) % self.evaluate_every == 0
        return due or step + 1 == self.steps

    def should_record(self, step: int) -> bool:
        """Whether this step's gradients are recorded: the first, every N-th, and wherever mAP is measured."""
        return step % self.record_every == 0 or self.should_evaluate(step)

    def lost(self, rows: Iterable[Mapping[str, float]], step: int) -> list[int]:
        """The steps before `step` that were recorded, and of which a history has no row any more."""
        there = {row["step"] for row in rows}
        return [number for number in range(step) if self.should_record(number) and number not in there]

    def ledger_due(self, step: int) -> bool:
        """Whether the gradient is followed through every operation: at the first step and the last."""
        return self.ledger and (step == 0 or step + 1 == self.steps)


def check_batches(config: Config, images: int, shards: int = 1) -> None:
    """Refuse what batch norm would stop at in the middle of a run.

    At 32 px the coarsest features are a single value an image, and a batch of one image has no deviation.
    Without train.sync_norms each shard of a batch is averaged by itself.

    Raises:
        UserError: it would come to that.
    """
    full = min(images, config.train.batch)
    sizes = {full, images % config.train.batch or full}  # the last batch of an epoch holds what is left
    if not config.train.sync_norms:
        sizes = {share for size in sizes for share in (size // shards, -(-size // shards))}
    if config.model.norm == "batch" and config.data.image_size < 64 and 1 in sizes:
        raise UserError(
            f"data.image_size={config.data.image_size} and train.batch={config.train.batch} leave batch norm "
            f"a single value to average in a batch of one image; take 64 pixels, or another train.batch"
        )
