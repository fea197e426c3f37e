"""`detector val`: a checkpoint and a split in, numbers and pictures out."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import orjson
import torch
from pydantic import ValidationError
from rich.console import Console
from torch import Tensor

from detector.config.schema import Config, DataConfig
from detector.data.dataset import Dataset
from detector.data.loader import Loader
from detector.data.sources import load_dataset, locate, options_of
from detector.errors import UserError
from detector.loggers.base import PredictionImage
from detector.loggers.images import save_grid
from detector.models.base import DetectionModel, Predictions
from detector.models.build import Loaded, load_model
from detector.models.fold import fold_norms
from detector.rundir import checkpoint_at, run_name
from detector.runtime.allocator import keep_freed_memory
from detector.runtime.device import PRECISIONS, autocast, choose_device, choose_precision, preprocess
from detector.runtime.files import new_folder
from detector.runtime.progress import progress_bar
from detector.tools.val.evaluation import Report, report
from detector.tools.val.files import WORST, Setting, document, print_report, write_files
from detector.tools.val.plots import write_evaluation_plots
from detector.training.evaluation import predict_split
from detector.training.examples import prediction_image
from detector.training.metrics import Prediction
from detector.training.provenance import provenance


def val(options: argparse.Namespace) -> None:
    """Evaluate as the command line says.

    Raises:
        UserError: the checkpoint or the data is missing or broken, or they do not belong together.
    """
    started = time.perf_counter()
    keep_freed_memory()
    checkpoint = checkpoint_at(options.checkpoint)
    name = run_name(checkpoint)
    loaded = load_model(checkpoint)
    config = _config(loaded, checkpoint)
    size = _image_size(options.image_size, loaded)
    if options.batch < 1:
        raise UserError(f"--batch {options.batch}: must be at least 1")
    device = choose_device(options.device, "--device ")
    data = options.data or (config and config.data.path)
    if not data:
        raise UserError(f"{checkpoint} does not say what it was trained on: name the data with --data")
    on_error = options.on_error or (config.data.on_error if config else "raise")
    as_trained = config or Config()
    how = options_of(as_trained.data, as_trained.train.seed)
    how["allow_outside"] |= options.allow_outside
    if data != as_trained.data.path:
        how["val_fraction"] = 0.0  # other data has its own splits
    dataset = load_dataset(data, on_error, splits=(options.split,), **how)
    columns = class_columns(loaded.names, dataset.names, str(checkpoint), data)
    directory = new_folder(options.out, f"runs/val-{name}", "--out")

    clock = Stopwatch(device)
    precision = choose_precision(options.precision, device)
    network = fold_norms(loaded.model) if options.fast else loaded.model
    forward = network_forward(network, device, precision)
    items = dataset.splits[options.split]
    loader = Loader(items, DataConfig(image_size=size))
    batches = loader.eval_batches(batch=options.batch, pin=device.type == "cuda")
    with progress_bar() as bar:
        shown = bar.track(batches, total=loader.batches_per_epoch(options.batch), description="evaluating")
        truths, predictions = predict_split(
            forward, loaded.model, shown, items, columns=columns, trim=options.fast, lap=clock.lap
        )
    result = report(truths, predictions, dataset.names)

    setting = Setting(
        checkpoint=checkpoint,
        name=name,
        step=loaded.step,
        data=locate(data),
        dataset=dataset.name,
        split=options.split,
        files=tuple(item.image.name for item in items),
        image_size=size,
        batch=options.batch,
        precision=precision,
        fast=options.fast,
        device=_in_words(device),
        threads=torch.get_num_threads(),
        seconds=clock.seconds | {"total": time.perf_counter() - started},
    )
    notes = [f"left out: {line}" for line in dataset.skipped]
    notes += [str(note) for note in dataset.notes if note.severity == "repair"]
    if extra := len(loaded.names) - len(dataset.names):
        notes.append(f"{extra} of the model's classes are not in the data and do not count")
    content = document(result, setting, notes, provenance()) | {"out": str(directory)}
    worst = worst_images(dataset, options.split, result, predictions)
    try:
        write_files(directory, content, result, setting, truths, predictions)
        plots = write_evaluation_plots(result, setting.title, directory)
        save_grid(worst, directory / "worst.png", WORST)  # no file where there is no mistake
    except OSError as error:
        raise UserError(f"--out {directory}: cannot be written: {error.strerror or error}") from error
    for note in notes:
        print(note, file=sys.stderr)
    if options.json:
        sys.stdout.write(orjson.dumps(content, option=orjson.OPT_INDENT_2).decode() + "\n")
    else:
        print_report(result, setting, Console())
        print(f"Files: {directory}")
    if options.wandb:
        from detector.tools.val.wandb_report import log_evaluation

        group = (config and config.run.name) or name
        log_evaluation(directory, config or Config(), group, dataset.name, content, plots, worst)


def class_columns(
    model: Sequence[str], data: Sequence[str], checkpoint: str, source: str
) -> tuple[int, ...] | None:
    """The model's class that stands for each of the data's, by name; None if they are the same.

    Raises:
        UserError: the data has a class that the model does not know.
    """
    if tuple(model) == tuple(data):
        return None
    place = {name: index for index, name in enumerate(model)}
    unknown = [name for name in data if name not in place]
    if unknown:
        which = f"; new to the model: {_listed(unknown)}" if len(unknown) < len(data) else ""
        raise UserError(
            f"{checkpoint} knows the classes {_listed(model)}, but {source} has {_listed(data)}{which}"
        )
    return tuple(place[name] for name in data)


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


def network_forward(
    model: DetectionModel, device: torch.device, precision: str
) -> Callable[[Tensor], Predictions]:
    """Place the model, and return how it is called."""
    model.to(device=device, memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(images: Tensor) -> Predictions:
        with autocast(device, PRECISIONS[precision]):
            raw: Predictions = model(preprocess(images, device, channels_last=True))
        return raw

    return forward


def _image_size(wanted: int | None, loaded: Loaded) -> int:
    size = loaded.image_size if wanted is None else wanted
    unit = max(32, *loaded.model.strides)
    if size < unit or size % unit:
        raise UserError(f"--image-size {size}: must be a multiple of {unit}")
    return size


def _config(loaded: Loaded, checkpoint: Path) -> Config | None:
    """The configuration of the run that made a checkpoint; None for one of ultralytics."""
    if loaded.config is None:
        return None
    try:
        return Config.model_validate(loaded.config)
    except ValidationError as error:
        raise UserError(f"{checkpoint}: its configuration is of another version of this project") from error


def _in_words(device: torch.device) -> str:
    return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type


def _listed(names: Sequence[str], most: int = 6) -> str:
    more = f", … ({len(names)} in all)" if len(names) > most else ""
    return ", ".join(map(repr, names[:most])) + more
