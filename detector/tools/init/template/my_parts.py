"""Parts of my own, each with a name that a configuration may use once this file is given as --plugin."""

import torch
from torch import Tensor, nn

from detector import register


@register.activation("squared_relu")
class SquaredReLU(nn.Module):
    """max(0, x)², as in Primer (So et al. 2021, arXiv:2109.08668)."""

    def forward(self, x: Tensor) -> Tensor:
        """(B, c, H, W) -> the same shape."""
        return torch.relu(x) ** 2
