"""Letterboxed images with their boxes, as they are for evaluation, or augmented for training."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from detector.config.schema import DataConfig
from detector.data.augment import augment
from detector.data.augment_ultralytics import LabeledImage, YoloAugmentation
from detector.data.dataset import Item
from detector.data.geometry import Floats, Image, Letterbox, letterbox
from detector.data.images import read_image
from detector.data.sampler import Key
from detector.errors import UserError
from detector.runtime.free_memory import free_memory

if TYPE_CHECKING:
    from detector.data.image_cache import ImageCache

AUGMENT = 2  # first word of the random seed: no other purpose shares this stream


@dataclass(frozen=True)
class Sample:
    """One letterboxed image with its objects."""

    image: Image
    boxes: Floats
    classes: NDArray[np.int64]
    index: int
    letterbox: Letterbox


def fit_in_memory(images: int, config: DataConfig, copies: int, share: float = 1 / 4) -> bool:
    """Whether this share of the free memory holds so many letterboxed images."""
    # Every shard shows every image sooner or later, so each keeps them all.
    return images * config.image_size**2 * 3 * copies <= free_memory() * share


class LetterboxedImages:
    """Letterboxed images with their boxes, from memory or from disk."""

    def __init__(self, items: Sequence[Item], config: DataConfig, copies: int) -> None:
        self.items = items
        self.size = config.image_size
        self._cache: list[Sample] | None = None
        self._disk: ImageCache | None = None
        # The system keeps a file in memory that is free, so that no disk is waited for, however slow: not so
        # a larger one, and decoding anew may be faster than reading that.
        beside = fit_in_memory(len(items), config, copies=1, share=3 / 4)
        self._fits_beside = config.cache is True and beside and sys.platform != "win32"
        if config.cache is True and fit_in_memory(len(items), config, copies):
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding releases the GIL
                self._cache = list(pool.map(self._read, range(len(items))))
        elif config.cache == "disk":
            if sys.platform == "win32":
                raise UserError("data.cache: disk: not on Windows; use true or false")
            self._keep_on_disk()

    @property
    def cached(self) -> bool:
        """Whether all images are in memory."""
        return self._cache is not None

    def expect_repeats(self) -> None:
        """Keep the images on disk from now on, if they are not in memory: each will be read many times."""
        if self._fits_beside and self._cache is None and self._disk is None:
            self._keep_on_disk()

    def _keep_on_disk(self) -> None:
        from detector.data.image_cache import ImageCache

        self._disk = ImageCache([item.image for item in self.items], self.size)

    def __getitem__(self, index: int) -> Sample:
        return self._read(index) if self._cache is None else self._cache[index]

    def unpad(self, sample: Sample) -> LabeledImage:
        """A sample's image without its padding, and its objects as fractions of that."""
        return sample.letterbox.crop(sample.image), self.items[sample.index].boxes, sample.classes

    def read_unpadded(self, index: int) -> LabeledImage:
        """The same of image number `index`."""
        return self.unpad(self[index])

    def _read(self, index: int) -> Sample:
        item = self.items[index]
        found = self._disk.get(index) if self._disk else None
        image, box = found or letterbox(read_image(item.image), self.size)
        if self._disk and not found:
            self._disk.put(index, image, box)
        return Sample(image, box.to_square(item.boxes), item.classes, index, box)


class EvalSamples:
    """What the DataLoader asks for the (epoch, index) of a batch, here or in a worker."""

    def __init__(self, samples: LetterboxedImages) -> None:
        self.samples = samples

    def __getitems__(self, keys: Sequence[Key]) -> Sequence[Sample | UserError]:
        try:
            return self.make(keys)
        except UserError as error:
            return [error]

    def make(self, keys: Sequence[Key]) -> list[Sample]:
        """The samples as they are. Raises UserError if an image cannot be read."""
        return [self.samples[index % len(self.samples.items)] for _, index in keys]


class TrainSamples(EvalSamples):
    """The same, augmented: by our own flip, shift and zoom, or by ultralytics' transforms."""

    def __init__(self, samples: LetterboxedImages, config: DataConfig, seed: int, epochs: int | None) -> None:
        super().__init__(samples)
        self.config, self.seed = config, seed
        self.yolo: YoloAugmentation | None = None
        if config.uses_yolo_augmentation:
            self.yolo = YoloAugmentation(samples.read_unpadded, len(samples.items), config, epochs)

    def make(self, keys: Sequence[Key]) -> list[Sample]:
        """The augmented samples. Raises UserError if an image cannot be read."""
        samples = super().make(keys)
        return [self._augment(sample, *key) for sample, key in zip(samples, keys, strict=True)]

    def _augment(self, sample: Sample, epoch: int, number: int) -> Sample:
        rng = np.random.default_rng([AUGMENT, self.seed, epoch, number])
        if self.yolo is not None:
            image, boxes, classes = self.yolo(self.samples.unpad(sample), epoch, rng)
        else:
            image, boxes, classes = augment(
                sample.image, sample.boxes, sample.classes, rng,
                fliplr=self.config.fliplr, translate=self.config.translate, scale=self.config.scale,
            )  # fmt: skip
        return replace(sample, image=image, boxes=boxes, classes=classes)
