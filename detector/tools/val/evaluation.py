"""What a trained detector is worth on a split, in numbers: overall, by class, by confidence, by image."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.tools.val.matching import FALSE, LEFT_OUT, confusion_matrix, match
from detector.training.metrics import Prediction, Truth, run_coco, to_coco

IOU = 0.5  # from which a detection counts as correct in precision, recall, F1 and the list of worst images
CONFUSION_IOU, CONFUSION_CONFIDENCE = 0.45, 0.25  # what YOLO's tools draw a confusion matrix at
CONFIDENCES = np.arange(1001) / 1000
RECALLS = np.arange(101) / 100  # where COCO reads precision off

METRICS = (  # in the order of the official summary
    "mAP50-95", "mAP50", "mAP75", "mAP-small", "mAP-medium", "mAP-large",
    "AR1", "AR10", "AR100", "AR-small", "AR-medium", "AR-large",
)  # fmt: skip

# The official code takes no empty list of detections; this one meets nothing and changes no number.
_NOWHERE = {"image_id": 1, "category_id": 1, "bbox": [-2.0, -2.0, 0.0, 0.0], "score": 0.0}

Array = NDArray[np.float64]


class ClassResult(NamedTuple):
    """One class; NaN where there is nothing to divide by."""

    name: str
    images: int  # that hold it
    boxes: int
    precision: float  # this and the next two: at `Report.confidence`
    recall: float
    f1: float
    ap50: float
    ap: float  # mean over IoU 0.50 to 0.95


class ImageErrors(NamedTuple):
    """One image at `Report.confidence`."""

    image: int  # its place in the split
    missed: int  # objects that no detection found
    false: int  # detections that found nothing


@dataclass(frozen=True)
class Report:
    """The result of evaluating C classes."""

    metrics: dict[str, float]  # by the names in METRICS; NaN where the split has no such objects
    confidence: float  # where the mean F1 over the classes is highest
    classes: tuple[ClassResult, ...]
    f1: Array  # (C, 1001) at CONFIDENCES; NaN for classes without labels, as in the next
    precision: Array  # (C, 101) at RECALLS, IoU 0.5: its mean is the class's AP50
    confusion: NDArray[np.int64]  # (C + 1, C + 1), see `confusion_matrix`
    errors: tuple[ImageErrors, ...]  # one an image, in the split's order

    @property
    def mean(self) -> ClassResult:
        """All classes that have labels, as one row: sums of boxes, means of the rest."""
        present = [row for row in self.classes if row.boxes]
        means = {key: _mean([getattr(row, key) for row in present]) for key in ("precision", "recall", "f1")}
        boxes, metrics = sum(row.boxes for row in present), self.metrics
        ap50, ap = metrics["mAP50"], metrics["mAP50-95"]
        return ClassResult("all", len(self.errors), boxes, **means, ap50=ap50, ap=ap)

    def worst(self, limit: int) -> list[ImageErrors]:
        """The images with the most errors, missed and false together; only those that have any."""
        ranked = sorted(self.errors, key=lambda image: (-image.missed - image.false, image.image))
        return [image for image in ranked[:limit] if image.missed + image.false]


def report(truths: Sequence[Truth], predictions: Sequence[Prediction], names: Sequence[str]) -> Report:
    """Evaluate detections against labels, one of each an image, in the same order."""
    coco, detections = to_coco(truths, predictions, len(names))
    official = run_coco(coco, detections or [_NOWHERE])
    metrics = {name: _number(value) for name, value in zip(METRICS, official.stats[:12], strict=True)}
    # (IoU, recall, class, area, detections an image); -1 where a class has no labels.
    precision = np.asarray(official.eval["precision"], np.float64)[:, :, :, 0, -1]
    precision = np.where(precision < 0, np.nan, precision)

    matches = [match(truth, found, IOU) for truth, found in zip(truths, predictions, strict=True)]
    scores = np.concatenate([np.empty(0), *(found.scores for found in predictions)])
    labels = np.concatenate([np.empty(0), *(found.classes for found in predictions)])
    matched = np.concatenate([np.empty(0), *matches])
    boxes = np.zeros(len(names), np.int64)
    images = np.zeros(len(names), np.int64)
    for truth in truths:
        np.add.at(boxes, truth.classes, 1)
        images[np.unique(truth.classes)] += 1

    counts = [_counts(scores[labels == label], matched[labels == label]) for label in range(len(names))]
    correct = np.array([right for right, _ in counts]).reshape(-1, len(CONFIDENCES))  # (C, 1001)
    shown = np.array([every for _, every in counts]).reshape(-1, len(CONFIDENCES))
    # F1 = 2·TP / (detections + objects): precision itself is undefined where nothing is detected.
    present = (boxes > 0)[:, None]
    f1 = np.where(present, 2 * correct / np.maximum(shown + boxes[:, None], 1), np.nan)
    at = best_confidence(f1)
    classes = []
    for label, name in enumerate(names):
        right, every, objects = int(correct[label, at]), int(shown[label, at]), int(boxes[label])
        classes.append(
            ClassResult(
                name,
                int(images[label]),
                objects,
                precision=(right / every if every else 0.0) if objects else math.nan,
                recall=right / objects if objects else math.nan,
                f1=float(f1[label, at]),
                ap50=float(precision[0, :, label].mean()),
                ap=float(precision[:, :, label].mean()),
            )
        )
    confidence = float(CONFIDENCES[at])
    return Report(
        metrics=metrics,
        confidence=confidence,
        classes=tuple(classes),
        f1=f1,
        precision=precision[0].T,
        confusion=confusion_matrix(truths, predictions, len(names), CONFUSION_IOU, CONFUSION_CONFIDENCE),
        errors=tuple(map(_errors, range(len(truths)), truths, predictions, matches, repeat(confidence))),
    )


def best_confidence(f1: Array) -> int:
    """Where in CONFIDENCES the mean of (C, 1001) F1 is highest; the middle of those places that are equal.

    A detector that makes no mistake is as good at 0.3 as at 0.6: the middle is the farthest from both ends.
    """
    present = f1[~np.isnan(f1).all(1)]
    if not len(present):
        return len(CONFIDENCES) // 4  # nothing to find: any will do
    mean = present.mean(0)
    places = np.flatnonzero(mean >= mean.max() - 1e-12)
    return int(places[len(places) // 2])


def _counts(scores: NDArray[Any], matched: NDArray[Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """One class's correct and all detections with at least each of CONFIDENCES, (1001,) each."""
    considered = matched != LEFT_OUT
    every, right = np.sort(scores[considered]), np.sort(scores[matched >= 0])
    return (
        len(right) - np.searchsorted(right, CONFIDENCES, side="left"),
        len(every) - np.searchsorted(every, CONFIDENCES, side="left"),
    )


def _errors(
    image: int, truth: Truth, found: Prediction, matched: NDArray[np.int64], confidence: float
) -> ImageErrors:
    matched = matched[found.scores.astype(np.float64) >= confidence]
    right = int((matched >= 0).sum())
    return ImageErrors(image, missed=len(truth.classes) - right, false=int((matched == FALSE).sum()))


def _number(value: float) -> float:
    """The official summary's -1 says that there is nothing to measure."""
    return math.nan if value < 0 else float(value)


def _mean(values: Sequence[float]) -> float:
    """The mean of those that are numbers."""
    finite = [value for value in values if not math.isnan(value)]
    return sum(finite) / len(finite) if finite else math.nan
