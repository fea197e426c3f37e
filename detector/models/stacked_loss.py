"""The detection loss of several networks at once: of each its own, by one pass over the images of all."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from detector.models.loss import DetectionLoss
from detector.runtime.ultralytics_import import import_ultralytics


class StackedLoss:
    """`DetectionLoss` of S networks whose predictions are stacked: it has most of a step's launches.

    What an anchor is assigned and what it costs depends on its image alone, so the images of all networks
    pass through ultralytics' own parts as one batch. Only the sums over anchors, and the sum of target scores
    that they are divided by, are each network's.

    Args:
        loss: of one of the networks, with one head and a distribution: see `fits`.
    """

    def __init__(self, loss: DetectionLoss) -> None:
        self._parts = parts = loss.heads[0]
        # Made here: at a step, that a number is copied to a GPU would have to be waited for.
        self._gains = parts.stride.new_tensor([parts.hyp.box, parts.hyp.cls, parts.hyp.dfl])
        tal, metrics = import_ultralytics("utils.tal"), import_ultralytics("utils.metrics")
        self._anchors, self._distances, self._iou = tal.make_anchors, tal.bbox2dist, metrics.bbox_iou

    @staticmethod
    def fits(loss: DetectionLoss) -> bool:
        """Whether it is one whose sums are known here."""
        return not loss.end2end and loss.heads[0].reg_max > 1

    def __call__(self, preds: Mapping[str, Any], targets: Sequence[Mapping[str, Tensor]]) -> Tensor:
        """The mean loss of each network's batch, gains applied.

        Args:
            preds: as `Predictions`, each tensor with a first dimension of S.
            targets: of each network: see `DetectionLoss`.

        Returns:
            (S, 3): box, class, DFL.
        """
        parts, reg_max = self._parts, self._parts.reg_max
        networks, images = preds["boxes"].shape[:2]
        distances, scores = (
            preds[name].flatten(0, 1).float().permute(0, 2, 1).contiguous() for name in ("boxes", "scores")
        )  # (S·B, A, 4·R), (S·B, A, C)
        feats = [f.detach()[0, :, :0].float() for f in preds["feats"]]  # only their size and type are read
        anchors, strides = self._anchors(feats, parts.stride, 0.5)
        height, width = (side * parts.stride[0] for side in feats[0].shape[2:])
        columns = [
            torch.cat(((one["batch_idx"] + at * images)[:, None], one["cls"][:, None], one["bboxes"]), 1)
            for at, one in enumerate(targets)
        ]
        size = torch.stack((width, height, width, height)).float()
        labels = parts.preprocess(torch.cat(columns).to(size.device), networks * images, scale_tensor=size)
        classes, corners = labels.split((1, 4), 2)
        found = parts.bbox_decode(anchors, distances)
        _, boxes, wanted, chosen, _ = parts.assigner(
            scores.detach().sigmoid(),
            (found.detach() * strides).type(corners.dtype),
            anchors * strides,
            classes,
            corners,
            corners.sum(2, keepdim=True) > 0,
        )
        image, anchor = chosen.nonzero(as_tuple=True)
        weight, boxes = wanted[image, anchor].sum(-1), boxes / strides
        overlap = self._iou(found[image, anchor], boxes[image, anchor], xywh=False, CIoU=True).squeeze(-1)
        sides = self._distances(anchors, boxes, reg_max - 1)[image, anchor]
        dfl = parts.bbox_loss.dfl_loss(distances[image, anchor].view(-1, reg_max), sides).squeeze(-1)
        per_anchor = torch.stack(((1 - overlap) * weight, dfl * weight))
        box, dfl = per_anchor.new_zeros(2, networks).index_add(1, image // images, per_anchor)
        cls = parts.bce(scores, wanted.to(scores.dtype)).view(networks, -1).sum(1)
        sums = torch.stack((box, cls, dfl), 1)
        losses: Tensor = sums / wanted.view(networks, -1).sum(1).clamp(min=1)[:, None] * self._gains
        return losses
