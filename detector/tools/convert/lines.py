"""The boxes of one image as lines of a YOLO label file, and a note for each that did not come through."""

from __future__ import annotations

from collections.abc import Iterable

from detector.data.labels import TOLERANCE
from detector.errors import display_path
from detector.tools.convert.look import Look, turn
from detector.tools.convert.records import Box, Corners, Note, Picture

NOTED = 1e-3  # pixels; less is the rounding of the tool that wrote the annotations


def label_lines(pictures: Iterable[Picture], look: Look, ids: dict[str, int]) -> tuple[list[str], list[Note]]:
    """Write `class cx cy w h` for every box that can be kept, clipped to the image.

    Args:
        pictures: the boxes that are to be written for one image; their names are all in `ids`.
        look: the image's true size.
        ids: class name -> id.

    Returns:
        The lines, and what was clipped, dropped or looks wrong.
    """
    notes: list[Note] = []
    lines: dict[str, str] = {}  # line -> the box it came from
    for picture in pictures:
        boxes, remarks = _upright(picture, look)
        notes += remarks
        for box in boxes:
            line, message = _line(box, look, ids)
            if line is None:
                notes.append(Note("dropped", picture.file, box.where, message, 1))
            elif line in lines:
                notes.append(Note("dropped", picture.file, box.where, f"repeats {lines[line]}"))
            else:
                lines[line] = box.where
                if message:
                    notes.append(Note("clipped", picture.file, box.where, message))
    return list(lines), notes


def _upright(picture: Picture, look: Look) -> tuple[list[Box], list[Note]]:
    """The boxes in upright pixels. Which way up a tool showed the image is known from its boxes only."""
    boxes, true = list(picture.boxes), (look.width, look.height)
    if picture.size in (None, true):
        return boxes, []
    claim = f"the annotation says {_by(picture.size)}, but {display_path(picture.image)} is {_by(true)}"
    if look.orientation > 1 and picture.size == look.stored:
        if all(_inside(box, look.stored) for box in boxes) and not all(_inside(box, true) for box in boxes):
            turned = [Box(box.name, turn(box.corners, look), box.where) for box in boxes]
            message = f"{claim} upright (EXIF {look.orientation}): its boxes are turned with it"
            return turned, [Note("check", picture.file, "", message)]
        claim += f" upright (EXIF {look.orientation})"
    return boxes, [Note("check", picture.file, "", f"{claim}: its boxes are taken as they are")]


def _line(box: Box, look: Look, ids: dict[str, int]) -> tuple[str | None, str]:
    """The line, or None; and what was done to the box, or why there is no line."""
    left, top, right, bottom = box.corners
    if right <= left or bottom <= top:
        return None, f"has no area: {_px(box.corners)}"
    inside = max(left, 0), max(top, 0), min(right, look.width), min(bottom, look.height)
    x, y = (inside[0] + inside[2]) / 2 / look.width, (inside[1] + inside[3]) / 2 / look.height
    width, height = (inside[2] - inside[0]) / look.width, (inside[3] - inside[1]) / look.height
    if min(width, height) <= TOLERANCE:
        return None, f"is outside the {_by((look.width, look.height))} image: {_px(box.corners)}"
    cut = max(abs(a - b) for a, b in zip(inside, box.corners, strict=True))
    message = f"clipped from {_px(box.corners)} to {_px(inside)}" if cut > NOTED else ""
    return f"{ids[box.name]} {x:.10g} {y:.10g} {width:.10g} {height:.10g}", message


def _inside(box: Box, size: tuple[int, int]) -> bool:
    left, top, right, bottom = box.corners
    return left >= -1 and top >= -1 and right <= size[0] + 1 and bottom <= size[1] + 1


def _by(size: tuple[int, int] | None) -> str:
    return "unknown" if size is None else f"{size[0]} x {size[1]}"


def _px(corners: Corners) -> str:
    """left, top, right, bottom without needless digits."""
    return "(" + ", ".join(f"{value:.7g}" for value in corners) + ")"
