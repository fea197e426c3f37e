"""ultralytics' training augmentation: its own transforms in its order, but the same for the same key.

Three things are done differently, so that a run can be repeated and resumed exactly:

- Their transforms draw from the global generators of `random` and NumPy. Those are lent to them, seeded for
  each image, and afterwards are as they were.
- The partners in a mosaic come from the whole split, never from the images that happened to be loaded last.
- Their `Albumentations` is left out: it does nothing unless that package happens to be installed.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.config.schema import DataConfig
from detector.data.geometry import Floats, Image
from detector.runtime.ultralytics_import import import_ultralytics

LabeledImage = tuple[Image, Floats, NDArray[np.int64]]
"""An image (h, w, 3) uint8 RGB, its boxes (N, 4) as xywh fractions of it, their classes (N,)."""


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
        # Imported here, so that forked worker processes share it; built where it is used, because sending
        # ultralytics' objects to a worker that was not forked would import it there in its own way.
        import_ultralytics("data.augment")
        self._pipeline: _Pipeline | None = None

    def __call__(self, image: LabeledImage, epoch: int, rng: np.random.Generator) -> LabeledImage:
        """Augment an image as it is seen in `epoch`.

        This seeds the global generators: wrap one or many calls in `global_generators_kept`.

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
        if self._pipeline is None:
            self._pipeline = _Pipeline(_Images(self._read, self._images), self._config)
        seed_global_generators(rng)
        labels = self._pipeline(image, mixing=epoch < self._mixing_epochs)
        size = self._config.image_size
        instances = labels["instances"]
        instances.convert_bbox("xywh")
        instances.normalize(size, size)
        return _in_order(labels["img"]), np.asarray(instances.bboxes, np.float32), labels["cls"]


def mixing_epochs(config: DataConfig, epochs: int | None) -> float:
    """How many epochs have mosaic and mixup, if these are on at all; without end if they are never closed.

    As in ultralytics, the last `close_mosaic` have not, so a run of no more than that has none anywhere.
    """
    if config.close_mosaic == 0 or epochs is None:
        return math.inf
    return max(0, epochs - config.close_mosaic)


@contextmanager
def global_generators_kept() -> Iterator[None]:
    """Whatever is drawn from the global generators of `random` and NumPy inside, it does not move them.

    Their states are part of a checkpoint.
    """
    before = random.getstate(), np.random.get_state(legacy=False)  # noqa: NPY002
    try:
        yield
    finally:
        random.setstate(before[0])
        np.random.set_state(before[1])  # noqa: NPY002


def seed_global_generators(rng: np.random.Generator) -> None:
    """Make what the global generators of `random` and NumPy draw next a function of `rng`."""
    random.seed(rng.bytes(16))
    np.random.seed(rng.integers(2**32, size=4))  # noqa: NPY002


Labels = dict[str, Any]  # one image in the form that ultralytics' transforms pass on


class _Images:
    """The split as the transforms that mix images want it."""

    cache = "ram"  # else partners are drawn from `buffer`, the images loaded last, which depends on history

    def __init__(self, read: Callable[[int], LabeledImage], images: int) -> None:
        self._read, self._images = read, images
        self._instances = import_ultralytics("utils.instance").Instances

    def __len__(self) -> int:
        return self._images

    def get_image_and_label(self, index: int) -> Labels:
        return self.labels(*self._read(index))

    def labels(self, image: Image, boxes: Floats, classes: NDArray[np.int64]) -> Labels:
        """The transforms change boxes in place, images never."""
        instances = self._instances(boxes.copy(), bbox_format="xywh")
        shape = image.shape[:2]
        return {"img": image, "instances": instances, "cls": classes, "im_file": "", "ori_shape": shape}


class _Pipeline:
    """The transforms, with and without those that mix images."""

    def __init__(self, images: _Images, config: DataConfig) -> None:
        self._images = images
        self._mixing = _compose(images, config, config.mosaic, config.mixup)
        self._closed = _compose(images, config, 0.0, 0.0)

    def __call__(self, image: LabeledImage, mixing: bool) -> Labels:
        transforms = self._mixing if mixing else self._closed
        return transforms(self._images.labels(*image))


def _compose(images: _Images, config: DataConfig, mosaic: float, mixup: float) -> Callable[[Labels], Labels]:
    """The transforms in ultralytics' order."""
    augment = import_ultralytics("data.augment")
    size = config.image_size
    perspective = augment.RandomPerspective(
        degrees=config.degrees,
        translate=config.translate,
        scale=config.scale,
        shear=config.shear,
        perspective=config.perspective,
        size=(size, size),
    )
    one_image = augment.Compose([augment.Mosaic(images, imgsz=size, p=mosaic), perspective])
    composed: Callable[[Labels], Labels] = augment.Compose(
        [
            one_image,
            augment.MixUp(images, pre_transform=one_image, p=mixup),
            _swap_red_and_blue,  # their colours are BGR
            augment.RandomHSV(hgain=config.hsv_h, sgain=config.hsv_s, vgain=config.hsv_v),
            _swap_red_and_blue,
            augment.RandomFlip(p=config.flipud, direction="vertical"),
            augment.RandomFlip(p=config.fliplr, direction="horizontal"),
        ]
    )
    return composed


def _swap_red_and_blue(labels: Labels) -> Labels:
    labels["img"] = cv2.cvtColor(labels["img"], cv2.COLOR_RGB2BGR)
    return labels


def _in_order(image: Image) -> Image:
    """The image laid out from left to right. OpenCV mirrors it fifty times as fast as NumPy copies a view."""
    if image.strides[1] > 0:
        return image
    return np.asarray(cv2.flip(np.ascontiguousarray(image[:, ::-1]), 1), np.uint8)
