"""One label file: `class cx cy w h` a line, coordinates as fractions of the image."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Floats, xywh_to_xyxy, xyxy_to_xywh

TOLERANCE = 1e-6  # rounding in the label file, as a fraction of the image
FIELDS = "class cx cy w h"


def parse_labels(text: str, classes: int) -> tuple[NDArray[np.int64], Floats, list[tuple[int, str]]]:
    """Parse the text of a label file, keeping the good lines.

    A box whose centre and size are in [0, 1] but whose edges leave the image is clipped: annotation
    tools write such boxes for objects at the border. Blank lines are allowed.

    Args:
        text: the file's content.
        classes: how many classes there are; ids are 0 to classes - 1.

    Returns:
        Class ids (N,), boxes (N, 4) as xywh fractions inside the image, and the problems as
        (line number from 1, what is wrong and the fix).
    """
    rows: dict[tuple[float, ...], int] = {}  # the parsed line -> where it was first seen
    problems: list[tuple[int, str]] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = _parse_line(line, classes)
            if row in rows:
                raise ValueError(f"repeats line {rows[row]}; remove one")
        except ValueError as error:
            problems.append((number, str(error)))
        else:
            rows[row] = number
    table = np.array(list(rows), np.float64).reshape(-1, 5)
    return table[:, 0].astype(np.int64), table[:, 1:].astype(np.float32), problems


def _parse_line(line: str, classes: int) -> tuple[float, ...]:
    """One line -> (class, cx, cy, w, h), the box clipped to the image. Raises ValueError with the fix."""
    fields = line.split()
    if len(fields) >= 7 and len(fields) % 2 == 1:
        raise ValueError(f"{len(fields)} fields look like a polygon, which is not supported here; "
                         f"write its box as {FIELDS}")  # fmt: skip
    if len(fields) != 5:
        raise ValueError(f"{len(fields)} fields, expected 5: {FIELDS}")
    index = _number(fields[0])
    if not index.is_integer():
        raise ValueError(f"class {fields[0]!r} is not an integer; write an id from 0 to {classes - 1}")
    if not 0 <= index < classes:
        raise ValueError(f"class {int(index)} is not in names, which has 0 to {classes - 1}")
    box = [_number(field) for field in fields[1:]]
    for name, value in zip(("cx", "cy", "w", "h"), box, strict=True):
        if not -TOLERANCE <= value <= 1 + TOLERANCE:
            raise ValueError(f"{name} is {value:g}, outside [0, 1]; divide by the image's size")
    return (index, *_clip(box))


def _clip(box: list[float]) -> list[float]:
    """Keep an xywh box inside [0, 1]; one that is inside already stays exactly as written."""
    edges = xywh_to_xyxy(np.array([box]))
    clipped = np.clip(edges, 0, 1)
    if (edges != clipped).any():
        box = [float(value) for value in xyxy_to_xywh(clipped)[0]]
    if min(box[2:]) <= TOLERANCE:
        raise ValueError("the box has no area; give it a width and a height, or remove the line")
    return box


def _number(field: str) -> float:
    """A finite decimal number. Python's own extras (1_000, non-ASCII digits) are typos here."""
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in field or not field.isascii():
        raise ValueError(f"{field[:40]!r} is not a finite number")
    return value
