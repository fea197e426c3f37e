"""One label file: `class cx cy w h` a line, coordinates as fractions of the image.

What other tools write there too is read where it has one meaning only, and counted as repaired: polygons
and keypoints beside a box, a line given twice, coordinates that rounding took past the edge.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Floats, xyxy_to_xywh

TOLERANCE = 1e-6  # rounding in the label file, as a fraction of the image
ROUNDING = 0.01  # rounding of annotation tools: what ultralytics accepts, too
MAX_BYTES = 1_000_000  # of one label file: 25,000 boxes
FIELDS = "class cx cy w h"
_SCORE = r"0?\.[0-9]+|[01](\.0*)?|[0-9.]+[eE]-[0-9]+"  # a number from 0 to 1


@dataclass(frozen=True, slots=True)
class Labels:
    """The good lines of a label file, and what is wrong with the others."""

    classes: NDArray[np.int64]  # (N,)
    boxes: Floats  # (N, 4) xywh, fractions of the image, inside it
    lines: NDArray[np.int64]  # (N,) line numbers, from 1
    outside: Floats  # (N, 2) how far the box as written leaves the image in x and y, fractions of it
    corners: NDArray[np.bool_]  # (N,) whether the numbers could also be x1 y1 x2 y2
    mistakes: tuple[Mistake, ...]  # lines that are left out
    repairs: tuple[Mistake, ...] = ()  # lines that are read otherwise than they are written


class Mistake(NamedTuple):
    """What is wrong with a line."""

    line: int  # from 1
    kind: str  # fields, number, class-id, coordinates, no-area, duplicate-box, polygon, …
    message: str  # what is wrong and the fix, or what was done about it


class _BadLine(ValueError):  # noqa: N818
    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class _Row(NamedTuple):
    """One line as it is read."""

    key: tuple[float, ...]  # what must not come twice
    box: tuple[float, ...]  # class, cx, cy, w, h: inside the image
    outside: tuple[float, float]
    corners: bool
    repairs: Mapping[str, str]  # kind -> what was done


def read_labels(
    text: str, classes: int, *, repair: bool = True, ignore_scores: bool = False, keypoints: int = 0
) -> Labels:
    """Parse the text of a label file, keeping the good lines.

    A box whose centre and size are in [0, 1] but whose edges leave the image is clipped: annotation
    tools write such boxes for objects at the border. Blank lines are allowed.

    Args:
        text: the file's content.
        classes: how many classes there are; ids are 0 to classes - 1.
        repair: read what has one meaning only; otherwise such a line is a mistake.
        ignore_scores: accept a sixth field, which is a score, and do without it.
        keypoints: how many fields of keypoints follow a box, where the dataset has any.
    """
    rows: dict[tuple[float, ...], tuple[int, _Row]] = {}  # key -> where it was first seen
    mistakes: list[Mistake] = []
    repairs: list[Mistake] = []
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row = _parse_line(line, classes, ignore_scores, keypoints if repair else 0)
            if row.repairs and not repair:
                kind, done = next(iter(row.repairs.items()))
                raise _BadLine(kind, f"{done} with data.repair=true")
        except _BadLine as error:
            mistakes.append(Mistake(number, error.kind, str(error)))
            continue
        if row.key in rows:
            message = f"repeats line {rows[row.key][0]}; {'it counts once' if repair else 'remove one'}"
            (repairs if repair else mistakes).append(Mistake(number, "duplicate-box", message))
        else:
            rows[row.key] = number, row
            repairs += [Mistake(number, kind, message) for kind, message in row.repairs.items()]
    table = np.array([row.box for _, row in rows.values()], np.float64).reshape(-1, 5)
    return Labels(
        classes=table[:, 0].astype(np.int64),
        boxes=table[:, 1:].astype(np.float32),
        lines=np.array([number for number, _ in rows.values()], np.int64),
        outside=np.array([row.outside for _, row in rows.values()], np.float32).reshape(-1, 2),
        corners=np.array([row.corners for _, row in rows.values()], np.bool_),
        mistakes=tuple(mistakes),
        repairs=tuple(repairs),
    )


def _parse_line(line: str, classes: int, ignore_scores: bool, keypoints: int) -> _Row:
    """One line with its box clipped, or what is wrong with it."""
    fields = line.split()
    repairs: dict[str, str] = {}
    if keypoints and len(fields) == 5 + keypoints:
        repairs["keypoints"] = f"the {keypoints} fields of keypoints after the box are not used"
        fields = fields[:5]
    polygon = len(fields) >= 7 and len(fields) % 2 == 1
    if polygon and len(fields) % 3 == 2 and {*fields[7::3]} <= {"0", "1", "2"}:
        raise _BadLine("fields", f"{len(fields)} fields look like keypoints with their visibilities; say "
                       f"kpt_shape in the data YAML, or keep the first five: {FIELDS}")  # fmt: skip
    if len(fields) == 6 and re.fullmatch(_SCORE, fields[5]):
        if not ignore_scores:
            raise _BadLine("score", f"6 fields, expected 5: {FIELDS}; the sixth is probably a score, as "
                           "predictions have: data.ignore_scores=true reads the box without it")  # fmt: skip
        fields = fields[:5]
    if len(fields) != 5 and not polygon:
        if len(fields) == 1 and len(re.split("[,;]", line)) >= 5:
            mark = "commas" if "," in line else "semicolons"
            raise _BadLine("fields", f"the fields are separated by {mark}; separate them by spaces: {FIELDS}")
        many = "1 field" if len(fields) == 1 else f"{len(fields)} fields"
        raise _BadLine("fields", f"{many}, expected 5: {FIELDS}")
    index = _class(fields[0], classes)
    numbers = [_number(field) for field in fields[1:]]
    for place, value in enumerate(numbers):
        if -TOLERANCE <= value <= 1 + TOLERANCE:
            continue
        name = f"{'xy'[place % 2]}{place // 2 + 1}" if polygon else FIELDS.split()[1 + place]
        if not (0 if name in ("w", "h") else -ROUNDING) <= value <= 1 + ROUNDING:
            raise _BadLine("coordinates", f"{name} is {value:g}, outside [0, 1]; divide by the image's size")
        repairs["rounding"] = f"{name} is {value:g}, outside [0, 1] by rounding; the box is clipped"
    if polygon:
        repairs["polygon"] = f"{len(fields)} fields are a polygon; the box that encloses it is read"
        points = np.array(numbers).reshape(-1, 2)
        edges = np.concatenate([points.min(axis=0), points.max(axis=0)])
        box, outside = _clip(xyxy_to_xywh(edges[None])[0].tolist())
        # Two polygons can share a box and still be two objects.
        return _Row((index, *numbers), (index, *box), outside, False, repairs)
    box, outside = _clip(numbers)
    corners = numbers[2] > numbers[0] and numbers[3] > numbers[1]
    return _Row((index, *box), (index, *box), outside, corners, repairs)


def _clip(box: list[float]) -> tuple[list[float], tuple[float, float]]:
    """Keep an xywh box inside [0, 1]; one that is inside already stays exactly as written."""
    beyond = (0.0, 0.0)
    cx, cy, width, height = box
    edges = cx - width / 2, cy - height / 2, cx + width / 2, cy + height / 2
    if min(edges) < 0 or max(edges) > 1:
        clipped = [min(max(edge, 0.0), 1.0) for edge in edges]
        box = xyxy_to_xywh(np.array([clipped]))[0].tolist()
        left, top, right, bottom = (abs(edge - inner) for edge, inner in zip(edges, clipped, strict=True))
        beyond = max(left, right), max(top, bottom)
    if min(box[2:]) <= TOLERANCE:
        raise _BadLine("no-area", "the box has no area; give it a width and a height, or remove the line")
    return box, beyond


def _class(field: str, classes: int) -> float:
    """A class id."""
    known = f"0 to {classes - 1}"
    try:
        index = _number(field)
    except _BadLine as error:
        hint = f": write the class's number, {known}, not its name" if field[:1].isalpha() else ""
        raise _BadLine("number", f"{error}{hint}") from None
    if not index.is_integer():
        raise _BadLine("class-id", f"class {field[:40]!r} is not an integer; write an id from {known}")
    if not 0 <= index < classes:
        raise _BadLine("class-id", f"class {index:.15g} is not in names, which has {known}")
    return index


def _number(field: str) -> float:
    """A finite decimal number. Python's own extras (1_000, non-ASCII digits) are typos here."""
    try:
        value = float(field)
    except ValueError:
        value = math.nan
    if not math.isfinite(value) or "_" in field or not field.isascii():
        hint = ": write a point, and spaces between the fields, not commas" if "," in field else ""
        raise _BadLine("number", f"{field[:40]!r} is not a finite number{hint}")
    return value
