"""Boxes and the letterbox: the only place that knows how image and network coordinates relate.

Coordinates are continuous: a pixel covers [i, i + 1), so an image of width w spans [0, w].
Two layouts are used, always named: `xywh` (centre x, centre y, width, height) and `xyxy`
(left, top, right, bottom).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

Image = NDArray[np.uint8]  # (H, W, 3), RGB
Floats = NDArray[np.float32]

GREY = 114  # the padding YOLO models are trained with; close to the mean of natural images


def xywh_to_xyxy(boxes: Floats) -> Floats:
    """(N, 4) centre x, centre y, width, height -> (N, 4) left, top, right, bottom; same unit."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def xyxy_to_xywh(boxes: Floats) -> Floats:
    """(N, 4) left, top, right, bottom -> (N, 4) centre x, centre y, width, height; same unit."""
    return np.concatenate([(boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]], axis=1)


def iou_matrix(a: NDArray[Any], b: NDArray[Any]) -> NDArray[np.float64]:
    """Intersection over union of (N, 4) and (M, 4) boxes, corners -> (N, M); 0 where both are empty."""
    a, b = a.astype(np.float64)[:, None], b.astype(np.float64)[None]  # (N, 1, 4), (1, M, 4)
    overlap = np.minimum(a[..., 2:], b[..., 2:]) - np.maximum(a[..., :2], b[..., :2])  # (N, M, 2)
    common = overlap.clip(0).prod(-1)
    union = (a[..., 2:] - a[..., :2]).prod(-1) + (b[..., 2:] - b[..., :2]).prod(-1) - common
    ratio: NDArray[np.float64] = np.divide(common, union, out=np.zeros_like(common), where=union > 0)
    return ratio


@dataclass(frozen=True)
class Letterbox:
    """How a `width` x `height` image sits in a `size` x `size` square: scaled to fill, centred, padded.

    Everything else follows from these three numbers. Boxes are mapped with the rounded size the
    image really has inside the square, not with the ideal scale, so they stay on their pixels.
    """

    size: int  # side of the square, pixels
    width: int  # of the original image, pixels
    height: int

    @property
    def scale(self) -> float:
        """Ideal zoom from original to letterboxed pixels: above 1 enlarges."""
        return self.size / max(self.width, self.height)

    @property
    def inner_width(self) -> int:
        """Width of the image inside the square, pixels: at least 1, however elongated it is."""
        return max(1, round(self.width * self.scale))

    @property
    def inner_height(self) -> int:
        """Height of the image inside the square, pixels: at least 1."""
        return max(1, round(self.height * self.scale))

    @property
    def left(self) -> int:
        """Columns of padding left of the image."""
        return (self.size - self.inner_width) // 2

    @property
    def top(self) -> int:
        """Rows of padding above the image."""
        return (self.size - self.inner_height) // 2

    def crop(self, square: Image) -> Image:
        """The image without padding: of the (size, size, 3) square a view (inner_height, inner_width, 3)."""
        left, top = self.left, self.top
        return square[top : top + self.inner_height, left : left + self.inner_width]

    def to_square(self, boxes: Floats) -> Floats:
        """(N, 4) xywh as fractions of the original -> (N, 4) xywh as fractions of the square."""
        stretch = np.array([self.inner_width, self.inner_height] * 2, np.float32)
        offset = np.array([self.left, self.top, 0, 0], np.float32)
        square: Floats = (boxes * stretch + offset) / np.float32(self.size)
        return square

    def to_original(self, boxes: Floats) -> Floats:
        """(N, 4) xyxy in pixels of the square -> (N, 4) xyxy in pixels of the original, clipped to it."""
        offset = np.array([self.left, self.top] * 2, np.float32)
        stretch = np.array([self.width / self.inner_width, self.height / self.inner_height] * 2, np.float32)
        limit = np.array([self.width, self.height] * 2, np.float32)
        original: Floats = np.clip((boxes - offset) * stretch, 0, limit)
        return original


def letterbox(image: Image, size: int) -> tuple[Image, Letterbox]:
    """Fit an image into a grey square without distorting it.

    Args:
        image: (H, W, 3) uint8.
        size: side of the square, pixels.

    Returns:
        The (size, size, 3) uint8 square and how to map boxes into it and back.
    """
    height, width = image.shape[:2]
    box = Letterbox(size, width, height)
    inner = (box.inner_width, box.inner_height)
    if inner != (width, height):
        # Averaging avoids moiré when shrinking; it would give blocks when enlarging.
        method = cv2.INTER_AREA if box.scale < 1 else cv2.INTER_LINEAR
        image = np.asarray(cv2.resize(image, inner, interpolation=method), np.uint8)
    square = np.full((size, size, 3), GREY, np.uint8)
    box.crop(square)[:] = image
    return square, box
