"""An activation as a function of numbers, against the theory's closed forms and torch's own derivative."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from detector.analysis.theory import FUNCTIONS, layer_factor
from detector.config import names
from detector.models.blocks import ACTIVATIONS
from detector.models.curve import curve_of
from detector.registry import register

pytestmark = pytest.mark.usefixtures("own_names")


@pytest.mark.parametrize("act", sorted(FUNCTIONS))
@pytest.mark.parametrize(("norm", "gain"), [("batch", 2.0), ("none", 2.0), ("none", 0.5)])
def test_what_is_sampled_is_the_closed_form(act: str, norm: str, gain: float) -> None:
    curve = curve_of(act)
    assert curve is not None
    assert layer_factor(curve, norm, gain) == pytest.approx(layer_factor(act, norm, gain), rel=1e-12)


@pytest.mark.parametrize("act", sorted(names.TORCH["activation"]))
def test_every_activation_of_torch_but_the_random_one_has_a_curve(act: str) -> None:
    curve = curve_of(act)
    if act == "RReLU":
        assert curve is None
        return
    assert curve is not None
    x = np.linspace(-4, 4, 30).reshape(5, 6) + 0.01
    value, slope = (part(x) for part in curve)
    assert value.shape == slope.shape == x.shape
    step = 1e-6
    numeric = (curve[0](x + step) - curve[0](x - step)) / (2 * step)
    np.testing.assert_allclose(slope, numeric, atol=1e-6)
    assert 0.3 < layer_factor(curve, "batch", 2.0) < 2


def test_what_is_no_function_of_single_numbers_has_none() -> None:
    class Attention(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * x.mean().sigmoid()

    class Noise(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.rand_like(x)

    class Picky(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            raise TypeError("float32 only")

    for kind in (Attention, Noise, Picky):
        register.activation(kind.__name__.lower())(kind)
        assert curve_of(kind.__name__.lower()) is None


def test_a_registered_activation_has_one() -> None:
    class Snake(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x + torch.sin(x).square()

    register.activation("snake")(Snake)
    curve = curve_of("snake")
    assert curve is not None
    x = np.linspace(-3, 3, 50)
    np.testing.assert_allclose(curve[0](x), x + np.sin(x) ** 2, rtol=1e-12)
    np.testing.assert_allclose(curve[1](x), 1 + np.sin(2 * x), atol=1e-12)
    assert "snake" not in ACTIVATIONS
