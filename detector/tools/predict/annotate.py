"""Boxes drawn on an image at its full resolution, for a person to look at."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

import numpy as np

from detector.data.geometry import Image
from detector.loggers.images import Color, draw_boxes
from detector.training.metrics import Prediction

_GOLDEN = 0.61803398875  # steps of this around the colour circle keep any number of hues apart


def class_color(label: int) -> Color:
    """A class's colour, RGB: the same in every picture."""
    red, green, blue = colorsys.hsv_to_rgb(label * _GOLDEN % 1, 0.85, 1.0)
    return round(red * 255), round(green * 255), round(blue * 255)


def annotate(image: Image, found: Prediction, names: Sequence[str]) -> Image:
    """Draw boxes with name and score, the best on top; lines and letters grow with the image.

    Args:
        image: (H, W, 3) uint8, RGB; left as it is.
        found: boxes in its pixels.
        names: of the classes.

    Returns:
        (H, W, 3) uint8, RGB.
    """
    side = max(image.shape[:2])
    best = np.argsort(-found.scores, kind="stable")
    labels = found.classes[best].tolist()
    texts = [f"{names[label]} {score:.2f}" for label, score in zip(labels, found.scores[best], strict=True)]
    return draw_boxes(image, found.boxes[best], texts, [class_color(label) for label in labels],
                      line=max(1, round(side / 400)), letters=max(10, round(side / 50)))  # fmt: skip
