"""The detection loss: ultralytics' own, driven by any `DetectionModel`."""

from __future__ import annotations

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from detector.config.schema import TrainConfig
from detector.models.base import DetectionModel, Predictions
from detector.rows import Key
from detector.runtime.ultralytics_import import import_ultralytics


class Loss(NamedTuple):
    """The value that is differentiated, and its parts."""

    total: Tensor  # scalar: the batch size times the sum of the parts, as ultralytics trains on
    # (3,) box, cls and dfl (of two heads the last's), gains applied, detached: the batch's mean
    parts: Tensor


def named(parts: Tensor) -> Mapping[str, Tensor]:
    """A loss and its three parts, (3,), under their names in the history."""
    box, cls, dfl = parts
    return {Key.LOSS: parts.sum(), Key.LOSS_BOX: box, Key.LOSS_CLS: cls, Key.LOSS_DFL: dfl}


class LossFunction(Protocol):
    """Scores raw predictions against targets."""

    def begin_epoch(self, epoch: int) -> None:
        """Training is in this epoch (from 0)."""

    def __call__(self, preds: Any, targets: dict[str, Tensor]) -> Loss:
        """Compute the loss."""


class DetectionLoss:
    """Task-aligned assignment, CIoU, binary cross-entropy and distribution focal loss.

    A model with two heads is trained on both, the emphasis moving from the one with many assignments to the
    one without duplicates. A model without a distribution (`reg_max` 1) has an L1 loss in place of the DFL.

    Args:
        model: only its device, strides, classes, `reg_max` and `end2end` are read.
        config: the gains.
        epochs: of the whole run; only two heads need it.
    """

    def __init__(self, model: DetectionModel, config: TrainConfig, epochs: float = 1) -> None:
        device = next(model.parameters()).device
        detect = SimpleNamespace(
            stride=torch.tensor(model.strides, dtype=torch.float32, device=device),
            nc=model.num_classes,
            reg_max=model.reg_max,
        )
        gains = SimpleNamespace(box=config.box_gain, cls=config.cls_gain, dfl=config.dfl_gain, epochs=epochs)
        losses = import_ultralytics("utils.loss")
        loss = losses.E2ELoss if model.end2end else losses.v8DetectionLoss
        self.end2end = model.end2end
        self._loss = loss(SimpleNamespace(parameters=model.parameters, args=gains, model=[detect]))
        # The criteria of one head or two, each a function of its own predictions.
        self.heads = [self._loss.one2many, self._loss.one2one] if model.end2end else [self._loss]
        self._names = self.heads[-1].loss_names

    def begin_epoch(self, epoch: int) -> None:
        """Weigh two heads: a function of the epoch (from 0) alone, so that a resumed run does the same."""
        if self.end2end:
            self._loss.updates = epoch - 1
            if epoch > 0:
                self._loss.update()

    def __call__(self, preds: Any, targets: dict[str, Tensor]) -> Loss:
        """Compute the loss in fp32, whatever the precision of the forward pass.

        Args:
            preds: the model's raw outputs in training: `Predictions`, or `EndToEndPredictions`.
            targets: `batch_idx` (N,), `cls` (N,) and `bboxes` (N, 4), normalised centre x, y, width, height.
        """
        full = (
            {name: _float(head) for name, head in preds._asdict().items()} if self.end2end else _float(preds)
        )
        losses, parts = self._loss(full, targets)
        return Loss(losses.sum(), torch.stack([parts[name] for name in self._names]))


def _float(preds: Predictions) -> Predictions:
    return {
        "boxes": preds["boxes"].float(),
        "scores": preds["scores"].float(),
        "feats": [f.detach()[:, :0].float() for f in preds["feats"]],  # only their size and type are read
    }
