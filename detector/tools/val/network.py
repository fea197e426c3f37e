"""What `detector val` evaluates: a network and its classes beside those of the data, timed as it runs."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from pydantic import ValidationError
from torch import Tensor

from detector.config.names import plugin_needed
from detector.config.schema import Config
from detector.data.dataset import Dataset
from detector.errors import UserError
from detector.loggers.base import PredictionImage
from detector.models.base import DetectionModel, Predictions
from detector.models.build import Loaded
from detector.runtime.device import PRECISIONS, autocast, preprocess
from detector.tools.val.evaluation import Report
from detector.tools.val.files import WORST
from detector.training.evaluation import UNKNOWN
from detector.training.examples import prediction_image
from detector.training.metrics import Prediction


def class_columns(
    model: Sequence[str], data: Sequence[str], checkpoint: str, source: str, also: Sequence[str] = ()
) -> tuple[int, ...] | None:
    """The model's class that stands for each of the data's, by name; None if they are the same.

    Args:
        model: its classes.
        data: the data's.
        checkpoint: the model's file, for the error.
        source: the data's.
        also: classes that it need not know: they are `UNKNOWN`.

    Raises:
        UserError: the data has a class that the model does not know.
    """
    if tuple(model) == tuple(data):
        return None
    place = {name: index for index, name in enumerate(model)}
    unknown = [name for name in data if name not in place and name not in also]
    if unknown:
        which = f"; new to the model: {_listed(unknown)}" if len(unknown) < len(data) else ""
        raise UserError(
            f"{checkpoint} knows the classes {_listed(model)}, but {source} has {_listed(data)}{which}"
        )
    return tuple(place.get(name, UNKNOWN) for name in data)


def worst_images(
    dataset: Dataset, split: str, result: Report, predictions: Sequence[Prediction]
) -> list[PredictionImage]:
    """The images with the most errors, with the detections that count at the best confidence."""
    pictures = []
    for errors in result.worst(WORST):
        item, found = dataset.splits[split][errors.image], predictions[errors.image]
        caption = f"{item.image.name} ({errors.missed} missed, {errors.false} false)"
        pictures.append(prediction_image(item, found, dataset.names, split, result.confidence, name=caption))
    return pictures


class Stopwatch:
    """Seconds spent in each phase of `predict_split`."""

    def __init__(self, device: torch.device) -> None:
        self.seconds = dict.fromkeys(("load", "forward", "postprocess"), 0.0)
        self._device, self._since = device, time.perf_counter()

    def lap(self, phase: str) -> None:
        """This phase has just ended."""
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # else the GPU's work is booked to whoever waits for it
        now = time.perf_counter()
        self.seconds[phase] += now - self._since
        self._since = now


def forward(model: DetectionModel, device: torch.device, precision: str) -> Callable[[Tensor], Predictions]:
    """Place the model, and return how it is called."""
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def call(images: Tensor) -> Predictions:
        with autocast(device, PRECISIONS[precision]):
            raw: Predictions = model(preprocess(images, device, channels_last=True))
        return raw

    return call


def image_size(wanted: int | None, loaded: Loaded) -> int:
    """Pixels to evaluate at, as wanted or as the network was trained. Raises UserError for what cannot be."""
    size = loaded.image_size if wanted is None else wanted
    unit = max(32, *loaded.model.strides)
    if size < unit or size % unit:
        raise UserError(f"--image-size {size}: must be a multiple of {unit}")
    return size


def config(loaded: Loaded, checkpoint: Path) -> Config | None:
    """The configuration of the run that made a checkpoint; None for one of ultralytics."""
    if loaded.config is None:
        return None
    try:
        return Config.model_validate(loaded.config)
    except ValidationError as error:
        if need := plugin_needed(error):
            raise UserError(f"{checkpoint}: its configuration {need}") from None
        raise UserError(f"{checkpoint}: its configuration is of another version of this project") from error


def in_words(device: torch.device) -> str:
    """A device as a person knows it."""
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
