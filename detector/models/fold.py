"""Batch norms folded into the convolutions before them, for a network that is only asked."""

from __future__ import annotations

from copy import deepcopy
from typing import TypeVar

from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

Model = TypeVar("Model", bound=nn.Module)


def fold_norms(model: Model) -> Model:
    """A copy in evaluation mode whose convolutions do what their batch norms did.

    In evaluation a batch norm is a factor and a shift per channel: y = γ(x - μ)/√(σ² + ε) + β. The factor
    goes into the convolution's weights and the shift into its bias, so outputs are equal up to rounding.
    Folded are the units of both kinds of network: modules with a `conv`, then a `norm` or a `bn`.
    """
    folded = deepcopy(model).eval()
    for unit in list(folded.modules()):
        conv = getattr(unit, "conv", None)
        for name in ("norm", "bn"):
            norm = getattr(unit, name, None)
            if isinstance(conv, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                unit.conv = fuse_conv_bn_eval(conv, norm)
                setattr(unit, name, nn.Identity())
    return folded
