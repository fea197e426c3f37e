"""A few images with what was found on them, for the trackers to draw."""

from __future__ import annotations

from collections.abc import Sequence

from detector.data.images import read_image
from detector.data.yolo import Dataset
from detector.tracking.tracker import PredictionImage
from detector.training.evaluate import truth_of
from detector.training.metrics import Prediction

SHOWN = 0.25  # the lowest score that is drawn: the evaluation counts boxes far below it


def prediction_images(
    dataset: Dataset, split: str, predictions: Sequence[Prediction], limit: int
) -> list[PredictionImage]:
    """The first `limit` images of a split, with the predictions of one evaluation on them."""
    shown = []
    for item, found in zip(dataset.splits[split][:limit], predictions, strict=False):
        image = read_image(item.image)
        truth = truth_of(item, image.shape[1], image.shape[0])
        keep = found.scores >= SHOWN
        shown.append(
            PredictionImage(
                image=image,
                boxes=found.boxes[keep],
                classes=found.classes[keep],
                scores=found.scores[keep],
                truth_boxes=truth.boxes,
                truth_classes=truth.classes,
                name=item.image.name,
                class_names=dataset.names,
                split=split,
            )
        )
    return shown
