"""Clipping, and clipping as a cause: what it multiplies by, and how much of the clipped norm is the trunk's.

One norm over all weights couples parts that have nothing to do with each other: where the trunk's gradient
explodes, the neck and the head are scaled down with it. `train.clip_by=part` clips the two apart.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from detector.config.schema import TrainConfig
from detector.models.base import DetectionModel
from detector.rows import Key

Parts = tuple[list[nn.Parameter], list[nn.Parameter]]


def clip_gradients(
    parameters: Sequence[nn.Parameter], limit: float | None, parts: Sequence[Sequence[nn.Parameter]] = ()
) -> Tensor:
    """Scale all gradients down so that their joint norm is at most `limit`; return the norm before.

    Given `parts` of the parameters, each is scaled by its own norm instead of the joint one.
    """
    total = gradient_norm(parameters)
    for part in parts or [parameters]:
        norm = gradient_norm(part) if parts else total
        # On a GPU, to look at the norm would mean to wait for it: there, all are multiplied, if need be by 1.
        if limit is not None and (norm.is_cuda or not norm <= limit):
            torch.nn.utils.clip_grads_with_norm_(part, limit, norm)
    return total


def gradient_norm(parameters: Sequence[nn.Parameter]) -> Tensor:
    """The joint norm of their gradients."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def trunk_and_rest(model: DetectionModel) -> Parts:
    """The trainable parameters of the backbone, and all others."""
    inside = {id(p) for module in model.backbone_modules() for p in module.parameters()}
    trainable = [p for p in model.parameters() if p.requires_grad]
    return [p for p in trainable if id(p) in inside], [p for p in trainable if id(p) not in inside]


class ClippingMeter:
    """Measures the norms of trunk and rest before clipping; the factors follow from them and the limit."""

    def __init__(self, model: DetectionModel, config: TrainConfig) -> None:
        self.trunk, self.rest = trunk_and_rest(model)
        self.limit, self.by_part = config.clip, config.clip_by == "part"
        self._norms: list[Tensor | None] = []

    def measure(self) -> None:
        """Before clipping: take the norms."""
        self._norms = [_norm(self.trunk), _norm(self.rest) if self.by_part else None]

    def clear(self) -> None:
        """Forget them."""
        self._norms = []

    def report(self, norm: Tensor) -> dict[str, Tensor]:
        """The row's keys, as scalars on the device; none if nothing was measured in this step.

        Args:
            norm: of all gradients together, before clipping.
        """
        if not self._norms:
            return {}
        trunk, rest = (norm.new_zeros(()) if part is None else part for part in self._norms)
        self.clear()
        share = (trunk / norm.clamp_min(torch.finfo(norm.dtype).tiny)).square()
        if self.by_part:
            parts = {Key.TRUNK: trunk, Key.REST: rest}
            factors = {Key.CLIP_FACTOR + part: self._factor(own) for part, own in parts.items()}
        else:
            factors = {Key.CLIP_FACTOR: self._factor(norm)}
        return {**factors, Key.TRUNK_SHARE: share}

    def _factor(self, norm: Tensor) -> Tensor:
        if self.limit is None:
            return torch.ones_like(norm)
        return (self.limit / (norm + 1e-6)).clamp(max=1.0)  # as torch clips


def _norm(parameters: Sequence[nn.Parameter]) -> Tensor | None:
    gradients = [p.grad for p in parameters if p.grad is not None]
    return nn.utils.get_total_norm(gradients) if gradients else None
