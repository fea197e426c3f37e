"""A few images with what was found on them, for the trackers to draw."""

from __future__ import annotations

from collections.abc import Sequence

from detector.data.images import read_image
from detector.data.yolo import Dataset, Item
from detector.tracking.tracker import PredictionImage
from detector.training.evaluate import truth_of
from detector.training.metrics import Prediction

SHOWN = 0.25  # the lowest score that is drawn: the evaluation counts boxes far below it


def prediction_images(
    dataset: Dataset, split: str, predictions: Sequence[Prediction], limit: int
) -> list[PredictionImage]:
    """The first `limit` images of a split, with the predictions of one evaluation on them."""
    pairs = zip(dataset.splits[split][:limit], predictions, strict=False)
    return [prediction_image(item, found, dataset.names, split, SHOWN) for item, found in pairs]


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
