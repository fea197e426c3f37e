"""The building blocks, and the factories that are swapped to ablate a component.

A component is removed by injecting its identity (`nn.Identity` for the norm, `NoShortcut` for the
shortcut), never by a flag inside `forward`: every variant runs the same lines.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import gcd
from typing import NamedTuple

from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.models.init import Draw
from detector.models.shortcuts import HighwayGate, skipinit
from detector.models.standardised import StandardisedConv2d, variance_gain
from detector.models.tailored import tailored
from detector.registry import lookup

Operations = list[tuple[str, nn.Module]]  # along a branch, in network order, by their place in the module


class Components(NamedTuple):
    """What an ablation may swap: one factory each."""

    act: Callable[[], nn.Module]  # () -> activation
    norm: Callable[[int], nn.Module]  # (channels) -> normalisation
    shortcut: Callable[[int], nn.Module]  # (channels) -> module of (x, f(x))
    conv: Callable[..., nn.Conv2d] = nn.Conv2d  # called like it


class ConvNormAct(nn.Module):
    """Convolution → norm → activation: (B, c_in, H, W) -> (B, c_out, H / stride, W / stride)."""

    def __init__(self, c_in: int, c_out: int, parts: Components, *, kernel: int = 3, stride: int = 1) -> None:
        super().__init__()
        norm = parts.norm(c_out)
        # A norm has its own shift, so a bias before it would do nothing.
        bias = isinstance(norm, nn.Identity)
        self.conv = parts.conv(c_in, c_out, kernel, stride, padding=kernel // 2, bias=bias)
        self.norm = norm
        self.act = parts.act()

    def forward(self, x: Tensor) -> Tensor:
        """Apply the three in order."""
        out: Tensor = self.act(self.norm(self.conv(x)))
        return out

    def operations(self) -> Operations:
        """What the gradient passes through; a stripped norm or activation is not among it."""
        parts = [("conv", self.conv), ("norm", self.norm), ("act", self.act)]
        return [(place, part) for place, part in parts if not isinstance(part, nn.Identity)]

    def init_weights(self, draw: Draw) -> None:
        """Start as the configured scheme says."""
        draw(self.conv)


class Block(nn.Module):
    """Two units and a shortcut around them: (B, c, H, W) -> (B, c, H, W).

    A block of one's own may be any module with this shape. Two things are looked for in it:

    - `operations()`, the operations along its branch: without it the ledger has one entry for the block, with
      it one for each, and one for `shortcut`, the module that puts input and branch together.
    - `init_weights(draw)`, which calls `draw` on each convolution of its own that is not in a `ConvNormAct`:
      without it these start as PyTorch starts them.
    """

    def __init__(self, channels: int, parts: Components) -> None:
        super().__init__()
        self.conv1 = ConvNormAct(channels, channels, parts)
        self.conv2 = ConvNormAct(channels, channels, parts)
        self.shortcut = parts.shortcut(channels)

    def forward(self, x: Tensor) -> Tensor:
        """`x + conv2(conv1(x))` with the residual shortcut."""
        out: Tensor = self.shortcut(x, self.conv2(self.conv1(x)))
        return out

    def operations(self) -> Operations:
        """Those of the branch."""
        return chained(conv1=self.conv1, conv2=self.conv2)


class Residual(nn.Module):
    """The identity shortcut of He et al. 2016, arXiv:1603.05027: y = x + f."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """All tensors (B, c, H, W)."""
        return x + f


class NoShortcut(nn.Module):
    """No shortcut: y = f, so that the trunk is a plain chain of convolutions."""

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """All tensors (B, c, H, W)."""
        return f


def chained(**units: ConvNormAct) -> Operations:
    """The operations of units that follow each other, their places as `conv1.norm`."""
    return [(f"{name}.{place}", part) for name, unit in units.items() for place, part in unit.operations()]


def group_norm(channels: int) -> nn.GroupNorm:
    """Eight groups, or the most that divide the channels."""
    return nn.GroupNorm(gcd(8, channels), channels)


def no_norm(channels: int) -> nn.Identity:
    """Normalisation removed."""
    return nn.Identity()


def residual(channels: int) -> Residual:
    """An identity shortcut has no weights, whatever the width."""
    return Residual()


def no_shortcut(channels: int) -> NoShortcut:
    """Shortcut removed."""
    return NoShortcut()


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
    "weight": no_norm,  # the convolutions' filters are normalised instead: see `components`
}
SHORTCUTS: dict[str, Callable[[int], nn.Module]] = {
    "residual": residual,
    "none": no_shortcut,
    "gated": HighwayGate,
    "skipinit": skipinit,
    "chain": no_shortcut,  # of another's network the concatenations go too: see `models.plain`
}
BLOCKS: dict[str, Callable[[int, Components], nn.Module]] = {"basic": Block}


def components(config: ModelConfig) -> Components:
    """The factories that a configuration names: those above, PyTorch's activations, and registered ones."""
    act = activation(config.act, config)
    convolution: Callable[..., nn.Conv2d] = nn.Conv2d
    if config.norm == "weight":
        convolution = partial(StandardisedConv2d, gain=variance_gain(act))
    return Components(
        act,
        lookup("norm", config.norm, NORMS),
        lookup("shortcut", config.shortcut, SHORTCUTS),
        convolution,
    )


def activation(act: str, config: ModelConfig) -> Callable[[], nn.Module]:
    """The factory of an activation; some depend on the rest of the configuration."""
    return lookup("activation", act, ACTIVATIONS | tailored(config), nn)
