"""Boxes with names drawn on images, and images put together on a sheet.

With Pillow, whose letters, unlike OpenCV's, are not limited to ASCII.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.loggers.base import PredictionImage

if TYPE_CHECKING:
    from PIL.ImageFont import FreeTypeFont

Image = NDArray[np.uint8]  # (H, W, 3) RGB
Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom

TRUTH: Color = (64, 200, 96)
PREDICTION: Color = (255, 128, 0)
_SIDE = 480  # pixels of a picture's longer side, so that captions are legible on small images
_LETTERS = 12  # pixels, on such a picture
_MOST_BOXES = 30  # the best ones; an untrained detector finds hundreds


def draw_boxes(
    image: Image,
    boxes: NDArray[Any],
    texts: Sequence[str],
    colors: Sequence[Color],
    *,
    line: int | Sequence[int],
    letters: int = _LETTERS,
) -> Image:
    """Draw boxes with names, the first on top.

    A name moves into or below its box where it would cover an earlier one.

    Args:
        image: is left as it is.
        boxes: (N, 4) corners in its pixels, whatever their numbers.
        texts: one a box; none where it is empty.
        colors: one a box.
        line: width in pixels, of all or of each.
        letters: size in pixels.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw

    picture = Pillow.fromarray(image)
    draw, font = ImageDraw.Draw(picture), _font(letters)
    # A diverged detector predicts NaN, boxes far outside, and sides in the wrong order.
    far = 2 * max(picture.size)
    corners = np.nan_to_num(np.asarray(boxes, float).reshape(-1, 4), posinf=far, neginf=-far).clip(-far, far)
    ordered = np.concatenate([np.minimum(*np.split(corners, 2, 1)), np.maximum(*np.split(corners, 2, 1))], 1)
    every = list(zip(ordered.tolist(), texts, colors, strict=True))
    widths = [line] * len(every) if isinstance(line, int) else line
    for (box, _, color), width in reversed([*zip(every, widths, strict=True)]):
        draw.rectangle(box, outline=color, width=width)
    taken: list[Rectangle] = []
    for box, text, color in every:  # after all boxes, so that no line runs through a name
        if text:
            margin = max(1, round(letters / 8))
            size = draw.textlength(text, font=font) + 2 * margin, sum(font.getmetrics())
            taken.append(_place(box, size, picture.size, taken))
            draw.rectangle(taken[-1], fill=color)
            corner = taken[-1][0] + margin, taken[-1][1]
            draw.text(corner, text, fill=_readable_on(color), font=font)
    return np.asarray(picture)


def draw(picture: PredictionImage) -> Image:
    """The image, enlarged or reduced to a readable size, with its boxes: the truth in green, below the rest.

    A class's name stands at its box: a truth's where no prediction has taken the place.

    Returns:
        (H', W', 3), the longer side being 480, below a caption.
    """
    canvas, scale = fit(picture.image)
    true, best = picture.truth_boxes, np.argsort(-np.asarray(picture.scores, float), kind="stable")
    best = best[:_MOST_BOXES]
    names = [picture.class_name(index) for index in picture.truth_classes]
    texts = [f"{picture.class_name(picture.classes[i])} {picture.scores[i]:.2f}" for i in best]
    boxes = np.concatenate([picture.boxes[best].reshape(-1, 4), true.reshape(-1, 4)]) * scale
    canvas = draw_boxes(
        canvas,
        boxes,
        texts + (names if len(boxes) <= _MOST_BOXES else [""] * len(names)),
        [PREDICTION] * len(best) + [TRUTH] * len(true),
        line=[1] * len(best) + [3] * len(true),
    )
    legend = [(f"{len(true)} true", TRUTH), (f"{len(picture.boxes)} found", PREDICTION)]
    return caption(canvas, picture.name, legend)


def draw_labels(picture: PredictionImage) -> Image:
    """The image with its true boxes and their classes, as `draw` enlarges it."""
    canvas, scale = fit(picture.image)
    names = [picture.class_name(index) for index in picture.truth_classes]
    if len(names) > _MOST_BOXES:  # they would hide what they name
        names = [""] * len(names)
    canvas = draw_boxes(canvas, picture.truth_boxes * scale, names, [TRUTH] * len(names), line=1)
    return caption(canvas, f"{picture.name}: {len(names)} {'object' if len(names) == 1 else 'objects'}")


def save_grid(
    pictures: Sequence[PredictionImage],
    path: Path,
    most: int = 9,
    draw: Callable[[PredictionImage], Image] = draw,
) -> None:
    """Draw up to `most` pictures into one image file, in rows and columns.

    Raises:
        OSError: the file could not be written.
    """
    if drawn := [draw(picture) for picture in pictures[:most]]:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(grid(drawn), path.suffix))


def fit(image: Image) -> tuple[Image, float]:
    """A copy whose longer side is 480 pixels; and the scale that made it."""
    scale = _SIDE / max(image.shape[:2])
    height, width = (max(1, round(side * scale)) for side in image.shape[:2])
    shrink = cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=shrink), np.uint8), scale


def grid(tiles: Sequence[Image]) -> Image:
    """Tiles of any sizes in rows and columns, about as many of one as of the other."""
    columns = math.ceil(math.sqrt(len(tiles)))
    rows = math.ceil(len(tiles) / columns)
    height, width = (max(tile.shape[axis] for tile in tiles) for axis in (0, 1))
    sheet = np.full((rows * height, columns * width, 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * height, number % columns * width
        sheet[top : top + tile.shape[0], left : left + tile.shape[1]] = tile
    return sheet


def encode(image: Image, suffix: str) -> bytes:
    """The content of a file with that suffix. Raises OSError if OpenCV cannot."""
    done, data = cv2.imencode(suffix, cv2.cvtColor(image, cv2.COLOR_RGB2BGR))
    if not done:
        raise OSError(f"OpenCV could not encode the picture as {suffix}")
    return data.tobytes()


def caption(canvas: Image, text: str, legend: Sequence[tuple[str, Color]] = ()) -> Image:
    """The canvas with a line of text above it, and what each color means, from the right."""
    from PIL import Image as Pillow
    from PIL import ImageDraw

    strip, font = Pillow.new("RGB", (canvas.shape[1], 26), "white"), _font(_LETTERS)
    draw, right = ImageDraw.Draw(strip), float(canvas.shape[1])
    draw.text((4, 5), text, fill="black", font=font)
    for words, color in reversed(legend):
        left = right - draw.textlength(words, font=font) - 26
        draw.rectangle((left, 0, right, 26), fill="white")  # a long name ends before it
        draw.rectangle((left + 6, 7, left + 18, 19), outline=color, width=3)
        draw.text((left + 22, 5), words, fill="black", font=font)
        right = left
    return np.concatenate([np.asarray(strip), canvas])


def _place(
    box: Sequence[float], size: tuple[float, float], image: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where a name of this size goes: above its box, inside or below; if possible not on another."""
    width, height = size
    left = max(0.0, min(box[0], image[0] - width))
    wanted = (box[1] - height, box[1], box[3], box[3] - height)
    tops = [top for top in wanted if 0 <= top <= image[1] - height]
    places = [(left, top, left + width, top + height) for top in tops or [0.0]]
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    return next(free, places[0])


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _readable_on(color: Color) -> str:
    # The ITU-R BT.601 weights: how bright the eye takes a colour to be.
    return "black" if 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128 else "white"


@cache
def _font(size: int) -> FreeTypeFont:
    """The letters that come with Matplotlib."""
    from PIL import ImageFont

    spec = find_spec("matplotlib")  # not imported for the sake of one file
    assert spec is not None and spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return ImageFont.truetype(str(folder / "mpl-data/fonts/ttf/DejaVuSans.ttf"), size)
