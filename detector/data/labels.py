"""One label file: `class cx cy w h` a line, coordinates as fractions of the image."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Floats, xywh_to_xyxy, xyxy_to_xywh

TOLERANCE = 1e-6  # rounding in the label file, as a fraction of the image
MAX_BYTES = 1_000_000  # of one label file: 25,000 boxes
FIELDS = "class cx cy w h"


@dataclass(frozen=True)
class Labels:
    """The good lines of a label file, and what is wrong with the others."""

    classes: NDArray[np.int64]  # (N,)
    boxes: Floats  # (N, 4) xywh, fractions of the image, inside it
    lines: NDArray[np.int64]  # (N,) line numbers, from 1
    outside: Floats  # (N, 2) how far the box as written leaves the image in x and y, fractions of it
    mistakes: tuple[Mistake, ...]


class Mistake(NamedTuple):
    """A line that cannot be used."""

    line: int  # from 1
    kind: str  # fields, number, class-id, coordinates, no-area or duplicate-box
    message: str  # what is wrong and the fix


class _BadLine(ValueError):  # noqa: N818
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


def parse_labels(text: str, classes: int) -> tuple[NDArray[np.int64], Floats, list[tuple[int, str]]]:
    """Parse the text of a label file: as `read_labels`, without the lines' numbers and kinds.

    Returns:
        Class ids (N,), boxes (N, 4) as xywh fractions inside the image, and the problems as
        (line number from 1, what is wrong and the fix).
    """
    labels = read_labels(text, classes)
    return labels.classes, labels.boxes, [(line, message) for line, _, message in labels.mistakes]


def read_labels(text: str, classes: int) -> Labels:
    """Parse the text of a label file, keeping the good lines.

    A box whose centre and size are in [0, 1] but whose edges leave the image is clipped: annotation
    tools write such boxes for objects at the border. Blank lines are allowed.

    Args:
        text: the file's content.
        classes: how many classes there are; ids are 0 to classes - 1.
    """
    rows: dict[tuple[float, ...], int] = {}  # the parsed line -> where it was first seen
    outside: list[tuple[float, float]] = []
    mistakes: list[Mistake] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row, beyond = _parse_line(line, classes)
            if row in rows:
                raise _BadLine("duplicate-box", f"repeats line {rows[row]}; remove one")
        except _BadLine as error:
            mistakes.append(Mistake(number, error.kind, str(error)))
        else:
            rows[row] = number
            outside.append(beyond)
    table = np.array(list(rows), np.float64).reshape(-1, 5)
    return Labels(
        classes=table[:, 0].astype(np.int64),
        boxes=table[:, 1:].astype(np.float32),
        lines=np.array(list(rows.values()), np.int64),
        outside=np.array(outside, np.float32).reshape(-1, 2),
        mistakes=tuple(mistakes),
    )


def _parse_line(line: str, classes: int) -> tuple[tuple[float, ...], tuple[float, float]]:
    """One line -> (class, cx, cy, w, h) with the box clipped, and how far it left the image."""
    fields = line.split()
    if len(fields) >= 7 and len(fields) % 2 == 1:
        raise _BadLine("fields", f"{len(fields)} fields look like a polygon, which is not supported here; "
                       f"write its box as {FIELDS}")  # fmt: skip
    if len(fields) != 5:
        raise _BadLine("fields", f"{len(fields)} fields, expected 5: {FIELDS}")
    index = _number(fields[0])
    if not index.is_integer():
        raise _BadLine(
            "class-id", f"class {fields[0][:40]!r} is not an integer; write an id from 0 to {classes - 1}"
        )
    if not 0 <= index < classes:
        raise _BadLine("class-id", f"class {index:.15g} is not in names, which has 0 to {classes - 1}")
    box = [_number(field) for field in fields[1:]]
    for name, value in zip(("cx", "cy", "w", "h"), box, strict=True):
        if not -TOLERANCE <= value <= 1 + TOLERANCE:
            raise _BadLine("coordinates", f"{name} is {value:g}, outside [0, 1]; divide by the image's size")
    clipped, beyond = _clip(box)
    return (index, *clipped), beyond


def _clip(box: list[float]) -> tuple[list[float], tuple[float, float]]:
    """Keep an xywh box inside [0, 1]; one that is inside already stays exactly as written."""
    beyond = (0.0, 0.0)
    edges = xywh_to_xyxy(np.array([box]))
    clipped = np.clip(edges, 0, 1)
    if (edges != clipped).any():
        box = [float(value) for value in xyxy_to_xywh(clipped)[0]]
        left, top, right, bottom = np.abs(edges - clipped)[0]
        beyond = float(max(left, right)), float(max(top, bottom))
    if min(box[2:]) <= TOLERANCE:
        raise _BadLine("no-area", "the box has no area; give it a width and a height, or remove the line")
    return box, beyond


def _number(field: str) -> float:
    """A finite decimal number. Python's own extras (1_000, non-ASCII digits) are typos here."""
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in field or not field.isascii():
        raise _BadLine("number", f"{field[:40]!r} is not a finite number")
    return value
