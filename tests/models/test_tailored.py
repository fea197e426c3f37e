"""The tailored activations, against the equations of their paper and a wide random network."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from detector.analysis.theory import expectation, layer_factor
from detector.config.schema import ModelConfig
from detector.models.blocks import activation
from detector.models.curve import curve_of
from detector.models.detector import build_detector
from detector.models.tailored import TailoredReLU, TailoredTanh, relu_map, relu_slope, tanh_parameters

DEPTHS = [5, 21, 41, 81, 8005]  # from the shortest trunk that a configuration can have to the longest


def test_the_c_map_of_relu_is_the_arc_cosine_kernel() -> None:
    # Cho & Saul 2009, eq. 6, for n = 1: (sin θ + (π - θ)·cos θ) / π.
    for theta in np.linspace(0, math.pi, 9).tolist():
        kernel = (math.sin(theta) + (math.pi - theta) * math.cos(theta)) / math.pi
        assert relu_map(math.cos(theta), 0.0) == pytest.approx(kernel, abs=1e-12)
        assert relu_map(math.cos(theta), 1.0) == pytest.approx(math.cos(theta), abs=1e-12)


@pytest.mark.parametrize("slope", [0.0, 0.3, 0.8])
def test_the_c_map_is_what_two_correlated_gaussians_come_to(slope: float) -> None:
    generator = np.random.default_rng(0)
    a, b = generator.standard_normal((2, 2_000_000))
    for cosine in (0.0, 0.5, 0.9):
        pair = torch.from_numpy(np.stack((a, cosine * a + math.sqrt(1 - cosine**2) * b)))
        left, right = TailoredReLU(slope)(pair)
        assert float((left * right).mean()) == pytest.approx(relu_map(cosine, slope), abs=4e-3)
        assert float(left.square().mean()) == pytest.approx(1, abs=4e-3)  # Q(1) = 1


@pytest.mark.parametrize("layers", [21, 41, 81, 8005])
def test_orthogonal_inputs_leave_with_the_cosine_eta(layers: int) -> None:
    cosine = 0.0
    for _ in range(layers):
        cosine = relu_map(cosine, relu_slope(layers))
    assert cosine == pytest.approx(0.9, abs=1e-9)


def test_a_short_chain_needs_no_slope_and_a_longer_one_a_steeper() -> None:
    assert relu_slope(5) == 0.0
    assert 0 < relu_slope(21) < relu_slope(41) < relu_slope(81) < 1
    assert relu_slope(41, eta=0.5) > relu_slope(41, eta=0.9)


@pytest.mark.parametrize("layers", DEPTHS)
def test_the_tanh_solves_the_four_equations(layers: int) -> None:
    alpha, beta, gamma, delta = tanh_parameters(layers)

    def moment(f: object) -> float:
        return expectation(f)  # type: ignore[arg-type]  # by another quadrature than the solver's

    def value(z: np.ndarray) -> np.ndarray:
        return gamma * (np.tanh(alpha * z + beta) + delta)

    def slope(z: np.ndarray) -> np.ndarray:
        return gamma * alpha / np.cosh(alpha * z + beta) ** 2

    def bend(z: np.ndarray) -> np.ndarray:
        return -2 * alpha * np.tanh(alpha * z + beta) * slope(z)

    assert moment(lambda z: value(z) ** 2) == pytest.approx(1, abs=1e-8)  # Q(1)
    assert moment(lambda z: value(z) * slope(z) * z) == pytest.approx(1, abs=1e-8)  # Q'(1)
    assert moment(lambda z: slope(z) ** 2) == pytest.approx(1, abs=1e-8)  # C'(1)
    assert layers * moment(lambda z: bend(z) ** 2) == pytest.approx(0.3, abs=1e-8)  # C_f''(1)


def test_the_authors_own_package_finds_the_same_parameters() -> None:
    # dks 0.1.2, method TAT, for a chain of 41 layers: its solver stops at 1e-8.
    assert relu_slope(41) == pytest.approx(0.3836963177, abs=1e-7)
    assert tanh_parameters(41) == pytest.approx(
        (0.0902383290, 0.5276152549, 14.4466340, -0.4847542692), rel=1e-7
    )


def test_the_module_is_the_function_of_its_parameters() -> None:
    alpha, beta, gamma, delta = tanh_parameters(41)
    x = torch.linspace(-3, 3, 7, dtype=torch.float64)
    assert torch.allclose(TailoredTanh(41)(x), gamma * (torch.tanh(alpha * x + beta) + delta))
    expected = torch.where(x > 0, x, 0.8 * x) * math.sqrt(2 / 1.64)
    assert torch.allclose(TailoredReLU(0.8)(x), expected)


def test_they_follow_the_depth_of_the_trunk_or_the_slope_that_is_set() -> None:
    shallow, deep = (
        ModelConfig(act="tailored_relu", depths=depths) for depths in ((1, 4, 2, 1), (2, 10, 4, 2))
    )
    slopes = [activation(config.act, config)().slope for config in (shallow, deep)]
    assert slopes == [relu_slope(21), relu_slope(41)]
    convolutions = [m for p in build_detector(deep, 3).backbone_layers().values() for m in p.modules()]
    assert sum(isinstance(m, nn.Conv2d) for m in convolutions) == 41
    assert activation("tailored_relu", ModelConfig(act="tailored_relu", act_slope=0.8))().slope == 0.8
    with pytest.raises(ValueError, match="only act=tailored_relu uses it"):
        ModelConfig(act_slope=0.8)


@pytest.mark.parametrize("act", ["tailored_relu", "tailored_tanh"])
def test_a_plain_layer_passes_the_gradient_on_as_it_is(act: str) -> None:
    """Both keep power (Q(1) = 1); what it does to the gradient, E[φ'²], is 1 as well."""
    model = ModelConfig(act=act, depths=(2, 10, 4, 2))
    curve = curve_of(act, model)
    assert curve is not None
    assert layer_factor(curve, "none", 1.0) == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize(
    ("act", "keeps"), [("tailored_relu", True), ("tailored_tanh", True), ("relu", False)]
)
def test_two_inputs_are_still_told_apart_after_41_layers(act: str, keeps: bool) -> None:
    torch.manual_seed(0)
    gain = 2.0 if act == "relu" else 1.0
    function, width = activation(act, ModelConfig(act=act))(), 1000
    x = torch.linalg.qr(torch.randn(width, 2)).Q.T * math.sqrt(width)  # orthogonal, of power 1
    for _ in range(41):
        x = function(x @ torch.randn(width, width) * math.sqrt(gain / width))
    cosine = float(nn.functional.cosine_similarity(x[0], x[1], dim=0))
    assert (cosine < 0.95) == keeps
