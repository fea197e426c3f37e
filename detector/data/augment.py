"""Training augmentation: a flip, and a shift with a zoom. A pure function of its generator."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import GREY, Floats, Image, xywh_to_xyxy, xyxy_to_xywh

MIN_AREA = 0.1  # a box of which less is left inside the image is dropped
MIN_SIDE = 2.0  # pixels; likewise
MIN_ZOOM = 0.1  # scale=1 may draw a zoom of 0, which would leave no image


def augment(
    image: Image,
    boxes: Floats,
    classes: NDArray[np.int64],
    rng: np.random.Generator,
    *,
    fliplr: float,
    translate: float,
    scale: float,
) -> tuple[Image, Floats, NDArray[np.int64]]:
    """Flip, shift and zoom a square image and its boxes.

    The three gains mean what they mean in ultralytics. The same amount is drawn from `rng` whatever
    their values, so turning one off leaves the others' draws as they were.

    Args:
        image: (S, S, 3) uint8; left as it is.
        boxes: (N, 4) xywh, fractions of the image.
        classes: (N,).
        rng: the only source of randomness.
        fliplr: probability of a horizontal flip.
        translate: the shift in x and in y is uniform in ±translate, as a fraction of the image.
        scale: the zoom about the centre is uniform in 1 ± scale.

    Returns:
        The new image, the boxes clipped to it, and their classes, without the boxes that (nearly)
        left it.
    """
    flip, zoom, *shift = rng.random(4)
    if flip < fliplr:
        image = np.ascontiguousarray(image[:, ::-1])
        boxes = np.concatenate([1 - boxes[:, :1], boxes[:, 1:]], axis=1)
    if translate == 0 and scale == 0:
        return image, boxes, classes
    zoom = max(MIN_ZOOM, 1 + scale * (2 * zoom - 1))
    # x' = zoom·x + offset, as fractions of the image: about the centre, then shifted.
    offset = (1 - zoom) / 2 + translate * (2 * np.array(shift) - 1)
    image = _warp(image, zoom, offset)
    return (image, *_move(boxes, classes, zoom, offset, image.shape[0]))


def _warp(image: Image, zoom: float, offset: NDArray[np.float64]) -> Image:
    """Resample the image. OpenCV counts from pixel centres, boxes count from edges: half a pixel apart."""
    size = image.shape[0]
    x, y = offset * size + (zoom - 1) / 2
    return resample(image, np.array([[zoom, 0, x], [0, zoom, y]]), size)


def resample(image: Image, matrix: NDArray[np.floating[Any]], size: int) -> Image:
    """Move the pixels of an image into a grey square.

    Args:
        image: (H, W, 3) uint8, or with a fourth channel that means nothing: with four, OpenCV takes half the
            time, and gives the same three.
        matrix: (2, 3), or (3, 3) with a perspective, from pixel centres to pixel centres.
        size: side of the square, pixels.

    Returns:
        The (size, size, 3) uint8 square.
    """
    if image.shape[2] == 3:
        image = np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2RGBA), np.uint8)
    warp = cv2.warpAffine if len(matrix) == 2 else cv2.warpPerspective
    moved = warp(image, matrix, (size, size), borderValue=(GREY,) * 4)
    return np.asarray(cv2.cvtColor(moved, cv2.COLOR_RGBA2RGB), np.uint8)


def _move(
    boxes: Floats, classes: NDArray[np.int64], zoom: float, offset: NDArray[np.float64], size: int
) -> tuple[Floats, NDArray[np.int64]]:
    """Map the boxes like the pixels, clip them, and drop those that are (nearly) gone."""
    moved = xywh_to_xyxy(boxes) * zoom + np.tile(offset, 2)
    clipped = np.clip(moved, 0, 1)
    side = clipped[:, 2:] - clipped[:, :2]
    area = np.prod(moved[:, 2:] - moved[:, :2], axis=1)
    keep = (np.prod(side, axis=1) >= MIN_AREA * area) & (side >= MIN_SIDE / size).all(axis=1)
    return xyxy_to_xywh(clipped[keep]).astype(np.float32), classes[keep]
