"""Batches of tensors, in an order that depends on the seed alone.

Batch number k is the same whatever the number of workers and wherever the run was resumed: the
order of an epoch is a function of (seed, epoch), and an image's augmentation of (seed, epoch, index).
A shard of the loader takes its part of that same batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from functools import partial
from multiprocessing import get_start_method
from typing import Any

import torch
from torch.utils.data import DataLoader

from detector.config.schema import DataConfig
from detector.data.batch import Batch, collate
from detector.data.dataset import Item
from detector.data.sampler import (
    EpochSampler,
    Key,
    Shard,
    Weights,
    batches_per_epoch,
    part_of,
    repeat_factors,
)
from detector.data.samples import EvalSamples, LetterboxedImages, TrainSamples
from detector.errors import UserError
from detector.runtime.workers import iterate_with_timeout, start_worker

NO_EPOCH = -1  # in place of an epoch in an evaluation


class Loader:
    """One split, letterboxed, as training or evaluation batches.

    If the configuration asks for it and they fit in a quarter of the free memory, all images are
    read here and now; workers then share that one copy (where they are forked). If they fit in three
    quarters, those of a training split are kept on disk.

    Raises:
        UserError: an image cannot be read (here, or in the iterators).
    """

    def __init__(
        self, items: Sequence[Item], config: DataConfig, shard: Shard = (0, 1), copies: int = 1
    ) -> None:
        """Prepare to load one split.

        Args:
            items: of the split.
            config: the data section of the configuration.
            shard: which part of every batch this loader yields.
            copies: how many loaders of this split share the machine's memory.
        """
        if not items:
            raise ValueError("a loader needs at least one item")
        self.config, self.shard = config, shard
        if config.workers and get_start_method() != "fork":
            copies *= 1 + config.workers  # each is sent one
        self._samples = LetterboxedImages(items, config, copies)
        self.weights: Weights | None = None
        if config.balance:
            self.weights = repeat_factors([item.classes for item in items], config.balance)

    def __len__(self) -> int:
        """How many images there are."""
        return len(self._samples.items)

    def batches_per_epoch(self, batch: int) -> int:
        """How many batches show every image once; the last may be short."""
        return batches_per_epoch(len(self), batch)

    def train_batches(
        self,
        *,
        batch: int,
        seed: int,
        start: int = 0,
        stop: int | None = None,
        pin: bool = False,
        epochs: int | None = None,
        workers: int | None = None,
    ) -> Iterator[Batch]:
        """Batches number start to stop - 1 of one endless, shuffled, augmented sequence.

        Args:
            batch: images a batch, of all shards together; the last of an epoch holds what is left, and
                where that is fewer than there are shards, some have a batch of none.
            seed: determines the order and the augmentation.
            start: number of the first batch: how many an interrupted run has seen.
            stop: number after the last batch; None never ends.
            pin: in page-locked memory, for a GPU.
            epochs: of the whole run, from whose end close_mosaic counts; None: mosaic is never closed.
            workers: how many load, in place of `data.workers`.
        """
        order = EpochSampler(len(self), batch, seed, start, stop, self.shard, self.weights)
        self._samples.expect_repeats()
        augmented = TrainSamples(self._samples, self.config, seed, epochs)
        return self._iterate(augmented, order, self.config.workers if workers is None else workers, pin)

    def eval_batches(self, *, batch: int, pin: bool = False, workers: int | None = None) -> Iterator[Batch]:
        """Every image once, in order, never augmented; a shard has a stretch of them. See `train_batches`."""
        own = range(len(self))[part_of(len(self), self.shard)]
        batch = -(-batch // self.shard[1])  # as many at a time as in training
        order = ([(NO_EPOCH, index) for index in own[first : first + batch]]
                 for first in range(0, len(own), batch))  # fmt: skip
        # Without augmentation, what is in memory is only copied: starting workers would take longer.
        if workers is None:
            workers = 0 if self._samples.cached else self.config.workers
        return self._iterate(EvalSamples(self._samples), order, workers, pin)

    def _iterate(
        self, dataset: EvalSamples, order: Iterable[list[Key]], workers: int, pin: bool
    ) -> Iterator[Batch]:
        loader: DataLoader[Any] = DataLoader(
            dataset,  # type: ignore[arg-type]
            batch_sampler=order,  # of (epoch, index), not of plain indices
            num_workers=workers,
            collate_fn=partial(collate, size=self.config.image_size),
            worker_init_fn=start_worker,
            pin_memory=pin,
            generator=torch.Generator(),  # else it draws from the global one, which the model's seed governs
        )
        for batch in iterate_with_timeout(loader, self.config.timeout):
            if isinstance(batch, UserError):  # sent as a value, else torch wraps it in a traceback
                raise batch
            yield batch
