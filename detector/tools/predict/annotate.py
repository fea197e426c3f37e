"""Boxes drawn on an image at its full resolution, for a person to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from PIL import Image as Pillow
from PIL import ImageDraw, ImageFont

from detector.data.geometry import Image
from detector.training.metrics import Prediction

Color = tuple[int, int, int]
Rectangle = tuple[float, float, float, float]  # left, top, right, bottom

_GOLDEN = 0.61803398875  # steps of this around the colour circle keep any number of hues apart


def class_color(label: int) -> Color:
    """A class's colour, RGB: the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def annotate(image: Image, found: Prediction, names: Sequence[str]) -> Image:
    """Draw boxes with name and score, the best on top; lines and letters grow with the image.

    A label moves into or below its box where it would cover a better one's.

    Args:
        image: (H, W, 3) uint8, RGB; left as it is.
        found: boxes in its pixels.
        names: of the classes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    picture = Pillow.fromarray(image)
    draw = ImageDraw.Draw(picture)
    side = max(picture.size)
    line, font = max(1, round(side / 400)), _font(max(10, round(side / 50)))
    labels, boxes = found.classes.tolist(), found.boxes.tolist()
    best_first = np.argsort(-found.scores, kind="stable").tolist()
    for index in best_first[::-1]:
        draw.rectangle(boxes[index], outline=class_color(labels[index]), width=line)
    taken: list[Rectangle] = []
    for index in best_first:  # after all boxes, so that no line runs through a name
        text = f"{names[labels[index]]} {found.scores[index]:.2f}"
        margin = max(1, round(font.size / 8))
        size = draw.textlength(text, font=font) + 2 * margin, sum(font.getmetrics())
        place = _place(boxes[index], size, picture.size, taken)
        taken.append(place)
        color = class_color(labels[index])
        draw.rectangle(place, fill=color)
        draw.text((place[0] + margin, place[1]), text, fill=_readable_on(color), font=font)
    return np.asarray(picture)


def _place(
    box: Sequence[float], size: tuple[float, float], image: tuple[int, int], taken: Sequence[Rectangle]
) -> Rectangle:
    """Where a label of this size goes: above its box, inside or below; if possible not on another."""
    width, height = size
    left = max(0.0, min(box[0], image[0] - width))
    wanted = (box[1] - height, box[1], box[3], box[3] - height)
    tops = [top for top in wanted if 0 <= top <= image[1] - height]
    places = [(left, top, left + width, top + height) for top in tops or [0.0]]
    free = (place for place in places if not any(_overlap(place, other) for other in taken))
    return next(free, places[0])


def _overlap(one: Rectangle, other: Rectangle) -> bool:
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _readable_on(color: Color) -> Color:
    # The ITU-R BT.601 weights: how bright the eye takes a colour to be.
    bright = 0.299 * color[0] + 0.587 * color[1] + 0.114 * color[2] > 128
    return (0, 0, 0) if bright else (255, 255, 255)


@cache
def _font(size: int) -> ImageFont.FreeTypeFont:
    """The letters that come with Matplotlib: unlike OpenCV's, they are not limited to ASCII."""
    spec = find_spec("matplotlib")  # not imported for the sake of one file
    assert spec is not None
    assert spec.submodule_search_locations
    folder = Path(spec.submodule_search_locations[0])
    return ImageFont.truetype(str(folder / "mpl-data/fonts/ttf/DejaVuSans.ttf"), size)
