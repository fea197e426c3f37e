"""ultralytics' training augmentation: for the same draws its pixels and boxes, but the same for the same key.

What `v8_transforms` of ultralytics composes, done in fewer passes over the pixels; a test holds both to be
equal. Three things are done differently, so that a run can be repeated and resumed exactly:

- Theirs draw from the global generators of `random` and NumPy. These have generators of their own, seeded for
  each image.
- The partners in a mosaic come from the whole split, never from the images that happened to be loaded last.
- Their `Albumentations` is left out: it does nothing unless that package happens to be installed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.config.schema import DataConfig
from detector.data.augment import resample
from detector.data.geometry import GREY, Floats, Image, xywh_to_xyxy, xyxy_to_xywh

LabeledImage = tuple[Image, Floats, NDArray[np.int64]]
"""An image (h, w, 3) uint8 RGB, its boxes (N, 4) as xywh fractions of it, their classes (N,)."""

MIN_SIDE, MIN_AREA, MAX_ASPECT = 2, 0.1, 100  # pixels, share and ratio: boxes beyond are dropped
_EPS = 1e-16


class YoloAugmentation:
    """Mosaic, random perspective, mixup, colours and flips, as ultralytics' `v8_transforms` composes them.

    `copy_paste` needs masks and `cutmix` is off by default there: neither is offered.
    """

    def __init__(
        self, read: Callable[[int], LabeledImage], images: int, config: DataConfig, epochs: int | None = None
    ) -> None:
        """Augment the images of one split.

        Args:
            read: number of an image -> that image without padding, its longer side `config.image_size`.
            images: how many there are.
            config: which transforms, how strong.
            epochs: of the whole run, to know when mosaic and mixup end; None: they never do.
        """
        self._read, self._images, self._config = read, images, config
        self._mixing_epochs = mixing_epochs(config, epochs)
        self._draw, self._draw_array = random.Random(), np.random.RandomState()
        side = 2 * config.image_size if config.mosaic else 0
        # Of every mosaic and every recolouring: the system would clear new memory page by page.
        self._canvas = np.empty((side, side, 4), np.uint8)
        self._planes = np.empty((3, config.image_size, config.image_size), np.uint8)

    def __call__(self, image: LabeledImage, epoch: int, rng: np.random.Generator) -> LabeledImage:
        """Augment an image as it is seen in `epoch`.

        Args:
            image: of the split, as `read` gives it; left as it is.
            epoch: from 0; decides whether mosaic and mixup are still on.
            rng: the only source of randomness.

        Returns:
            An (S, S, 3) image with what is left of the boxes, as fractions of it. Dropped are those that
            `RandomPerspective.box_candidates` drops: a side of at most 2 pixels, less than a tenth of the
            area inside the image, or more than 100 times as long as wide.

        Raises:
            UserError: a partner in a mosaic cannot be read.
        """
        draw, config, size = self._draw, self._config, self._config.image_size
        draw.seed(rng.bytes(16))
        self._draw_array.seed(rng.integers(2**32, size=4))
        mosaic, mixup = (config.mosaic, config.mixup) if epoch < self._mixing_epochs else (0.0, 0.0)

        pixels, boxes, classes = self._warped(image, mosaic)
        if draw.random() <= mixup:
            partner = self._warped(self._read(draw.randint(0, self._images - 1)), mosaic)
            share = self._draw_array.beta(32, 32)
            pixels = (pixels * share + partner[0] * (1 - share)).astype(np.uint8)
            boxes, classes = np.concatenate([boxes, partner[1]]), np.concatenate([classes, partner[2]])
        if config.hsv_h or config.hsv_s or config.hsv_v:
            pixels = self._recoloured(pixels)
        boxes = xyxy_to_xywh(boxes)
        for share, axis in ((config.flipud, 1), (config.fliplr, 0)):
            if draw.random() < share:
                pixels = np.asarray(cv2.flip(pixels, 1 - axis), np.uint8)
                boxes[:, axis] = size - boxes[:, axis]
        return pixels, boxes * np.float32(1 / size), classes

    def _warped(self, image: LabeledImage, mosaic: float) -> LabeledImage:
        """The image, or a mosaic with it, through a random perspective; boxes as corners in pixels."""
        size, perspective = self._config.image_size, self._config.perspective
        if self._draw.random() <= mosaic:
            pixels, boxes, classes = self._mosaic(image)
        else:
            pixels, boxes, classes = image[0], _corners(image, 0, 0), image[2]
        matrix, zoom = self._perspective(pixels)
        moved = _moved(boxes, matrix, perspective > 0).clip(0, size)
        keep = _large_enough(boxes * np.float32(zoom), moved)
        return resample(pixels, matrix if perspective else matrix[:2], size), moved[keep], classes[keep]

    def _mosaic(self, image: LabeledImage) -> LabeledImage:
        """Four images around a random point of a square of twice the size, with four channels."""
        draw, size, canvas = self._draw, self._config.image_size, self._canvas
        images = [image, *(self._read(draw.randint(0, self._images - 1)) for _ in range(3))]
        y, x = (int(draw.uniform(size // 2, 2 * size - size // 2)) for _ in range(2))
        canvas.fill(GREY)
        corners = []
        for number, one in enumerate(images):
            height, width = one[0].shape[:2]
            left, top = (x, x - width)[number % 2 == 0], (y, y - height)[number < 2]
            shown = one[0][max(0, -top) : 2 * size - top, max(0, -left) : 2 * size - left]
            place = canvas[max(0, top) : top + height, max(0, left) : left + width]
            cv2.cvtColor(shown, cv2.COLOR_RGB2RGBA, dst=place)
            corners.append(_corners(one, left, top))
        boxes = np.concatenate(corners).clip(0, 2 * size)
        sides = boxes[:, 2:] - boxes[:, :2]
        seen = sides[:, 0] * sides[:, 1] > 0
        return canvas, boxes[seen], np.concatenate([one[2] for one in images])[seen]

    def _perspective(self, pixels: Image) -> tuple[Floats, float]:
        """(3, 3) from the image's pixels to the square's: tilt, turn, zoom, shear and shift; and the zoom."""
        draw, config, size = self._draw, self._config, self._config.image_size
        height, width = pixels.shape[:2]
        tilt = [draw.uniform(-config.perspective, config.perspective) for _ in range(2)]
        angle = draw.uniform(-config.degrees, config.degrees)
        zoom = draw.uniform(1 - config.scale, 1 + config.scale)
        shear = [math.tan(draw.uniform(-config.shear, config.shear) * math.pi / 180) for _ in range(2)]
        shift = [draw.uniform(0.5 - config.translate, 0.5 + config.translate) * size for _ in range(2)]
        turned = cv2.getRotationMatrix2D((0, 0), angle, zoom)
        centred, tilted, turned, sheared, shifted = (
            np.array(rows, np.float32)
            for rows in (
                [[1, 0, -width / 2], [0, 1, -height / 2], [0, 0, 1]],
                [[1, 0, 0], [0, 1, 0], [*tilt, 1]],
                [*turned, [0, 0, 1]],
                [[1, shear[0], 0], [shear[1], 1, 0], [0, 0, 1]],
                [[1, 0, shift[0]], [0, 1, shift[1]], [0, 0, 1]],
            )
        )
        return np.asarray(shifted @ sheared @ turned @ tilted @ centred, np.float32), zoom

    def _recoloured(self, pixels: Image) -> Image:
        """Hue, saturation and brightness each by a random factor; pure black and white stay without hue."""
        config = self._config
        gains = [config.hsv_h, config.hsv_s, config.hsv_v]
        hue, saturation, value = self._draw_array.uniform(-1, 1, 3) * gains
        level = np.arange(256.0)
        tables = np.empty((3, 256), np.uint8)
        tables[0] = (level + hue * 180) % 180  # OpenCV's hue is in steps of two degrees
        tables[1] = (level * (saturation + 1)).clip(0, 255)
        tables[2] = (level * (value + 1)).clip(0, 255)
        tables[1, 0] = 0
        hsv, planes = cv2.cvtColor(pixels, cv2.COLOR_RGB2HSV), list(self._planes)
        cv2.split(hsv, planes)
        for plane, table in zip(planes, tables, strict=True):  # faster than one table of three channels
            cv2.LUT(plane, table, plane)
        return np.asarray(cv2.cvtColor(cv2.merge(planes, hsv), cv2.COLOR_HSV2RGB), np.uint8)


def mixing_epochs(config: DataConfig, epochs: int | None) -> float:
    """How many epochs have mosaic and mixup, if these are on at all; without end if they are never closed.

    As in ultralytics, the last `close_mosaic` have not, so a run of no more than that has none anywhere.
    """
    if config.close_mosaic == 0 or epochs is None:
        return math.inf
    return max(0, epochs - config.close_mosaic)


def _corners(image: LabeledImage, left: int, top: int) -> Floats:
    """(N, 4) the boxes of an image as xyxy in pixels of a canvas in which it begins at (left, top)."""
    height, width = image[0].shape[:2]
    scale, offset = np.array([[width, height] * 2, [left, top] * 2], np.float32)
    corners: Floats = xywh_to_xyxy(image[1]) * scale + offset
    return corners


def _moved(boxes: Floats, matrix: Floats, perspective: bool) -> Floats:
    """(N, 4) xyxy around the boxes' four corners where the (3, 3) matrix takes them."""
    points = np.ones((len(boxes) * 4, 3), np.float32)
    points[:, :2] = boxes[:, [0, 1, 2, 3, 0, 3, 2, 1]].reshape(-1, 2)
    points = points @ matrix.T
    flat = points[:, :2] / points[:, 2:] if perspective else points[:, :2]
    corners = flat.reshape(-1, 4, 2)
    return np.concatenate([corners.min(1), corners.max(1)], axis=1)


def _large_enough(before: Floats, after: Floats) -> NDArray[np.bool_]:
    """(N,) which boxes are worth keeping, from (N, 4) xyxy as they were, zoomed, and as they are now."""
    old, new = before[:, 2:] - before[:, :2], after[:, 2:] - after[:, :2]
    aspect = (new / (new[:, ::-1] + _EPS)).max(axis=1)
    share = new[:, 0] * new[:, 1] / (old[:, 0] * old[:, 1] + _EPS)
    return np.asarray((new > MIN_SIDE).all(axis=1) & (share > MIN_AREA) & (aspect < MAX_ASPECT))
