"""Non-maximum suppression by torchvision's compiled operator, without importing torchvision.

Its Python package brings in torch.compile's compiler and a zoo of models: a second, and over 100 MB, of which
a detector uses the one function.
"""

from __future__ import annotations

from functools import cache
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

MOST_AT_ONCE = 1000  # boxes on a CPU, above which one class at a time is faster; torchvision's choice


def batched_nms(boxes: Tensor, scores: Tensor, labels: Tensor, iou: float) -> Tensor:
    """The same as `torchvision.ops.batched_nms`: suppression within each class.

    Args:
        boxes: (N, 4) corners.
        scores: (N,).
        labels: (N,) classes.
        iou: of two boxes of a class that overlap more than this, the better one stays.

    Returns:
        (K,) indices of what stays, best score first.
    """
    load()
    if len(boxes) > (MOST_AT_ONCE if boxes.device.type == "cpu" else 5 * MOST_AT_ONCE):
        stays = torch.zeros_like(scores, dtype=torch.bool)
        for label in labels.unique():
            (own,) = torch.where(labels == label)
            stays[own[nms(boxes[own], scores[own], iou)]] = True
        (kept,) = torch.where(stays)
        return kept[scores[kept].sort(descending=True)[1]]
    if not len(boxes):
        return labels.new_empty(0, dtype=torch.int64)
    # Each class is moved to a place of its own, so that boxes of different classes never overlap.
    return nms(boxes + (labels.to(boxes) * (boxes.max() + 1))[:, None], scores, iou)


def nms(boxes: Tensor, scores: Tensor, iou: float) -> Tensor:
    """(K,) indices of the boxes that stay, best score first."""
    kept: Tensor = torch.ops.torchvision.nms(boxes, scores, iou)
    return kept


@cache
def load() -> None:
    """Register the operator: from its library alone or, where that is not found, by the whole package."""
    if hasattr(torch.ops.torchvision, "nms"):
        return
    spec = find_spec("torchvision")
    folders = [Path(folder) for folder in (spec.submodule_search_locations or ())] if spec else []
    libraries = [path for folder in folders for kind in ("_C*.so", "_C*.pyd") for path in folder.glob(kind)]
    try:
        torch.ops.load_library(libraries[0])
    except (IndexError, OSError):
        import torchvision.ops  # noqa: F401
