"""Batch norm over the images of all processes, so that the share of each does not matter."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

BatchNorm = torch.nn.modules.batchnorm._BatchNorm
Reduce = Callable[[Tensor], Tensor]


def batch_norms(model: nn.Module) -> list[BatchNorm]:
    """The layers that keep running statistics of what passes through them."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def synchronize_norms(model: nn.Module, all_reduce: Reduce, all_gather: Reduce, device: torch.device) -> None:
    """Make every batch norm of a model one over all processes; weights and statistics stay.

    On a GPU that is torch's `SyncBatchNorm`. It does not exist for the CPU, where `CpuSyncBatchNorm` does.

    Args:
        model: changed in place.
        all_reduce: the sum of every process's tensor.
        all_gather: every process's tensor, (processes, …).
        device: that the model is on.
    """
    if device.type == "cuda":
        nn.SyncBatchNorm.convert_sync_batchnorm(model)
        return
    for parent in list(model.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                setattr(parent, name, CpuSyncBatchNorm(child, all_reduce, all_gather))


class CpuSyncBatchNorm(nn.BatchNorm2d):
    """`nn.BatchNorm2d` of the joined batch."""

    def __init__(self, norm: nn.BatchNorm2d, all_reduce: Reduce, all_gather: Reduce) -> None:
        """Take over a norm's weights and statistics, the very same tensors."""
        super().__init__(norm.num_features, norm.eps, norm.momentum, norm.affine, norm.track_running_stats)
        self.collectives = all_reduce, all_gather
        self._parameters.update(norm._parameters)
        self._buffers.update(norm._buffers)
        self.train(norm.training)

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same; B may be 0 on some of the processes."""
        if not self.training:
            return super().forward(x)
        y, mean, var, count = _Normalize.apply(x, self.weight, self.bias, self.eps, *self.collectives)
        if self.running_mean is not None and self.running_var is not None:
            assert self.num_batches_tracked is not None
            with torch.no_grad():
                self.num_batches_tracked += 1
                seen = int(self.num_batches_tracked)
                factor = 1 / seen if self.momentum is None else self.momentum
                self.running_mean.lerp_(mean.to(self.running_mean), factor)
                self.running_var.lerp_((var * count / (count - 1)).to(self.running_var), factor)
        return y  # type: ignore[no-any-return]


class _Normalize(torch.autograd.Function):
    """Ioffe & Szegedy 2015, with the two sums of the backward pass taken over all processes."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, eps: float, all_reduce: Reduce, all_gather: Reduce
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        own = torch.zeros(3, x.shape[1], dtype=torch.float64)  # count, mean, variance; (3, c)
        if x.numel():
            own[0] = x.numel() / x.shape[1]
            own[2], own[1] = torch.var_mean(x.float(), (0, 2, 3), correction=0)
        counts, means, variances = all_gather(own).unbind(1)  # (processes, c) each
        count = counts.sum(0)
        mean = (counts * means).sum(0) / count
        var = (counts * (variances + (means - mean).square())).sum(0) / count
        scale = (var + eps).rsqrt()
        hat = (x.float() - _wide(mean.float())) * _wide(scale.float())
        ctx.save_for_backward(hat, weight, scale, count)
        ctx.all_reduce = all_reduce
        ctx.mark_non_differentiable(mean, var, count)
        return (hat * _wide(weight) + _wide(bias)).to(x.dtype), mean, var, count

    @staticmethod
    def backward(ctx: Any, grad: Tensor, *unused: Tensor) -> Any:
        hat, weight, scale, count = ctx.saved_tensors
        g = grad.float()
        sums = torch.stack([g.sum((0, 2, 3)), (g * hat).sum((0, 2, 3))])  # (2, c) of this process
        means = (ctx.all_reduce(sums.double()) / count).float()  # of all
        dx = (g - _wide(means[0]) - hat * _wide(means[1])) * _wide(weight * scale.float())
        # The weights' own gradients stay this process's: they are added up with all others.
        return dx.to(grad.dtype), sums[1], sums[0], None, None, None


def _wide(channels: Tensor) -> Tensor:
    return channels[:, None, None]  # (c,) beside (B, c, H, W)
