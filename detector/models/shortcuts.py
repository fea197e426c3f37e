"""Shortcuts that have weights; those without stand in `detector.models.blocks`."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.models.init import Draw


class HighwayGate(nn.Module):
    """A highway gate, the feed-forward form of LSTM gating: y = t·f + (1 - t)·x.

    t = sigmoid(w * x + b), a 1×1 convolution. The bias starts at -1, so that the gate mostly carries
    (Srivastava et al. 2015, arXiv:1505.00387, section 2.2: a negative bias of -1 to -3).
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gate = nn.Conv2d(channels, channels, 1)

    def init_weights(self, draw: Draw) -> None:
        """Start by carrying, whatever the scheme."""
        assert self.gate.bias is not None
        nn.init.zeros_(self.gate.weight)
        nn.init.constant_(self.gate.bias, -1.0)

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """All tensors (B, c, H, W)."""
        t = torch.sigmoid(self.gate(x))
        return t * f + (1 - t) * x


class SkipInit(nn.Module):
    """A shortcut that starts as the identity: y = x + α·f, α one learnt number that starts at 0.

    Like a batch norm, it keeps the branch small beside x (De & Smith 2020, arXiv:2002.10444).
    """

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.zeros(1))

    def forward(self, x: Tensor, f: Tensor) -> Tensor:
        """All tensors (B, c, H, W)."""
        return x + self.scale * f


def skipinit(channels: int) -> SkipInit:
    """One factor for the branch, whatever the width."""
    return SkipInit()
