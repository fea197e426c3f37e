"""What is examined: a run, or data alone; and what is measured of it once and looked at by several checks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detector.config.schema import Config
from detector.data.batch import Batch
from detector.data.dataset import Dataset, Item
from detector.data.loader import Loader
from detector.data.sources import load_configured
from detector.errors import UserError
from detector.gradients.probe import outputs_of, probe_levels
from detector.gradients.signal import moments, summary_of
from detector.models.base import DetectionModel, Predictions
from detector.models.build import load_model
from detector.models.loss import DetectionLoss
from detector.rows import Key, Row
from detector.rundir.finding import load_run
from detector.runtime.device import choose_device, preprocess
from detector.runtime.sync_norm import batch_norms
from detector.tools.doctor.checks import spread
from detector.training.evaluation import predict_split
from detector.training.metrics import Prediction, Truth, coco_map

SEEN = 32  # images of a split at most that are passed through the network
AT_ONCE = 8


class Seen(NamedTuple):
    """What a network finds on a split's images."""

    truths: Sequence[Truth]
    predictions: Sequence[Prediction]
    score: float  # mAP50-95 on these images


class Assigned(NamedTuple):
    """What the loss assigns to each of N objects."""

    sides: Tensor  # (N,) the shorter side, pixels as the network sees them
    cells: Tensor  # (N, scales) positive cells at each stride
    weight: Tensor  # (N,) of the targets, summed: how much the loss teaches of it


class Signal(NamedTuple):
    """The trunk's output, by level."""

    rms: Mapping[str, float]
    dependence: Mapping[str, float]  # I: how much of it differs between images
    auc: Mapping[str, float]  # of a linear probe: p3, p3_position, …


class Lag(NamedTuple):
    """The loss on training images, in evaluation mode."""

    stored: float  # with the running statistics as they are stored
    anew: float  # with statistics taken anew over the same images
    norms: int  # batch norms; without any, the two are the same


@dataclass
class Case:
    """A run, or data with a configuration that would train on it."""

    target: str
    config: Config
    dataset: Dataset
    rows: Sequence[Row] = ()
    summary: Mapping[str, Any] = field(default_factory=dict)
    checkpoint: Path | None = None  # None: data alone, or nothing can be read of what was trained
    unreadable: str = "there is no run"  # why, where it is None
    device: torch.device = field(default_factory=lambda: choose_device("auto"))

    @property
    def is_run(self) -> bool:
        """Whether something was trained."""
        return bool(self.summary)

    def metric(self, key: str) -> float | None:
        """A number of the summary."""
        value = self.summary.get(key)
        return float(value) if isinstance(value, int | float) else None

    @property
    def learnt(self) -> float | None:
        """mAP50-95 on the training images: the run's own or, where it was not measured, on some of them."""
        value = self.metric(Key.TRAIN_MAP)
        return self.seen["train"].score if value is None and self.checkpoint is not None else value

    @cached_property
    def model(self) -> DetectionModel:
        """The trained network, in evaluation mode."""
        assert self.checkpoint is not None
        loaded = load_model(self.checkpoint)
        if loaded.names != self.dataset.names:
            raise UserError(
                f"{self.checkpoint} knows other classes than {self.config.data.path} has: the data changed "
                "since the run was trained on it"
            )
        return loaded.model.to(self.device).eval()

    def images(self, split: str) -> list[Item]:
        """Some of a split's images with objects."""
        items = self.dataset.splits[split]
        return spread([item for item in items if len(item.boxes)] or items, SEEN)

    def batches(self, split: str) -> list[Batch]:
        """The same as batches, as they are for evaluation."""
        loader = Loader(self.images(split), self.config.data.model_copy(update={"cache": False}))
        return [batch.to(self.device) for batch in loader.eval_batches(batch=AT_ONCE, workers=0)]

    @cached_property
    def seen(self) -> dict[str, Seen]:
        """What the trained network finds on images of train and of val."""
        found = {}
        for split in ("train", "val"):

            def forward(images: Tensor) -> Predictions:
                raw: Predictions = self.model(preprocess(images, self.device, False))
                return raw

            truths, predictions = predict_split(forward, self.model, self.batches(split), self.images(split))
            score = coco_map(truths, predictions, len(self.dataset.names))[Key.MAP]
            found[split] = Seen(truths, predictions, score)
        return found

    @cached_property
    def lag(self) -> Lag:
        """See `Lag`."""
        batches = self.batches("train")
        stored = evaluation_loss(self.model, self.config, batches)
        norms = batch_norms(self.model)
        if not norms:
            return Lag(stored, stored, 0)
        fresh = deepcopy(self.model)
        for norm in batch_norms(fresh):
            norm.reset_running_stats()
            norm.momentum = None  # their plain average
        fresh.train()
        with torch.no_grad():
            for batch in batches:
                if len(batch.images) > 1 or len(batches) == 1:
                    fresh(preprocess(batch.images, self.device, False))
        return Lag(stored, evaluation_loss(fresh.eval(), self.config, batches), len(norms))

    @cached_property
    def signal(self) -> Signal | None:
        """What leaves the trunk on training images; None for a network that does not say where that is."""
        return signal_of(self.model, self.batches("train"), self.device)


def of_run(path: Path) -> Case:
    """A run that has ended.

    Raises:
        UserError: there is none, it has not ended, or its data cannot be read any more.
    """
    run = load_run(path)
    config, summary = run.read_config().config, run.read_summary()
    if not summary:
        raise UserError(
            f"{run}: has not ended: it is still running, or was killed; "
            f"go on with: python train.py --resume {run}"
        )
    rows = run.rows()
    case = Case(str(path), config, _data(config), rows, summary, unreadable="there is no checkpoint")
    for file in (run.best, run.last):
        if file.exists():
            try:
                load_model(file)
            except UserError as error:  # such as weights that are not finite
                case.unreadable = str(error)
            else:
                case.checkpoint = file
                break
    return case


def of_data(path: str, config: Config) -> Case:
    """Data alone, with the configuration that would train on it. Raises UserError if it cannot be read."""
    config = config.model_copy(update={"data": config.data.model_copy(update={"path": path})})
    return Case(path, config, _data(config))


def _data(config: Config) -> Dataset:
    dataset = load_configured(config.data, config.train.seed)
    if not any(len(item.boxes) for item in dataset.splits["train"]):
        raise UserError(f"{config.data.path}: no object in any training image: there is nothing to learn")
    return dataset


@torch.no_grad()
def evaluation_loss(model: DetectionModel, config: Config, batches: Sequence[Batch]) -> float:
    """The mean loss of an image in evaluation mode, gains applied."""
    criterion = DetectionLoss(model, config.train).heads[-1]
    total = 0.0
    for batch in batches:
        preds = model(preprocess(batch.images, batch.images.device, False))
        total += float(criterion(preds, batch.targets())[0].sum())
    return total / sum(len(batch.images) for batch in batches)


def assign_all(case: Case, model: DetectionModel) -> Assigned:
    """What the loss assigns to the objects of training images, with this network's predictions."""
    parts = [assign(model.eval(), case.config, batch) for batch in case.batches("train")]
    return Assigned(*(torch.cat(columns) for columns in zip(*parts, strict=True)))


@torch.no_grad()
def assign(model: DetectionModel, config: Config, batch: Batch) -> Assigned:
    """What the loss assigns to each object of a batch."""
    criterion = DetectionLoss(model, config.train).heads[-1]
    outputs: list[tuple[Tensor, ...]] = []
    handle = criterion.assigner.register_forward_hook(lambda module, args, output: outputs.append(output))
    try:
        preds = model(preprocess(batch.images, batch.images.device, False))
        criterion(preds, batch.targets())
    finally:
        handle.remove()
    _, _, scores, positive, which = outputs[-1]  # of A anchors: (B, A, classes), (B, A), (B, A)
    scale = torch.cat([torch.full((f.shape[2] * f.shape[3],), i) for i, f in enumerate(preds["feats"])])
    size = batch.images.shape[-1]
    cells = torch.zeros(len(batch.boxes), len(model.strides))
    weight = torch.zeros(len(batch.boxes))
    for image in range(len(batch.images)):
        objects = (batch.batch_idx == image).nonzero()[:, 0]
        (anchors,) = positive[image].nonzero(as_tuple=True)
        mine = objects[which[image, anchors].long()].cpu()
        cells.index_put_((mine, scale[anchors.cpu()]), torch.ones(len(mine)), accumulate=True)
        weight.index_put_((mine,), scores[image, anchors].sum(-1).float().cpu(), accumulate=True)
    return Assigned((batch.boxes[:, 2:].amin(1) * size).cpu(), cells, weight)


@torch.no_grad()
def signal_of(model: DetectionModel, batches: Sequence[Batch], device: torch.device) -> Signal | None:
    """What leaves the trunk, with each batch's own statistics, as in training; see `Signal`."""
    layers, levels = model.backbone_layers(), model.level_ends()
    if not levels:
        return None
    model = deepcopy(model).train()
    layers = model.backbone_layers()
    maps: dict[str, list[Tensor]] = {level: [] for level in levels}
    starts, seen = [], 0
    for batch in batches:
        if len(batch.images) < 2 and seen:
            continue  # no batch norm of a single image
        with outputs_of({level: layers[name] for level, name in levels.items()}) as kept:
            model(preprocess(batch.images, device, False))
        for level, output in kept.items():
            maps[level].append(output.detach().float().cpu())
        starts.append((batch, seen))
        seen += len(batch.images)
    whole = {level: torch.cat(parts) for level, parts in maps.items()}
    index = torch.cat([batch.batch_idx.cpu() + start for batch, start in starts])
    boxes = torch.cat([batch.boxes.cpu() for batch, _ in starts])
    numbers = {level: summary_of(moments(x)) for level, x in whole.items()}
    return Signal(
        rms={level: float(rms) for level, (_, rms, _) in numbers.items()},
        dependence={level: float(i) for level, (_, _, i) in numbers.items()},
        auc=probe_levels(whole, boxes, index),
    )
