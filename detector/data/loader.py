"""Batches of tensors, in an order that depends on the seed alone.

Batch number k is the same whatever the number of workers and wherever the run was resumed: the
order of an epoch is a function of (seed, epoch), and an image's augmentation of (seed, epoch, index).
A shard of the loader takes its part of that same batch.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader

from detector.config.schema import DataConfig
from detector.data.dataset import Item
from detector.data.geometry import Letterbox
from detector.data.sampler import EpochSampler, Key, Shard, batches_per_epoch, part_of
from detector.data.samples import EvalSamples, LetterboxedImages, Sample, TrainSamples
from detector.errors import UserError
from detector.runtime.workers import iterate_with_timeout, start_worker

NO_EPOCH = -1  # in place of an epoch in an evaluation


@dataclass(frozen=True)
class Batch:
    """B images of S x S pixels with N objects in all."""

    images: Tensor  # (B, 3, S, S) uint8 RGB, stored channels_last
    batch_idx: Tensor  # (N,) float32: which image an object is in, 0 to B - 1
    cls: Tensor  # (N,) float32: its class id
    boxes: Tensor  # (N, 4) float32: xywh, fractions of the square
    indices: tuple[int, ...]  # of the B items
    letterboxes: tuple[Letterbox, ...]  # of the B images before augmentation

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Batch:
        """The same batch with its tensors on a device."""
        return self._with_tensors([part.to(device, non_blocking=non_blocking) for part in self._tensors()])

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU can overlap with work."""
        return self._with_tensors([part.pin_memory() for part in self._tensors()])

    def targets(self) -> dict[str, Tensor]:
        """The objects as ultralytics' v8DetectionLoss wants them."""
        return {"batch_idx": self.batch_idx, "cls": self.cls, "bboxes": self.boxes}

    def _tensors(self) -> list[Tensor]:
        return [self.images, self.batch_idx, self.cls, self.boxes]

    def _with_tensors(self, tensors: list[Tensor]) -> Batch:
        images, batch_idx, cls, boxes = tensors
        return replace(self, images=images, batch_idx=batch_idx, cls=cls, boxes=boxes)


class Loader:
    """One split, letterboxed, as training or evaluation batches.

    If the configuration asks for it and they fit in a quarter of the free memory, all images are
    read here and now; workers then share that one copy (where they are forked).

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
        self._samples = LetterboxedImages(items, config, copies)

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
        order = EpochSampler(len(self), batch, seed, start, stop, self.shard)
        augmented = TrainSamples(self._samples, self.config, seed, epochs)
        return self._iterate(augmented, order, self.config.workers if workers is None else workers, pin)

    def eval_batches(self, *, batch: int, pin: bool = False, workers: int | None = None) -> Iterator[Batch]:
        """Every image once, in order, never augmented; a shard has a stretch of them. See `train_batches`."""
        own = range(len(self))[part_of(len(self), self.shard)]
        batch = -(-batch // self.shard[1])  # as many at a time as in training
        order = [[(NO_EPOCH, index) for index in own[first : first + batch]]
                 for first in range(0, len(own), batch)]  # fmt: skip
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
            collate_fn=partial(_collate, size=self.config.image_size),
            worker_init_fn=start_worker,
            pin_memory=pin,
            generator=torch.Generator(),  # else it draws from the global one, which the model's seed governs
        )
        for batch in iterate_with_timeout(loader, self.config.timeout):
            if isinstance(batch, UserError):  # sent as a value, else torch wraps it in a traceback
                raise batch
            yield batch


_NO_CLASSES, _NO_BOXES = np.empty(0, np.int64), np.empty((0, 4), np.float32)


def _collate(samples: Sequence[Sample | UserError], size: int) -> Batch | UserError:
    """Samples to tensors; the first error, if there is one. There may be no samples at all."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        good.append(sample)
    counts = [len(sample.classes) for sample in good]
    # One copy, (B, S, S, 3); seen as (B, 3, S, S) that is exactly the channels_last layout.
    pixels = [sample.image[None] for sample in good] or [np.empty((0, size, size, 3), np.uint8)]
    images = torch.from_numpy(np.concatenate(pixels)).permute(0, 3, 1, 2)
    return Batch(
        images=images,
        batch_idx=torch.from_numpy(np.repeat(np.arange(len(good), dtype=np.float32), counts)),
        cls=torch.from_numpy(np.concatenate([_NO_CLASSES, *(s.classes for s in good)]).astype(np.float32)),
        boxes=torch.from_numpy(np.concatenate([_NO_BOXES, *(sample.boxes for sample in good)])),
        indices=tuple(sample.index for sample in good),
        letterboxes=tuple(sample.letterbox for sample in good),
    )
