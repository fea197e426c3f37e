"""Boxes drawn on images: the truth in green, predictions with name and score in orange."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.loggers.base import PredictionImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

TRUTH = (64, 200, 96)  # RGB
PREDICTION = (255, 128, 0)
_SIDE = 480  # pixels of a picture's longer side, so that captions are legible on small images
_MOST_BOXES = 30  # the best ones; an untrained detector finds hundreds


def draw(picture: PredictionImage) -> NDArray[np.uint8]:
    """The image, enlarged or reduced to a readable size, with its boxes.

    Returns:
        (H', W', 3) uint8 RGB, the longer side being 480.
    """
    import numpy as np

    canvas, scale = fit(picture.image)
    for box in picture.truth_boxes:
        rectangle(canvas, box * scale, TRUTH, thickness=3)
    best = np.argsort(-np.asarray(picture.scores, dtype=float), kind="stable")[:_MOST_BOXES]
    for index in best[::-1]:  # the best last, so that it lies on top
        name = picture.class_name(picture.classes[index])
        corner = rectangle(canvas, picture.boxes[index] * scale, PREDICTION, thickness=1)
        tag(canvas, f"{name} {picture.scores[index]:.2f}", corner)
    text = f"{picture.name}: {len(picture.truth_boxes)} true, {len(picture.boxes)} found"
    return caption(canvas, text)


def fit(image: NDArray[np.uint8]) -> tuple[NDArray[Any], float]:
    """A copy to draw on, (H', W', 3), whose longer side is 480; and the scale that made it."""
    import cv2
    import numpy as np

    scale = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.ascontiguousarray(cv2.resize(image, (width, height), interpolation=shrink)), scale


def draw_labels(picture: PredictionImage) -> NDArray[np.uint8]:
    """The image with its true boxes and their classes, as `draw` enlarges it."""
    canvas, scale = fit(picture.image)
    corners = [rectangle(canvas, box * scale, TRUTH, thickness=1) for box in picture.truth_boxes]
    if len(corners) <= _MOST_BOXES:  # more names than that would hide what they name
        for index, corner in zip(picture.truth_classes, corners, strict=True):
            tag(canvas, picture.class_name(index), corner, TRUTH)
    return caption(canvas, f"{picture.name}: {len(corners)} {'object' if len(corners) == 1 else 'objects'}")


def save_grid(
    pictures: Sequence[PredictionImage],
    path: Path,
    most: int = 9,
    draw: Callable[[PredictionImage], NDArray[np.uint8]] = draw,
) -> None:
    """Draw up to `most` pictures into one image file, in rows and columns.

    Raises:
        OSError: the file could not be written.
    """
    if drawn := [draw(picture) for picture in pictures[:most]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(grid(drawn), path.suffix))


def grid(tiles: Sequence[NDArray[np.uint8]]) -> NDArray[np.uint8]:
    """Tiles (H, W, 3) of any sizes in rows and columns, about as many of one as of the other."""
    import numpy as np

    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def encode(image: NDArray[np.uint8], suffix: str) -> bytes:
    """(H, W, 3) RGB -> the content of a file with that suffix. Raises OSError if OpenCV cannot."""
    import cv2

    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"OpenCV could not encode the picture as {suffix}")
    return data.tobytes()


def rectangle(
    canvas: NDArray[Any], box: NDArray[Any], color: tuple[int, int, int], thickness: int
) -> tuple[int, int]:
    """Draw a box of corners in pixels, whatever its numbers; return its upper left corner."""
    import cv2
    import numpy as np

    # A diverged detector predicts NaN and boxes far outside; OpenCV takes only 32-bit integers.
    limit = max(canvas.shape) * 2
    left, top, right, bottom = np.nan_to_num(box, nan=0.0, posinf=limit, neginf=-limit).clip(-limit, limit)
    corner = (round(float(left)), round(float(top)))
    cv2.rectangle(canvas, corner, (round(float(right)), round(float(bottom))), color, thickness, cv2.LINE_AA)
    return corner


def tag(
    canvas: NDArray[Any], text: str, corner: tuple[int, int], color: tuple[int, int, int] = PREDICTION
) -> None:
    """Write a name at a box's corner, inside the canvas, black on the box's colour."""
    import cv2

    (width, height), _ = cv2.getTextSize(text, cv2.FONT_HERSHEY_SIMPLEX, 0.45, 1)
    left = min(max(corner[0], 0), max(canvas.shape[1] - width - 4, 0))
    bottom = max(corner[1], height + 6)  # a box at the upper edge is labelled inside
    cv2.rectangle(canvas, (left, bottom - height - 6), (left + width + 4, bottom), color, -1)
    place = (left + 2, bottom - 4)
    cv2.putText(canvas, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)


def caption(canvas: NDArray[Any], text: str) -> NDArray[np.uint8]:
    """The canvas with a line of text above it."""
    import cv2
    import numpy as np

    strip = np.full((26, canvas.shape[1], 3), 255, np.uint8)
    cv2.putText(strip, text, (4, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)
    return np.concatenate([strip, canvas])
