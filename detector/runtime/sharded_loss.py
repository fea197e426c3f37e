"""The loss of a joined batch, when each process sees only its shard of it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor


def shard_loss(criterion: Any, all_reduce: Callable[[Tensor], Tensor]) -> None:
    """Make a criterion of ultralytics, such as `v8DetectionLoss`, return this process's share of the loss.

    The sum of the shares over the processes is the loss of the joined batch, and the sum of their gradients
    is its gradient.

    Args:
        criterion: changed in place.
        all_reduce: the sum of every process's tensor.
    """
    criterion.loss = _ShardedLoss(criterion, all_reduce)


class _ShardedLoss:
    """In place of a criterion's method `loss`: one process's share of the joined batch's loss.

    The criterion divides sums over anchors by S, the sum of the target scores that its assigner gives (at
    least 1), and multiplies by B, the number of images. Alone, a process would use its own S and B. All
    three parts have the same two factors, so exchanging them makes the shares' sum the joined loss.
    """

    def __init__(self, criterion: Any, all_reduce: Callable[[Tensor], Tensor]) -> None:
        self._loss, self._names, self._all_reduce = criterion.loss, criterion.loss_names, all_reduce
        self._scores: Tensor | None = None
        criterion.assigner.register_forward_hook(self._note)

    def _note(self, assigner: Any, inputs: Any, output: tuple[Tensor, ...]) -> None:
        self._scores = output[2].sum()  # (B, A, classes): the target scores

    def __call__(self, preds: dict[str, Any], targets: dict[str, Tensor]) -> tuple[Tensor, dict[str, Tensor]]:
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
        all_scores, all_images = self._all_reduce(own)
        share = scores.clamp(min=1) / all_scores.clamp(min=1)
        losses = losses * (share * all_images / max(images, 1))
        return losses, {name: part * share for name, part in parts.items()}
