"""A trained detector as a function from an image to the boxes on it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path

import numpy as np
import torch

from detector.data.geometry import Image, Letterbox, letterbox
from detector.errors import UserError
from detector.models.build import load_model
from detector.models.decode import best_class, decode, postprocess
from detector.rundir.finding import checkpoint_at
from detector.runtime.device import PRECISIONS, choose_device
from detector.training.metrics import Prediction


class Predictor:
    """A trained detector, ready to predict.

    >>> import numpy as np
    >>> from detector import Predictor
    >>> predictor = Predictor("runs/baseline/checkpoints/best.pt", confidence=0.001)
    >>> found = predictor(np.zeros((480, 640, 3), np.uint8))  # any picture: (H, W, 3), RGB
    >>> for box, score, label in zip(found.boxes, found.scores, found.classes):
    ...     print(predictor.names[label], score, box)  # corners in pixels of the picture

    Args:
        checkpoint: of this project, a run's directory, or a `.pt` of ultralytics; no code in it is run.
        confidence: the lowest score that counts.
        iou: of two boxes of a class that overlap more than this, only the better one is kept.
        image_size: side of the square that images are fitted into, pixels; None: as it was trained.
        device: auto, cpu, cuda or cuda:N.
        precision: fp32, bf16, or on a GPU fp16.

    Raises:
        UserError: the checkpoint cannot be read, or the network or the device cannot do what is asked.
    """

    names: tuple[str, ...]  # of the classes
    image_size: int

    def __init__(
        self,
        checkpoint: str | os.PathLike[str],
        *,
        confidence: float = 0.25,
        iou: float = 0.7,
        image_size: int | None = None,
        device: str = "auto",
        precision: str = "fp32",
    ) -> None:
        self.device = choose_device(device, "device ")
        if precision == "fp16" and self.device.type != "cuda":
            raise UserError("precision fp16 needs a CUDA GPU; on a CPU use bf16 or fp32")
        loaded = load_model(checkpoint_at(Path(checkpoint)))
        model, self.names = loaded.model, loaded.names
        self.image_size = check_size(image_size or loaded.image_size, model.strides)
        self.confidence, self.iou = confidence, iou
        self.precision = PRECISIONS[precision]
        self.model = model.to(device=self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def __call__(self, image: Image) -> Prediction:
        """What is on one image.

        Args:
            image: (H, W, 3) uint8, RGB.

        Returns:
            At most 300 boxes, best score first, with corners in pixels of the image.
        """
        return self.batch([image])[0]

    @torch.inference_mode()
    def batch(self, images: Sequence[Image]) -> list[Prediction]:
        """What is on each of several images, of any sizes; see `__call__`."""
        if not images:
            return []
        squares, boxes = zip(*(letterbox(image, self.image_size) for image in images), strict=True)
        # Seen as (B, 3, S, S), the stacked images are in the channels_last layout, which is the faster one.
        pixels = torch.from_numpy(np.stack(squares)).to(self.device).permute(0, 3, 1, 2).float() / 255
        reduced = self.precision != torch.float32
        with torch.autocast(self.device.type, self.precision) if reduced else nullcontext():
            raw = self.model(pixels)
        corners, scores = (part.cpu() for part in decode(raw, self.model.strides))
        return [self._choose(*parts) for parts in zip(corners, scores, boxes, strict=True)]

    def _choose(self, corners: torch.Tensor, scores: torch.Tensor, square: Letterbox) -> Prediction:
        """(A, 4) pixels of the square and (A, classes) -> the boxes that count, on the original image."""
        found = postprocess(corners, best_class(scores), confidence=self.confidence, iou=self.iou)
        boxes = square.to_original(found.boxes.numpy())
        # Boxes in the padding are cut to nothing; badly trained networks predict sides in the wrong order.
        real = (boxes[:, 2:] > boxes[:, :2]).all(1)
        return Prediction(boxes[real], found.scores.numpy()[real], found.classes.numpy()[real])


def check_size(size: int, strides: tuple[int, ...]) -> int:
    """Return the size if the network takes it.

    Raises:
        UserError: it does not.
    """
    largest = max(strides)
    if size < largest or size % largest:
        near = max(largest, round(size / largest) * largest)
        raise UserError(f"image size {size}: this network takes multiples of {largest}, such as {near}")
    return size
