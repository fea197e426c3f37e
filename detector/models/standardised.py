"""Weight standardisation: the filters are normalised instead of what they compute."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn


class StandardisedConv2d(nn.Conv2d):
    """A convolution whose filters have mean 0 and variance gain² / fan_in, whatever the weights are.

        filter = gain · (w - mean(w)) / (std(w) · √fan_in)

    The mean and the deviation are a filter's own (Qiao et al. 2019, arXiv:1903.10520). Divided by √fan_in and
    with a gain that makes up for the activation, this replaces a batch norm (Brock et al. 2021,
    arXiv:2101.08692, eq. 1): see `variance_gain`. Unlike a batch norm it cannot hold back an activation that
    lets large signals grow faster than small ones, such as SiLU, over many layers without a shortcut. The
    gain is learnt, one a filter.

    Args:
        gain: its value at the start.
        arguments, settings: those of `nn.Conv2d`.
    """

    def __init__(self, *arguments: Any, gain: float = 1.0, **settings: Any) -> None:
        super().__init__(*arguments, **settings)
        self.gain = nn.Parameter(torch.full((self.out_channels,), gain))

    def filters(self) -> Tensor:
        """The filters that are applied: (c_out, c_in, k, k)."""
        variance, mean = torch.var_mean(self.weight, (1, 2, 3), correction=0, keepdim=True)
        scale = self.gain.view(-1, 1, 1, 1) / math.sqrt(self.weight[0].numel())  # (c_out, 1, 1, 1)
        return (self.weight - mean) * (scale * torch.rsqrt(variance.clamp_min(1e-12)))

    def forward(self, x: Tensor) -> Tensor:
        """(B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""
        out: Tensor = self._conv_forward(x, self.filters(), self.bias)
        return out


@torch.no_grad()
def variance_gain(act: Callable[[], nn.Module]) -> float:
    """1 / √Var φ(z) for z ~ N(0, 1): pre-activations keep variance 1 from layer to layer (Brock et al. 2021).

    For ReLU √(2 / (1 - 1/π)) = 1.713. An activation whose output does not vary gets 1.
    """
    z = torch.linspace(-10, 10, 20_001, dtype=torch.float64)
    weights = torch.exp(-(z**2) / 2)
    weights /= weights.sum()
    out = act().eval()(z.float().reshape(1, 1, 1, -1)).double().flatten()
    variance = float(weights @ out**2 - (weights @ out) ** 2)
    return 1 / math.sqrt(variance) if math.isfinite(variance) and variance > 1e-12 else 1.0
