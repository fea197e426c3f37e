"""What says how good predictions are: mAP by the official COCO evaluation, and metrics of one's own.

COCO's is computed by faster-coco-eval: the same algorithm in C++.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.registry import Metric, lookup
from detector.rows import Key
from detector.runtime.allocator import gc_paused

COUNTED = 100  # detections of a class on an image, which is all that COCO's mAP looks at

Boxes = NDArray[np.float32]


class Truth(NamedTuple):
    """One image's labels."""

    boxes: Boxes  # (N, 4) corners x1, y1, x2, y2 in pixels of the original image
    classes: NDArray[np.int64]  # (N,)
    size: tuple[int, int]  # width and height in pixels


class Prediction(NamedTuple):
    """One image's detections, in any order."""

    boxes: Boxes  # (N, 4) corners in pixels of the original image
    scores: NDArray[np.float32]  # (N,)
    classes: NDArray[np.int64]  # (N,)


@dataclass(frozen=True)
class Result:
    """A split's labels and what was found on it, image by image: what a metric is computed from."""

    truths: Sequence[Truth]
    predictions: Sequence[Prediction]  # of the same images in the same order
    num_classes: int

    @cached_property
    def coco(self) -> dict[str, float]:
        """`coco_map` of it, computed once."""
        return coco_map(self.truths, self.predictions, self.num_classes)


# Measured in every run. A registered metric is one that `train.metrics` names.
METRICS: dict[str, Metric] = {
    Key.MAP: Metric(lambda result: result.coco[Key.MAP]),
    Key.MAP50: Metric(lambda result: result.coco[Key.MAP50]),
}


def evaluate_metrics(result: Result, others: Iterable[str] = ()) -> dict[str, float]:
    """The value of each of `METRICS` and of the registered ones named in `others`."""
    names = dict.fromkeys((*METRICS, *others))
    return {name: float(lookup("metric", name, METRICS).compute(result)) for name in names}


def coco_map(
    truths: Sequence[Truth], predictions: Sequence[Prediction], num_classes: int
) -> dict[str, float]:
    """The official COCO box metrics: AP at 0.50:0.95 and at 0.50, at most 100 detections an image.

    Returns:
        `mAP50-95` and `mAP50`, means over the classes that have labels. NaN if none has: there is
        nothing to find, and no score is right.
    """
    truth_json, detections = to_coco(truths, [best_of(one) for one in predictions], num_classes)
    if not truth_json["annotations"]:
        return {Key.MAP: math.nan, Key.MAP50: math.nan}
    if not detections:
        return {Key.MAP: 0.0, Key.MAP50: 0.0}
    evaluation = run_coco(truth_json, detections)
    return {Key.MAP: float(evaluation.stats[0]), Key.MAP50: float(evaluation.stats[1])}


def best_of(prediction: Prediction, most: int = COUNTED) -> Prediction:
    """The `most` best detections of each class in their order; of equal scores the first, as COCO has it."""
    if len(prediction.scores) <= most:
        return prediction
    by_class = np.lexsort((-prediction.scores, prediction.classes))
    ordered = prediction.classes[by_class]
    rank = np.arange(len(ordered)) - np.searchsorted(ordered, ordered)
    kept = np.sort(by_class[rank < most])
    return Prediction(prediction.boxes[kept], prediction.scores[kept], prediction.classes[kept])


def run_coco(truth: dict[str, Any], detections: list[dict[str, Any]]) -> Any:
    """The official evaluation of boxes in COCO's form; neither may be empty.

    Returns:
        `COCOeval` after its run: `stats` are the twelve numbers of its summary, `eval` holds the curves.
    """
    from faster_coco_eval import COCO, COCOeval_faster

    with gc_paused():
        labels = COCO(truth)
        evaluation = COCOeval_faster(labels, labels.loadRes(detections), "bbox")
        evaluation.run()
    return evaluation


def to_coco(
    truths: Sequence[Truth], predictions: Sequence[Prediction], num_classes: int
) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """The labels and the detections in COCO's JSON form: boxes as x, y, width, height, ids from 1."""
    images: list[dict[str, Any]] = []
    annotations: list[dict[str, Any]] = []
    detections: list[dict[str, Any]] = []
    for index, (truth, prediction) in enumerate(zip(truths, predictions, strict=True), start=1):
        width, height = truth.size
        images.append({"id": index, "width": width, "height": height})
        for box, label in zip(_xywh(truth.boxes), truth.classes.tolist(), strict=True):
            annotation = {"id": len(annotations) + 1, "image_id": index, "category_id": label + 1}
            annotations.append(annotation | {"bbox": box, "area": box[2] * box[3], "iscrowd": 0})
        boxes, scores = _xywh(prediction.boxes), prediction.scores.tolist()
        for box, score, label in zip(boxes, scores, prediction.classes.tolist(), strict=True):
            detections.append({"image_id": index, "category_id": label + 1, "bbox": box, "score": score})
    categories = [{"id": label + 1, "name": str(label)} for label in range(num_classes)]
    return {"images": images, "annotations": annotations, "categories": categories}, detections


def _xywh(boxes: Boxes) -> list[list[float]]:
    corners = boxes.astype(np.float64)
    return np.concatenate((corners[:, :2], corners[:, 2:] - corners[:, :2]), 1).tolist()  # type: ignore[no-any-return]
