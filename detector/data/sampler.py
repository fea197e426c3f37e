"""The order of training images: a function of (seed, epoch) alone, whatever loads them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

ORDER = 1  # first word of the random seed: no other purpose shares this stream

Key = tuple[int, int]  # (epoch, index + repetition · images)
Shard = tuple[int, int]  # which part of every batch, from 0, and of how many
Weights = NDArray[np.float64]  # (N,) how often an image is shown, relative to the others


def batches_per_epoch(images: int, batch: int) -> int:
    """How many batches make an epoch, which shows as many images as there are; the last may be short."""
    return -(-images // batch)


def part_of(count: int, shard: Shard) -> slice:
    """A shard's part of `count` things in a row: nothing left out, nothing twice.

    The parts differ by one at most; where there are fewer things than shards, the last have none.
    """
    number, of = shard
    return slice(-(-count * number // of), -(-count * (number + 1) // of))


def repeat_factors(classes: Sequence[NDArray[np.int64]], share: float) -> Weights:
    """How often each image should be shown, so that rare classes are seen more often.

    An image counts as its rarest class does: max over its classes of max(1, sqrt(share / f)), where f is the
    share of images that show the class (Gupta, Dollár, Girshick 2019, LVIS, arXiv:1908.03195, section 5).

    Args:
        classes: (N_i,) of each image's objects; an image without any has 1.
        share: classes on as many images or more are not repeated.
    """
    shown = [np.unique(one) for one in classes]
    ids, counts = np.unique(np.concatenate(shown), return_counts=True)
    factor = dict(zip(ids.tolist(), np.maximum(1, np.sqrt(share * len(classes) / counts)), strict=True))
    return np.array([max((factor[index] for index in one.tolist()), default=1.0) for one in shown])


def order_of(images: int, seed: int, epoch: int, weights: Weights | None = None) -> NDArray[np.int64]:
    """(images,) the images of an epoch, shuffled; each once, or on average as often as its weight says.

    Weighted, an image is shown w · images / sum(w) times, rounded up or down at random (systematic sampling).
    The r-th time its number is r · images higher, so that it is not augmented in the same way again.
    """
    random = np.random.default_rng([ORDER, seed, epoch])
    if weights is None:
        return random.permutation(images)
    edges = weights.cumsum() * (images / weights.sum())
    chosen = np.searchsorted(edges[:-1], random.random() + np.arange(images), side="right")
    again = np.arange(images) - np.searchsorted(chosen, chosen)  # they are in order
    return random.permutation(chosen + again * images)


@dataclass(frozen=True)
class EpochSampler:
    """The batch sampler: which (epoch, index) are in batch number start, start + 1, …"""

    images: int
    batch: int
    seed: int
    start: int
    stop: int | None
    shard: Shard
    weights: Weights | None = None  # see `order_of`

    def __iter__(self) -> Iterator[list[Key]]:
        per_epoch = batches_per_epoch(self.images, self.batch)
        number, epoch, order = self.start, -1, np.empty(0, np.int64)
        while self.stop is None or number < self.stop:
            if epoch != number // per_epoch:
                epoch = number // per_epoch
                order = order_of(self.images, self.seed, epoch, self.weights)
            first = number % per_epoch * self.batch
            joined = order[first : first + self.batch]
            yield [(epoch, int(index)) for index in joined[part_of(len(joined), self.shard)]]
            number += 1
