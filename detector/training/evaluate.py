"""Predicting a whole split: the one loop that training's evaluation and `detector val` share."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from detector.data.geometry import xywh_to_xyxy
from detector.data.loader import Batch
from detector.data.yolo import Item
from detector.nn.decode import decode, select
from detector.nn.model import DetectionModel, Predictions
from detector.training.metrics import Prediction, Truth


@torch.no_grad()
def predict_split(
    forward: Callable[[Tensor], Predictions],
    model: DetectionModel,
    batches: Iterable[Batch],
    items: Sequence[Item],
    *,
    columns: Sequence[int] | None = None,
    lap: Callable[[str], None] = lambda phase: None,
) -> tuple[list[Truth], list[Prediction]]:
    """The labels of a split and what is found on it, in the batches' order, in pixels of each original image.

    Args:
        forward: (B, 3, S, S) uint8 images -> the raw outputs of a network in evaluation mode.
        model: what the outputs mean: only its strides are read.
        batches: the split's batches, in order.
        items: the split, with labels as fractions of each image.
        columns: the model's class that stands for each of the data's; None where they are the same.
        lap: told the name of each phase that has just ended: "load", "forward" or "postprocess".
    """
    truths, predictions = [], []
    for batch in batches:
        lap("load")
        preds = forward(batch.images)
        lap("forward")
        boxes, scores = decode(preds, model.strides)  # (B, A, 4), (B, A, classes)
        if columns is not None:
            scores = scores[..., list(columns)]
        for row, (index, letterbox) in enumerate(zip(batch.indices, batch.letterboxes, strict=True)):
            found = select(boxes[row], scores[row])
            corners = letterbox.to_original(found.boxes.cpu().numpy())
            predictions.append(Prediction(corners, found.scores.cpu().numpy(), found.classes.cpu().numpy()))
            truths.append(truth_of(items[index], letterbox.width, letterbox.height))
        lap("postprocess")
    return truths, predictions


def truth_of(item: Item, width: int, height: int) -> Truth:
    """An item's labels in pixels of its original image, `width` x `height`."""
    corners = xywh_to_xyxy(item.boxes) * np.array([width, height] * 2, np.float32)
    return Truth(corners, item.classes, (width, height))
