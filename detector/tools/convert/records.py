"""What a reader of annotations hands over, whatever the format it read."""

from __future__ import annotations

import contextlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.errors import display_path

# left out: an image; dropped, clipped: a box; check: nothing was lost, but somebody should look.
Kind = Literal["left out", "dropped", "clipped", "check"]
Corners = tuple[float, float, float, float]  # left, top, right, bottom


@dataclass(frozen=True)
class Note:
    """One thing that did not come through as it was, or that looks wrong."""

    kind: Kind
    file: Path
    where: str  # "object 3 (cat), line 40", "annotation 17", or ""
    message: str
    boxes: int = 0  # that were lost with it

    def __str__(self) -> str:
        """`file: object 3 (cat), line 40: what is wrong`."""
        return f"{display_path(self.file)}: {self.where}{': ' if self.where else ''}{self.message}"


@dataclass(frozen=True)
class Box:
    """One object."""

    name: str  # of its class
    corners: Corners  # pixels; a pixel covers [i, i + 1), so an image of width w spans [0, w]
    where: str


@dataclass(frozen=True)
class Picture:
    """One image and its objects, as the annotation file says; the image was found but not opened yet."""

    image: Path  # absolute
    file: Path  # of the annotations
    split: str | None
    size: tuple[int, int] | None  # width and height that the annotations claim
    boxes: tuple[Box, ...]


@dataclass(frozen=True)
class Annotations:
    """Everything that a reader found."""

    names: tuple[str, ...]  # of the classes, in the source's order
    pictures: tuple[Picture, ...]
    notes: tuple[Note, ...]
    difficult: int  # objects left out because they are marked as difficult, or as a crowd


def finite(value: object) -> float:
    """A finite number, from a number or from its decimal text.

    Raises:
        ValueError: it is none; Python's own extras (1_000, non-ASCII digits, True) are typos here.
    """
    number = math.nan
    text = isinstance(value, str) and value.isascii() and "_" not in value
    if text or (isinstance(value, int | float) and not isinstance(value, bool)):
        with contextlib.suppress(ValueError, OverflowError):
            number = float(value)  # type: ignore[arg-type]
    if not math.isfinite(number):
        raise ValueError(f"{str(value)[:40]!r} is not a finite number")
    return number


def claimed_size(width: object, height: object) -> tuple[int, int] | None:
    """The size that an annotation claims; None where it does not know it (tools write 0, or nothing)."""
    try:
        size = int(finite(width)), int(finite(height))
    except ValueError:
        return None
    return size if min(size) > 0 else None
