"""Predicting a whole split: the one loop that training's evaluation and `detector val` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from detector.data.batch import Batch
from detector.data.dataset import Item
from detector.data.geometry import xywh_to_xyxy
from detector.models.base import DetectionModel, Predictions
from detector.models.decode import decode, postprocess
from detector.runtime.distributed import SingleProcess
from detector.training.metrics import Prediction, Result, Truth, evaluate_metrics
from detector.training.state import TrainState

UNKNOWN = -1  # in place of a class's column: a network that does not know it never finds it


class Evaluation(NamedTuple):
    """One split's result."""

    metrics: dict[str, float]  # `mAP50-95`, `mAP50` and those that were asked for
    predictions: list[Prediction]  # one an image, in the split's order, in pixels of the original image


def evaluate(
    state: TrainState,
    batches: Iterable[Batch],
    items: Sequence[Item],
    dist: SingleProcess,
    metrics: Sequence[str] = (),
) -> Evaluation:
    """Predict a split and score it against its labels by the official COCO evaluation.

    Args:
        state: its averaged weights are used where it has them.
        batches: this process's shard of the split, in order.
        items: the split, with labels as fractions of each image.
        dist: the processes that evaluate together.
        metrics: registered ones to compute as well.

    Returns:
        The whole split's result on the main process; nothing elsewhere.
    """
    network = state.eval_model.eval()

    def forward(images: Tensor) -> Predictions:
        with state.autocast():
            raw: Predictions = network(state.preprocess(images))
        return raw

    with dist.raise_together():
        shard = predict_split(forward, state.model, batches, items)
    shards = dist.gather_object(shard)
    if not shards:
        return Evaluation({}, [])
    truths, predictions = (list(chain.from_iterable(parts)) for parts in zip(*shards, strict=True))
    result = Result(truths, predictions, state.model.num_classes)
    return Evaluation(evaluate_metrics(result, metrics), predictions)


@torch.no_grad()
def predict_split(
    forward: Callable[[Tensor], Predictions],
    model: DetectionModel,
    batches: Iterable[Batch],
    items: Sequence[Item],
    *,
    columns: Sequence[int] | None = None,
    trim: bool = False,
    lap: Callable[[str], None] = lambda phase: None,
) -> tuple[list[Truth], list[Prediction]]:
    """The labels of a split and what is found on it, in the batches' order, in pixels of each original image.

    Args:
        forward: (B, 3, S, S) uint8 images -> the raw outputs of a network in evaluation mode.
        model: what the outputs mean: only its strides are read.
        batches: the split's batches, in order.
        items: the split, with labels as fractions of each image.
        columns: the model's class that stands for each of the data's, or `UNKNOWN`; None: they are the same.
        trim: leave out the rows and columns of cells that are only padding. That is less to compute; what is
            found can differ a little where a network looks beyond an image's edge.
        lap: told the name of each phase that has just ended: "load", "forward" or "postprocess".
    """
    truths: list[Truth] = []
    predictions: list[Prediction] = []
    for batch in batches:
        lap("load")
        found: dict[int, Prediction] = {}
        for (left, top, right, bottom), rows in windows(batch, max(model.strides) if trim else None).items():
            whole = len(rows) == len(batch.indices)
            images = batch.images if whole else batch.images[rows]
            preds = forward(images[..., top:bottom, left:right])
            lap("forward")
            boxes, scores = decode(preds, model.strides)  # (B, A, 4), (B, A, classes)
            if columns is not None:
                scores = pad(scores, (0, 1))[..., list(columns)]  # the last is UNKNOWN's
            offset = np.array([left, top, left, top], np.float32)
            for position, row in enumerate(rows):
                best = postprocess(boxes[position], scores[position])
                corners = batch.letterboxes[row].to_original(best.boxes.cpu().numpy() + offset)
                found[row] = Prediction(corners, best.scores.cpu().numpy(), best.classes.cpu().numpy())
            lap("postprocess")
        predictions += [found[row] for row in range(len(found))]
        truths += [
            truth_of(items[index], letterbox.width, letterbox.height)
            for index, letterbox in zip(batch.indices, batch.letterboxes, strict=True)
        ]
    return truths, predictions


Window = tuple[int, int, int, int]  # left, top, right, bottom in pixels of the square


def windows(batch: Batch, cell: int | None) -> dict[Window, list[int]]:
    """Which part of the square each image needs, and the rows of the batch that need it.

    Args:
        batch: B images in squares.
        cell: windows begin and end at multiples of it, so that every cell of the coarsest scale, and so of
            all, lies where it does in the whole square; None: the whole square.
    """
    side = batch.images.shape[-1]
    if cell is None:
        return {(0, 0, side, side): list(range(len(batch.indices)))}
    rows: dict[Window, list[int]] = {}
    for row, box in enumerate(batch.letterboxes):
        right, bottom = box.left + box.inner_width, box.top + box.inner_height
        window = (
            box.left // cell * cell,
            box.top // cell * cell,
            -(-right // cell) * cell,
            -(-bottom // cell) * cell,
        )
        rows.setdefault(window, []).append(row)
    return rows


def truth_of(item: Item, width: int, height: int) -> Truth:
    """An item's labels in pixels of its original image, `width` x `height`."""
    corners = xywh_to_xyxy(item.boxes) * np.array([width, height] * 2, np.float32)
    return Truth(corners, item.classes, (width, height))
