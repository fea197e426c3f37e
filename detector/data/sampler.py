"""The order of training images: a function of (seed, epoch) alone, whatever loads them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

ORDER = 1  # first word of the random seed: no other purpose shares this stream

Key = tuple[int, int]  # (epoch, index)
Shard = tuple[int, int]  # which part of every batch, from 0, and of how many


def batches_per_epoch(images: int, batch: int) -> int:
    """How many batches show every image once; the last may be short."""
    return -(-images // batch)


def part_of(count: int, shard: Shard) -> slice:
    """A shard's part of `count` things in a row: nothing left out, nothing twice.

    The parts differ by one at most; where there are fewer things than shards, the last have none.
    """
    number, of = shard
    return slice(-(-count * number // of), -(-count * (number + 1) // of))


@dataclass(frozen=True)
class EpochSampler:
    """The batch sampler: which (epoch, index) are in batch number start, start + 1, …"""

    images: int
    batch: int
    seed: int
    start: int
    stop: int | None
    shard: Shard

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = batches_per_epoch(self.images, self.batch)
        number, epoch, order = self.start, -1, np.empty(0, np.int64)
        while self.stop is None or number < self.stop:
            if epoch != number // per_epoch:
                epoch = number // per_epoch
                order = np.random.default_rng([ORDER, self.seed, epoch]).permutation(self.images)
            first = number % per_epoch * self.batch
            joined = order[first : first + self.batch]
            yield [(epoch, int(index)) for index in joined[part_of(len(joined), self.shard)]]
            number += 1
