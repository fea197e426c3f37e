"""An activation as a function of single numbers, with its slope: what the theory of an unknown one needs."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.models.blocks import activation

Array = NDArray[np.float64]


def curve_of(
    act: str, model: ModelConfig | None = None
) -> tuple[Callable[[Array], Array], Callable[[Array], Array]] | None:
    """φ and φ' of an activation, as it is at initialisation, on float64 arrays of any shape.

    Args:
        act: its name in a configuration.
        model: that configuration: some activations depend on the rest of it.

    Returns:
        None where it is no such function: one number's result depends on the others, or on chance, or it does
        not work in float64.
    """
    module = activation(act, model or ModelConfig())().double()

    def value(x: Array) -> Array:
        with torch.no_grad():
            out: Array = _apply(module, torch.from_numpy(x)).numpy()
        return out

    def slope(x: Array) -> Array:
        points = torch.from_numpy(x).requires_grad_()
        with torch.enable_grad():
            (found,) = torch.autograd.grad(_apply(module, points).sum(), points)
        out: Array = found.numpy()
        return out

    x = np.linspace(-3, 3, 64)
    try:
        whole, parts = value(x), np.concatenate((value(x[40:]), value(x[:40])))
        slopes = slope(x)
    except Exception:  # whatever a plugin's module raises when it is given what it was not written for
        return None
    elementwise = whole.shape == x.shape and np.allclose(whole, np.roll(parts, 40), rtol=1e-9, atol=1e-12)
    return (value, slope) if elementwise and np.isfinite(slopes).all() else None


def _apply(module: nn.Module, x: Tensor) -> Tensor:
    out: Tensor = module(x.reshape(1, 1, 1, -1)).reshape(x.shape)  # as an image of one channel and one row
    return out
