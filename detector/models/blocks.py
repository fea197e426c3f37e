"""The building blocks, and the factories that are swapped to ablate a component.

A component is removed by injecting its identity (`nn.Identity` for the norm, `Plain` for the
shortcut), never by a flag inside `forward`: every variant runs the same lines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import NamedTuple

import torch
from torch import Tensor, nn


class Components(NamedTuple):
    """What an ablation may swap: one factory each."""

    act: Callable[[], nn.Module]  # () -> activation
    norm: Callable[[int], nn.Module]  # (channels) -> normalisation
    shortcut: Callable[[int], nn.Module]  # (channels) -> module of (x, f(x))


class Unit(nn.Module):
    """Convolution → norm → activation: (B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, parts: Components, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        norm = parts.norm(c_out)
        # A norm has its own shift, so a bias before it would do nothing.
        bias = isinstance(norm, nn.Identity)
        self.conv = nn.Conv2d(c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = norm
        self.act = parts.act()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three in order."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out


class Block(nn.Module):
    """Two units and a shortcut around them: (B, c, H, W) -> (B, c, H, W)."""

    def __init__(self, channels: int, parts: Components) -> None:
        super().__init__()
        self.a = Unit(channels, channels, parts)
        self.b = Unit(channels, channels, parts)
        self.shortcut = parts.shortcut(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`x + b(a(x))` with the residual shortcut."""
        out: Tensor = self.shortcut(x, self.b(self.a(x)))
        return out


class Residual(nn.Module):
    """The identity shortcut of He et al. 2016, arXiv:1603.05027: y = x + f."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """All tensors (B, c, H, W)."""
        return x + f


class Plain(nn.Module):
    """No shortcut: y = f, so that the trunk is a plain chain of convolutions."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """All tensors (B, c, H, W)."""
        return f


class Gated(nn.Module):
    """A highway gate, the feed-forward form of LSTM gating: y = t·f + (1 - t)·x.

    t = sigmoid(w * x + b), a 1×1 convolution. The bias starts at -1, so that the gate mostly carries
    (Srivastava et al. 2015, arXiv:1505.00387, section 2.2: a negative bias of -1 to -3).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """All tensors (B, c, H, W)."""
        t = torch.sigmoid(self.gate(x))
        return t * f + (1 - t) * x


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight groups, or the most that divide the channels."""
    return nn.GroupNorm(gcd(8, channels), channels)


def no_norm(channels: int) -> nn.Identity:
    """Normalisation removed."""
    return nn.Identity()


def residual(channels: int) -> Residual:
    """An identity shortcut has no weights, whatever the width."""
    return Residual()


def plain(channels: int) -> Plain:
    """Shortcut removed."""
    return Plain()


# Inplace activations would overwrite the tensors whose gradients are measured: none is used.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "silu": nn.SiLU,
    "relu": nn.ReLU,
    "leaky_relu": partial(nn.LeakyReLU, 0.1),
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "identity": nn.Identity,
}
NORMS: dict[str, Callable[[int], nn.Module]] = {
    "batch": nn.BatchNorm2d,  # eps 1e-5, momentum 0.1: torch's defaults
    "group": group_norm,
    "none": no_norm,
}
SHORTCUTS: dict[str, Callable[[int], nn.Module]] = {
    "residual": residual,
    "none": plain,
    "gated": Gated,
}
