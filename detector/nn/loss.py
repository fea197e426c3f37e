"""The detection loss: ultralytics' own `v8DetectionLoss`, driven by our detector."""

from __future__ import annotations

from types import SimpleNamespace
from typing import NamedTuple

import torch
from torch import Tensor

from detector.config import TrainConfig
from detector.nn.detector import Detector, Predictions
from detector.ultralytics_import import import_ultralytics


class Loss(NamedTuple):
    """The value that is differentiated, and its parts."""

    total: Tensor  # scalar: the batch size times the sum of the parts, as ultralytics trains on
    parts: Tensor  # (3,) box, cls and dfl, gains applied, detached: the mean over the batch


class DetectionLoss:
    """Task-aligned assignment, CIoU, binary cross-entropy and distribution focal loss.

    Only the model's strides, classes and `reg_max` are read: any detector with them can be given.
    """

    def __init__(self, model: Detector, config: TrainConfig) -> None:
        device = next(model.parameters()).device
        detect = SimpleNamespace(
            stride=torch.tensor(model.strides, dtype=torch.float32, device=device),
            nc=model.num_classes,
            reg_max=model.reg_max,
        )
        gains = SimpleNamespace(box=config.box_gain, cls=config.cls_gain, dfl=config.dfl_gain)
        loss = import_ultralytics("utils.loss").v8DetectionLoss
        self._loss = loss(SimpleNamespace(parameters=model.parameters, args=gains, model=[detect]))

    def __call__(self, preds: Predictions, targets: dict[str, Tensor]) -> Loss:
        """Compute the loss in fp32, whatever the precision of the forward pass.

        Args:
            preds: the detector's raw outputs.
            targets: `batch_idx` (N,), `cls` (N,) and `bboxes` (N, 4), normalised centre x, y, width, height.
        """
        full = {
            "boxes": preds["boxes"].float(),
            "scores": preds["scores"].float(),
            "feats": [f.float() for f in preds["feats"]],
        }
        losses, parts = self._loss(full, targets)
        return Loss(losses.sum(), torch.stack([parts[f"{name}_loss"] for name in ("box", "cls", "dfl")]))
