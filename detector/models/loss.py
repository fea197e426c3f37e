"""The detection loss: ultralytics' own, driven by any `DetectionModel`, on one process or on several."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from detector.config.schema import TrainConfig
from detector.models.base import DetectionModel, Predictions
from detector.runtime.ranks import ALONE, Ranks
from detector.runtime.ultralytics_import import import_ultralytics


class Loss(NamedTuple):
    """The value that is differentiated, and its parts."""

    total: Tensor  # scalar: the batch size times the sum of the parts, as ultralytics trains on
    parts: (
        Tensor  # (3,) box, cls and dfl (of two heads the last's), gains applied, detached: the batch's mean
    )


class DetectionLoss:
    """Task-aligned assignment, CIoU, binary cross-entropy and distribution focal loss.

    A model with two heads is trained on both, the emphasis moving from the one with many assignments to the
    one without duplicates. A model without a distribution (`reg_max` 1) has an L1 loss in place of the DFL.

    Args:
        model: only its device, strides, classes, `reg_max` and `dual` are read.
        config: the gains.
        epochs: of the whole run; only two heads need it.
        ranks: whose images make up the batch.
    """

    def __init__(
        self, model: DetectionModel, config: TrainConfig, epochs: float = 1, ranks: Ranks = ALONE
    ) -> None:
        device = next(model.parameters()).device
        detect = SimpleNamespace(
            stride=torch.tensor(model.strides, dtype=torch.float32, device=device),
            nc=model.num_classes,
            reg_max=model.reg_max,
        )
        gains = SimpleNamespace(box=config.box_gain, cls=config.cls_gain, dfl=config.dfl_gain, epochs=epochs)
        losses = import_ultralytics("utils.loss")
        loss = losses.E2ELoss if model.dual else losses.v8DetectionLoss
        self.dual = model.dual
        self._loss = loss(SimpleNamespace(parameters=model.parameters, args=gains, model=[detect]))
        heads = [self._loss.one2many, self._loss.one2one] if model.dual else [self._loss]
        self._names = heads[-1].loss_names
        if ranks.world > 1:
            for head in heads:
                head.loss = _ShareOfLoss(head, ranks)

    def begin_epoch(self, epoch: int) -> None:
        """Weigh two heads: a function of the epoch (from 0) alone, so that a resumed run does the same."""
        if self.dual:
            self._loss.updates = epoch - 1
            if epoch > 0:
                self._loss.update()

    def __call__(self, preds: Any, targets: dict[str, Tensor]) -> Loss:
        """Compute the loss in fp32, whatever the precision of the forward pass.

        Args:
            preds: the model's raw outputs in training: `Predictions`, or `DualPredictions`.
            targets: `batch_idx` (N,), `cls` (N,) and `bboxes` (N, 4), normalised centre x, y, width, height.

        Returns:
            On several processes, this one's share: the sum over them is the loss of the joined batch.
        """
        full = {name: _float(head) for name, head in preds._asdict().items()} if self.dual else _float(preds)
        losses, parts = self._loss(full, targets)
        return Loss(losses.sum(), torch.stack([parts[name] for name in self._names]))


class _ShareOfLoss:
    """In place of a criterion's method `loss`: one process's share of the joined batch's loss.

    The criterion divides sums over anchors by S, the sum of the target scores that its assigner gives (at
    least 1), and multiplies by B, the number of images. Alone, a process would use its own S and B. All
    three parts have the same two factors, so exchanging them makes the shares' sum the joined loss.
    """

    def __init__(self, criterion: Any, ranks: Ranks) -> None:
        self._loss, self._names, self._ranks = criterion.loss, criterion.loss_names, ranks
        self._scores: Tensor | None = None
        criterion.assigner.register_forward_hook(self._note)

    def _note(self, assigner: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        self._scores = output[2].sum()  # (B, A, classes): the target scores

    def __call__(self, preds: Predictions, targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
        images = preds["boxes"].shape[0]
        if images:
            losses, parts = self._loss(preds, targets)
            assert self._scores is not None
            scores = self._scores
        else:  # still a function of every weight, so that this process has gradients too: zeros
            nothing = preds["boxes"].sum() + preds["scores"].sum()
            losses, scores = nothing.expand(3), nothing.detach()
            parts = dict.fromkeys(self._names, nothing.detach())
        own = torch.stack([scores.double(), torch.full_like(scores, images, dtype=torch.float64)])
        all_scores, all_images = self._ranks.sum(own)
        share = scores.clamp(min=1) / all_scores.clamp(min=1)
        losses = losses * (share * all_images / max(images, 1))
        return losses, {name: part * share for name, part in parts.items()}


def _float(preds: Predictions) -> Predictions:
    return {
        "boxes": preds["boxes"].float(),
        "scores": preds["scores"].float(),
        "feats": [f.detach()[:, :0].float() for f in preds["feats"]],  # only their size and type are read
    }
