"""Counting what a dataset holds. Sizes are in pixels of the letterboxed image, as the network sees them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
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
        table = np.stack([np.bincount(item.classes, minlength=number) for item in items])  # (images, classes)
        boxes[split], images[split] = table.sum(axis=0).tolist(), (table > 0).sum(axis=0).tolist()
        sides += [box_sides(item, sizes[item.image], image_size) for item in items]
        ids += [item.classes for item in items]
    every_side, every_id = np.concatenate(sides), np.concatenate(ids)
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
                sizes=_sizes(every_side[every_id == index]),
            )
            for index, name in enumerate(dataset.names)
        ),
        sizes=_sizes(every_side),
        image_sizes=tuple((width, height, many) for (width, height), many in shapes.most_common()),
    )


def box_sides(item: Item, size: tuple[int, int], image_size: int) -> Floats:
    """(N, 2) widths and heights of an image's boxes, pixels of the letterboxed image."""
    square = Letterbox(image_size, *size)
    stretch = np.array([square.inner_width, square.inner_height], np.float32)
    sides: Floats = item.boxes[:, 2:] * stretch
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
