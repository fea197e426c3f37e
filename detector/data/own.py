"""Data in a format of one's own: what a registered reader returns, made a dataset and checked."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from detector.config.schema import DataConfig
from detector.data.dataset import Dataset, Item
from detector.errors import UserError
from detector.registry import lookup

# `yolo` is read by `detector.data.sources`, which also finds and fetches it; a plugin registers others.
READERS: dict[str, Callable[[Path], Dataset]] = {}


def build_dataset(name: str, names: Sequence[str], splits: Mapping[str, Sequence[Item]]) -> Dataset:
    """A dataset from images and boxes that are in memory.

    Args:
        name: what to call it; part of the run's name.
        names: the classes, by id.
        splits: `train` and `val`, each with at least one image, and others if need be.

    Raises:
        UserError: a split is missing or empty, an image does not exist, or its boxes are not (N, 4) fractions
            cx cy w h of it with a class each.
    """
    digest = hashlib.sha256(repr(tuple(names)).encode())
    for split in dict.fromkeys(("train", "val", *splits)):
        if not splits.get(split):
            raise UserError(f"{name}: the split {split!r} has no images")
        for item in splits[split]:
            _check(item, len(names), f"{name}: {split}: {item.image}")
            size = item.image.stat().st_size
            digest.update(f"{split}\0{item.image.name}\0{size}\0".encode(errors="surrogateescape"))
            digest.update(item.classes.astype(np.int64).tobytes() + item.boxes.astype(np.float32).tobytes())
    read = {split: tuple(items) for split, items in splits.items()}
    return Dataset(name, tuple(names), read, (), digest.hexdigest())


def _check(item: Item, classes: int, where: str) -> None:
    if not item.image.is_file():
        raise UserError(f"{where}: there is no such file")
    boxes, labels = item.boxes, item.classes
    if boxes.shape != (len(labels), 4) or labels.ndim != 1:
        raise UserError(f"{where}: expected boxes (N, 4) and classes (N,), not {boxes.shape}, {labels.shape}")
    corners = np.concatenate((boxes[:, :2] - boxes[:, 2:] / 2, boxes[:, :2] + boxes[:, 2:] / 2))
    if not (
        np.isfinite(boxes).all() and (boxes[:, 2:] > 0).all() and (np.abs(corners - 0.5) <= 0.5 + 1e-5).all()
    ):
        raise UserError(f"{where}: a box is not cx cy w h in fractions of the image")
    if not ((labels >= 0) & (labels < classes)).all():
        raise UserError(f"{where}: a class is not one of the {classes}")


def read_registered(data: DataConfig) -> Dataset:
    """The dataset that the reader named by `data.format` finds at `data.path`.

    Raises:
        UserError: the reader says so, or returns something else.
    """
    found: object = lookup("dataset", data.format, READERS)(Path(data.path))
    if not isinstance(found, Dataset):
        kind = type(found).__name__
        raise UserError(f"data.format={data.format}: must return a detector.data.dataset.Dataset, not {kind}")
    return found
