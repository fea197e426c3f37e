"""A batch of letterboxed images and their objects, as tensors."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import default_collate

from detector.data.geometry import Floats, Letterbox
from detector.data.samples import Sample
from detector.errors import UserError


@dataclass(frozen=True)
class Batch:
    """B images of S x S pixels with N objects in all."""

    images: Tensor  # (B, 3, S, S) uint8 RGB, stored channels_last
    batch_idx: Tensor  # (N,) float32: which image an object is in, 0 to B - 1
    cls: Tensor  # (N,) float32: its class id
    boxes: Tensor  # (N, 4) float32: xywh, fractions of the square
    indices: tuple[int, ...]  # of the B items
    letterboxes: tuple[Letterbox, ...]  # of the B images before augmentation

    def to(self, device: torch.device | str) -> Batch:
        """The same batch with its tensors on a device; a GPU may still be copying them from pinned memory."""
        later = torch.device(device).type == "cuda"  # what is computed with them comes after the copy there
        return self._with_tensors([part.to(device, non_blocking=later) for part in self._tensors()])

    def pin_memory(self) -> Batch:
        """The same batch in page-locked memory, from which copies to a GPU can overlap with work."""
        return self._with_tensors([part.pin_memory() for part in self._tensors()])

    def targets(self) -> dict[str, Tensor]:
        """The objects as ultralytics' v8DetectionLoss wants them."""
        return {"batch_idx": self.batch_idx, "cls": self.cls, "bboxes": self.boxes}

    def __reduce__(self) -> tuple[Callable[..., Batch], tuple[Any, ...]]:
        """How it leaves a loader process: the images in shared memory, the rest, which is small, by the pipe.

        A tensor in shared memory takes half a millisecond to hand over.
        """
        small = [part.numpy() for part in (self.batch_idx, self.cls, self.boxes)]
        return _received, (self.images, *small, self.indices, self.letterboxes)

    def _tensors(self) -> list[Tensor]:
        return [self.images, self.batch_idx, self.cls, self.boxes]

    def _with_tensors(self, tensors: list[Tensor]) -> Batch:
        images, batch_idx, cls, boxes = tensors
        return replace(self, images=images, batch_idx=batch_idx, cls=cls, boxes=boxes)


def _received(images: Tensor, batch_idx: Floats, cls: Floats, boxes: Floats, *others: Any) -> Batch:
    return Batch(images, torch.from_numpy(batch_idx), torch.from_numpy(cls), torch.from_numpy(boxes), *others)


_NO_CLASSES, _NO_BOXES = np.empty(0, np.int64), np.empty((0, 4), np.float32)


def collate(samples: Sequence[Sample | UserError], size: int) -> Batch | UserError:
    """Samples to tensors; the first error, if there is one. There may be no samples at all."""
    good: list[Sample] = []
    for sample in samples:
        if isinstance(sample, UserError):
            return sample
        good.append(sample)
    counts = [len(sample.classes) for sample in good]
    # One copy, in a loader process into shared memory: (B, S, S, 3), in which channels_last is a view.
    pixels = [torch.from_numpy(sample.image) for sample in good]
    images: Tensor = default_collate(pixels) if pixels else torch.empty((0, size, size, 3), dtype=torch.uint8)
    return Batch(
        images=images.permute(0, 3, 1, 2),
        batch_idx=torch.from_numpy(np.repeat(np.arange(len(good), dtype=np.float32), counts)),
        cls=torch.from_numpy(np.concatenate([_NO_CLASSES, *(s.classes for s in good)]).astype(np.float32)),
        boxes=torch.from_numpy(np.concatenate([_NO_BOXES, *(s.boxes for s in good)], dtype=np.float32)),
        indices=tuple(sample.index for sample in good),
        letterboxes=tuple(sample.letterbox for sample in good),
    )
