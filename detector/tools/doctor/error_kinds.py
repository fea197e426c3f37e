"""What kind of mistake costs how much AP: TIDE's six kinds, and what AP50 would be without each.

Bolya, Foley, Hays and Hoffman 2020, "TIDE: A General Toolbox for Identifying Object Detection Errors"
(arXiv:2008.08115), sections 2.2 and 2.3. Their package, tidecv, has had no release since that year, and needs
pandas and seaborn. On random detections its counts are the same; the AP here is the official evaluation's.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import iou_matrix
from detector.rows import Key
from detector.training.metrics import Prediction, Truth, coco_map

Kind = Literal["class", "place", "both", "duplicate", "background", "missed"]
KINDS: tuple[Kind, ...] = ("class", "place", "both", "duplicate", "background", "missed")

FOREGROUND, BACKGROUND = 0.5, 0.1  # IoU: from which a detection is right, up to which it is on nothing
LIMIT = 100  # detections an image, as in COCO's AP

RIGHT = -1  # in `Image.kinds`; else an index into KINDS


@dataclass(frozen=True)
class Image:
    """One image's detections, best score first, and what is wrong with each."""

    truth: Truth
    found: Prediction
    kinds: NDArray[np.int64]  # (N,) RIGHT, or an index into KINDS
    target: NDArray[np.int64]  # (N,) the object that a right one found, or that one is a mistake about; or -1
    missed: NDArray[
        np.bool_
    ]  # (M,) objects that no detection found, nor is a mistake of class or place about


@dataclass(frozen=True)
class ErrorKinds:
    """The mistakes on a split."""

    ap50: float
    counts: Mapping[Kind, int]
    costs: Mapping[Kind, float]  # how much higher AP50 were without them; they need not add up

    @property
    def worst(self) -> Kind:
        """The kind that costs most."""
        return max(KINDS, key=lambda kind: self.costs[kind])


def error_kinds(truths: Sequence[Truth], predictions: Sequence[Prediction], num_classes: int) -> ErrorKinds:
    """Sort a split's mistakes by kind, and price each by mending it alone.

    Args:
        truths: one an image.
        predictions: of the same images in the same order.
        num_classes: how many there are.

    Returns:
        All costs are NaN where no object is labelled.
    """
    images = [sort_errors(truth, found) for truth, found in zip(truths, predictions, strict=True)]
    counts: dict[Kind, int] = {
        kind: sum(int((image.kinds == index).sum()) for image in images) for index, kind in enumerate(KINDS)
    }
    counts["missed"] = sum(int(image.missed.sum()) for image in images)

    def ap50(mended: Sequence[tuple[Truth, Prediction]]) -> float:
        labels, detections = [truth for truth, _ in mended], [found for _, found in mended]
        return coco_map(labels, detections, num_classes)[Key.MAP50]

    now = ap50([(image.truth, image.found) for image in images])
    costs: dict[Kind, float] = {}
    for kind in KINDS:
        mended = ap50([mend(image, kind) for image in images]) if counts[kind] else now
        # Without anything left to ask for, nothing is wrong.
        costs[kind] = (1.0 if math.isnan(mended) and not math.isnan(now) else mended) - now
    return ErrorKinds(now, counts, costs)


def sort_errors(truth: Truth, found: Prediction) -> Image:
    """Say of each of an image's detections what is wrong with it.

    Detections choose as in COCO's evaluation: the best score first, within its class, the free object that it
    overlaps most. Of a detection that found nothing, the first that holds: it would be right if it lay better
    (place), or were of another class (class); another was first (duplicate); it is on nothing (background);
    else both its class and its place are wrong.
    """
    order = np.argsort(-found.scores, kind="stable")[:LIMIT]
    found = Prediction(found.boxes[order], found.scores[order], found.classes[order])
    n, m = len(order), len(truth.classes)
    overlap = iou_matrix(found.boxes, truth.boxes)  # (n, m)
    same = found.classes[:, None] == truth.classes[None]
    kinds, target = np.full(n, RIGHT, np.int64), np.full(n, -1, np.int64)
    free = np.ones(m, bool)
    for row in range(n):
        allowed = np.where(same[row] & free, overlap[row], -1.0)
        if m and allowed.max() >= FOREGROUND:
            target[row] = allowed.argmax()
            free[target[row]] = False
    about = np.zeros(m, bool)  # objects that a mistake of class or place is about
    for row in np.flatnonzero(target < 0).tolist():
        own, others = np.where(same[row], overlap[row], -1.0), np.where(same[row], -1.0, overlap[row])
        if m and BACKGROUND <= own.max() < FOREGROUND:
            kind: Kind = "place"
            target[row] = own.argmax()
        elif m and others.max() >= FOREGROUND:
            kind = "class"
            target[row] = others.argmax()
        elif m and own.max() >= FOREGROUND:
            kind = "duplicate"
        elif not m or overlap[row].max() <= BACKGROUND:
            kind = "background"
        else:
            kind = "both"
        kinds[row] = KINDS.index(kind)
        if target[row] >= 0:
            about[target[row]] = True
    return Image(truth, found, kinds, target, free & ~about)


def mend(image: Image, kind: Kind) -> tuple[Truth, Prediction]:
    """The image as it would be without one kind of mistake.

    An object that is not found is given to the best score among the mistakes of class and place about it,
    which is put right; all other mistakes are taken away. An object that was missed is not asked for.
    """
    truth, found = image.truth, image.found
    if kind == "missed":
        asked = ~image.missed
        return Truth(truth.boxes[asked], truth.classes[asked], truth.size), found
    boxes, classes, keep = found.boxes.copy(), found.classes.copy(), image.kinds != KINDS.index(kind)
    taken = set(image.target[image.kinds == RIGHT].tolist())
    for row in np.flatnonzero((image.kinds != RIGHT) & (image.target >= 0)).tolist():  # the best score first
        thing = int(image.target[row])
        if thing in taken:
            continue
        taken.add(thing)
        if not keep[row]:
            keep[row] = True
            if kind == "class":
                classes[row] = truth.classes[thing]
            else:
                boxes[row] = truth.boxes[thing]
    return truth, Prediction(boxes[keep], found.scores[keep], classes[keep])
