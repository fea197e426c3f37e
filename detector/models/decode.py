"""From raw predictions to boxes."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from detector.models.base import Predictions
from detector.models.nms import batched_nms


class Detections(NamedTuple):
    """One image's boxes, best score first."""

    boxes: Tensor  # (N, 4) corners x1, y1, x2, y2 in pixels of the letterboxed image
    scores: Tensor  # (N,)
    classes: Tensor  # (N,) int64


def anchor_points(shapes: list[tuple[int, int]], strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Cell centres of every scale in pixels, (A, 2) as x, y, and each one's stride, (A, 1)."""
    points, sizes = [], []
    for (height, width), stride in zip(shapes, strides, strict=True):
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        points.append((torch.stack((x, y), -1).reshape(-1, 2) + 0.5) * stride)  # (H·W, 2)
        sizes.append(torch.full((height * width, 1), float(stride)))
    return torch.cat(points), torch.cat(sizes)


def decode(preds: Predictions, strides: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Turn raw predictions into boxes (B, A, 4), corners in pixels, and probabilities (B, A, classes).

    Each side's distance is the mean of its distribution over 0 … reg_max-1 strides
    (Li et al. 2020, "Generalized Focal Loss", arXiv:2006.04388); with a single bin it is the output itself.
    """
    logits = preds["boxes"].float()
    batch, channels, count = logits.shape
    points, sizes = anchor_points([(f.shape[2], f.shape[3]) for f in preds["feats"]], strides)
    # type_as, not .to(device): a traced module would for ever keep the device that it was traced on.
    points, sizes = points.type_as(logits), sizes.type_as(logits)
    if channels == 4:
        distance = logits.transpose(1, 2) * sizes  # (B, A, 4): left, top, right, bottom
    else:
        bins = torch.arange(channels // 4).type_as(logits)
        mass = logits.view(batch, 4, channels // 4, count).softmax(2)
        distance = torch.einsum("bsra,r->bas", mass, bins) * sizes
    boxes = torch.cat((points - distance[..., :2], points + distance[..., 2:]), -1)
    return boxes, preds["scores"].float().sigmoid().transpose(1, 2)


def best_class(scores: Tensor) -> Tensor:
    """(..., classes) -> the same with only each box's highest score left; the others are zero."""
    score, label = scores.max(-1, keepdim=True)
    return torch.zeros_like(scores).scatter(-1, label, score)


def postprocess(
    boxes: Tensor,
    scores: Tensor,
    *,
    confidence: float = 0.001,
    iou: float = 0.7,
    limit: int = 300,
    candidates: int = 30_000,
) -> Detections:
    """Non-maximum suppression within each class for one image; a box may count for several classes.

    Args:
        boxes: (A, 4) corners in pixels.
        scores: (A, classes) probabilities.
        confidence: the lowest score that counts.
        iou: of two boxes of a class that overlap more than this, the better one stays.
        limit: how many detections are kept.
        candidates: how many of the best scores enter the suppression.
    """
    anchor, label = (scores > confidence).nonzero(as_tuple=True)
    score = scores[anchor, label]
    if len(score) > candidates:
        score, order = score.topk(candidates)
        anchor, label = anchor[order], label[order]
    keep = batched_nms(boxes[anchor], score, label, iou)[:limit]
    return Detections(boxes[anchor[keep]], score[keep], label[keep])
