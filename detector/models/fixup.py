"""Fixup: residual blocks that train without a norm."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from detector.models.blocks import Components, Operations
from detector.models.init import Draw


class FixupBlock(nn.Module):
    """A residual block by the rules of Zhang et al. 2019, arXiv:1901.09321: (B, c, H, W) -> (B, c, H, W).

    - The last convolution of the branch starts at 0, so the block starts as its shortcut.
    - The first starts as the scheme says, times blocks^(-1/(2m - 2)), with m = 2 convolutions in the branch:
      however many blocks there are, one step changes what they compute together by as much.
    - A scalar shift stands before each convolution and activation, and a scalar factor behind the last.

    The activations stand before the convolutions (He et al. 2016, arXiv:1603.05027): behind one that starts
    at 0, ReLU would have no gradient, and the block would never leave 0. The paper's zero for the last layer
    of the network is not taken over: the head starts as in every other network here.

    Args:
        channels: of input and output.
        parts: the activation and the shortcut are used; the norm must be none.
        blocks: how many the trunk has.
    """

    def __init__(self, channels: int, parts: Components, blocks: int) -> None:
        super().__init__()
        self.act1, self.act2 = parts.act(), parts.act()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.shifts = nn.Parameter(torch.zeros(4))
        self.factor = nn.Parameter(torch.ones(1))
        self.shortcut = parts.shortcut(channels)
        self.blocks = blocks

    def forward(self, x: Tensor) -> Tensor:
        """`x + factor · conv2(act(conv1(act(x))))`, each input shifted, with the residual shortcut."""
        shift = self.shifts
        f = self.conv1(self.act1(x + shift[0]) + shift[1])
        f = self.conv2(self.act2(f + shift[2]) + shift[3])
        out: Tensor = self.shortcut(x, self.factor * f)
        return out

    def operations(self) -> Operations:
        """Those of the branch."""
        return [("act1", self.act1), ("conv1", self.conv1), ("act2", self.act2), ("conv2", self.conv2)]

    @torch.no_grad()
    def init_weights(self, draw: Draw) -> None:
        """The scheme, scaled by the number of blocks, and a zero."""
        draw(self.conv1)
        self.conv1.weight *= self.blocks**-0.5
        nn.init.zeros_(self.conv2.weight)
