"""Counting what a dataset holds. Sizes are in pixels of the letterboxed image, as the network sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from detector.data.dataset import Dataset, Item
from detector.data.geometry import Floats, Letterbox

# COCO's limits of an object's area (cocodataset.org/#detection-eval), there of the mask, here of the box.
SMALL, MEDIUM = 32**2, 96**2
STRIDE = 8  # of the finest grid that detectors of this family predict on, pixels


@dataclass(frozen=True)
class SplitCount:
    """One split."""

    images: int
    backgrounds: int  # images without objects
    boxes: int


@dataclass(frozen=True)
class Sizes:
    """How large boxes are: pixels of the letterboxed image."""

    small: int  # boxes whose area is below 32²
    medium: int  # below 96²
    large: int
    median_width: float | None  # None without boxes
    median_height: float | None
    below_stride: int  # boxes whose shorter side is below 8


@dataclass(frozen=True)
class ClassCount:
    """One class, by split."""

    name: str
    boxes: dict[str, int]
    images: dict[str, int]  # that show it
    sizes: Sizes

    @property
    def total(self) -> int:
        """Boxes in all splits."""
        return sum(self.boxes.values())


@dataclass(frozen=True)
class Statistics:
    """A dataset in numbers."""

    image_size: int  # side of the letterboxed square, pixels
    splits: dict[str, SplitCount]
    classes: tuple[ClassCount, ...]  # by id
    sizes: Sizes  # of all boxes
    image_sizes: tuple[tuple[int, int, int], ...]  # (width, height, images), the most frequent first


def count(dataset: Dataset, sizes: Mapping[Path, tuple[int, int]], image_size: int) -> Statistics:
    """Count images, boxes and their sizes.

    Args:
        dataset: what was read.
        sizes: image -> width and height of the upright picture, pixels.
        image_size: side of the square that images are letterboxed to, pixels.
    """
    number = len(dataset.names)
    boxes, images = {}, {}
    sides: list[Floats] = [np.zeros((0, 2), np.float32)]
    ids = [np.zeros(0, np.int64)]
    for split, items in dataset.splits.items():
        classes = np.concatenate([item.classes for item in items])
        owners = np.repeat(np.arange(len(items)), [len(item.classes) for item in items])
        pairs = np.sort(owners * number + classes)
        shown = pairs[np.diff(pairs, prepend=-1) > 0] % number  # each class once an image
        boxes[split] = np.bincount(classes, minlength=number).tolist()
        images[split] = np.bincount(shown, minlength=number).tolist()
        sides.append(box_sides(items, [sizes[item.image] for item in items], image_size))
        ids.append(classes)
    every_side, every_id = np.concatenate(sides), np.concatenate(ids)
    order = np.argsort(every_id, kind="stable")
    of_class = np.split(every_side[order], np.searchsorted(every_id[order], np.arange(1, number)))
    shapes = Counter(sizes[item.image] for items in dataset.splits.values() for item in items)
    return Statistics(
        image_size=image_size,
        splits={
            split: SplitCount(
                images=len(items),
                backgrounds=sum(len(item.classes) == 0 for item in items),
                boxes=sum(len(item.classes) for item in items),
            )
            for split, items in dataset.splits.items()
        },
        classes=tuple(
            ClassCount(
                name=name,
                boxes={split: counts[index] for split, counts in boxes.items()},
                images={split: counts[index] for split, counts in images.items()},
                sizes=_sizes(of_class[index]),
            )
            for index, name in enumerate(dataset.names)
        ),
        sizes=_sizes(every_side),
        image_sizes=tuple((width, height, many) for (width, height), many in shapes.most_common()),
    )


def box_sides(items: Sequence[Item], sizes: Sequence[tuple[int, int]], image_size: int) -> Floats:
    """(N, 2) widths and heights of the boxes of all these images, pixels of the letterboxed image."""
    inner = {size: Letterbox(image_size, *size) for size in set(sizes)}
    inner_sides = {size: (one.inner_width, one.inner_height) for size, one in inner.items()}
    stretch = np.array([inner_sides[size] for size in sizes], np.float32)
    boxes = np.concatenate([item.boxes[:, 2:] for item in items])
    sides: Floats = boxes * np.repeat(stretch, [len(item.boxes) for item in items], axis=0)
    return sides


def _sizes(sides: Floats) -> Sizes:
    """Describe (N, 2) widths and heights."""
    area = sides.prod(axis=1)
    width, height = (float(np.median(sides[:, axis])) if len(sides) else None for axis in (0, 1))
    return Sizes(
        small=int((area < SMALL).sum()),
        medium=int(((area >= SMALL) & (area < MEDIUM)).sum()),
        large=int((area >= MEDIUM).sum()),
        median_width=width,
        median_height=height,
        below_stride=int((sides.min(axis=1) < STRIDE).sum()) if len(sides) else 0,
    )
