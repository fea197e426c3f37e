"""A few images with what is on them, and what was found, for the loggers to draw."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

import numpy as np

from detector.data.batch import Batch
from detector.data.dataset import Dataset, Item
from detector.data.geometry import xywh_to_xyxy
from detector.data.images import read_image
from detector.errors import UserError
from detector.loggers.base import PredictionImage
from detector.training.evaluation import truth_of
from detector.training.metrics import Prediction

SHOWN = 0.25  # the lowest score that is drawn: the evaluation counts boxes far below it


def prediction_images(
    dataset: Dataset, split: str, predictions: Sequence[Prediction], limit: int
) -> list[PredictionImage]:
    """The first `limit` images of a split, with the predictions of one evaluation on them.

    An image that is no longer there is left out: what was trained on may be in memory, and a picture of it
    is no reason to stop.
    """
    images = []
    for item, found in zip(dataset.splits[split][:limit], predictions, strict=False):
        with suppress(UserError):
            images.append(prediction_image(item, found, dataset.names, split, SHOWN))
    return images


def prediction_image(
    item: Item, found: Prediction, names: tuple[str, ...], split: str, lowest: float, name: str = ""
) -> PredictionImage:
    """One image with the detections whose score is at least `lowest`, under its file's name or `name`."""
    image = read_image(item.image)
    truth = truth_of(item, image.shape[1], image.shape[0])
    keep = found.scores >= lowest
    return PredictionImage(
        image=image,
        boxes=found.boxes[keep],
        classes=found.classes[keep],
        scores=found.scores[keep],
        truth_boxes=truth.boxes,
        truth_classes=truth.classes,
        name=name or item.image.name,
        class_names=names,
        split=split,
    )


def batch_images(batch: Batch, dataset: Dataset) -> list[PredictionImage]:
    """A training batch as it is, augmented, with its true boxes and no predictions."""
    images = batch.images.permute(0, 2, 3, 1).numpy()  # (B, S, S, 3)
    corners = xywh_to_xyxy(batch.boxes.numpy()) * images.shape[1]
    owner, classes = batch.batch_idx.numpy(), batch.cls.numpy().astype(np.int64)
    return [
        PredictionImage(
            image=image,
            boxes=np.zeros((0, 4), np.float32),
            classes=np.zeros(0, np.int64),
            scores=np.zeros(0, np.float32),
            truth_boxes=corners[owner == position],
            truth_classes=classes[owner == position],
            name=dataset.splits["train"][index].image.name,
            class_names=dataset.names,
            split="train",
        )
        for position, (image, index) in enumerate(zip(images, batch.indices, strict=True))
    ]
