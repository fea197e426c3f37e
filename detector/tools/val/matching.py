"""Which detection found which object, in two ways: class by class, and whatever the class."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import iou_matrix
from detector.training.metrics import Prediction, Truth

FALSE, LEFT_OUT = -1, -2  # what `match` says of a detection that found nothing, or was not considered


def match(truth: Truth, prediction: Prediction, iou: float, limit: int = 100) -> NDArray[np.int64]:
    """Match one image as the COCO evaluation does: within each class, the best score chooses first.

    Args:
        truth: M objects.
        prediction: N detections.
        iou: a detection takes the free object that it overlaps most, if by at least this much.
        limit: how many of a class's best detections are considered, as in COCO's AP.

    Returns:
        (N,) the index of the object that each detection found, FALSE, or LEFT_OUT. Leaving out the lowest
        scores does not change the rest, so that one matching serves for every confidence.
    """
    found = np.full(len(prediction.scores), FALSE, np.int64)
    for label in np.unique(prediction.classes):
        members = np.flatnonzero(prediction.classes == label)
        members = members[np.argsort(-prediction.scores[members], kind="stable")]
        found[members[limit:]] = LEFT_OUT
        members, objects = members[:limit], np.flatnonzero(truth.classes == label)
        if not len(objects):
            continue
        overlap = iou_matrix(prediction.boxes[members], truth.boxes[objects])  # (members, objects)
        for row in np.flatnonzero((overlap >= iou).any(1)):
            best = int(overlap[row].argmax())
            if overlap[row, best] >= iou:
                found[members[row]] = objects[best]
                overlap[:, best] = -1  # taken
    return found


def confusion_matrix(
    truths: Sequence[Truth],
    predictions: Sequence[Prediction],
    num_classes: int,
    iou: float = 0.45,
    confidence: float = 0.25,
) -> NDArray[np.int64]:
    """What objects are taken for. A detection and an object belong together wherever they lie, whatever
    their classes: pairs are formed by falling overlap, each detection and each object once.

    Returns:
        (C + 1, C + 1) counts: a row is the true class, a column the predicted one. The last column counts
        objects that were missed, the last row detections where there is nothing.
    """
    counts = np.zeros((num_classes + 1, num_classes + 1), np.int64)
    for truth, prediction in zip(truths, predictions, strict=True):
        order = np.argsort(-prediction.scores, kind="stable")
        order = order[prediction.scores[order] >= confidence]
        boxes, labels = prediction.boxes[order], prediction.classes[order]
        partner = np.full(len(labels), num_classes)  # the true class of each detection; at first: background
        missed = np.ones(len(truth.classes), bool)
        overlap = iou_matrix(boxes, truth.boxes)
        rows, columns = np.nonzero(overlap >= iou)
        for pair in np.argsort(-overlap[rows, columns], kind="stable"):  # of equals, the better score
            row, column = rows[pair], columns[pair]
            if partner[row] == num_classes and missed[column]:
                partner[row], missed[column] = truth.classes[column], False
        np.add.at(counts, (partner, labels), 1)
        np.add.at(counts[:, num_classes], truth.classes[missed], 1)
    return counts
