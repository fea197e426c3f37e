"""Weight standardisation: each filter's mean and variance, and what becomes of a signal."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detector.analysis.theory import FUNCTIONS, standard_gain
from detector.config.schema import ModelConfig
from detector.models.blocks import ACTIVATIONS, ConvNormAct, components
from detector.models.detector import build_detector
from detector.models.init import init_weights
from detector.models.standardised import StandardisedConv2d, variance_gain


@pytest.mark.parametrize(("mean", "scale"), [(0.0, 1.0), (3.0, 0.01), (-0.5, 1e-4)])
def test_each_filter_has_mean_0_and_variance_1_over_fan_in(mean: float, scale: float) -> None:
    torch.manual_seed(0)
    conv = StandardisedConv2d(16, 24, 3, gain=1.7).double()
    nn.init.normal_(conv.weight, mean, scale)
    filters = conv.filters().detach().flatten(1)
    assert filters.mean(1).tolist() == pytest.approx([0] * 24, abs=1e-12)
    variance = filters.var(1, correction=0) * 16 * 9
    assert variance.tolist() == pytest.approx([1.7**2] * 24, rel=1e-6)


def test_it_is_a_convolution_with_these_filters() -> None:
    torch.manual_seed(0)
    conv = StandardisedConv2d(3, 8, 3, 2, padding=1)
    x = torch.randn(2, 3, 8, 8)
    assert torch.equal(conv(x), nn.functional.conv2d(x, conv.filters(), conv.bias, 2, 1))
    with torch.no_grad():
        before = conv(x)
        conv.weight.mul_(7).add_(2)  # neither scale nor shift of the weights matters
    assert torch.allclose(conv(x), before, atol=1e-5)


def test_the_gain_is_the_closed_form() -> None:
    # Brock et al. 2021, section 4.2: ReLU's output has the variance (1 - 1/π) / 2.
    assert variance_gain(nn.ReLU) == pytest.approx(math.sqrt(2 / (1 - 1 / math.pi)), rel=1e-6)
    assert variance_gain(nn.Identity) == pytest.approx(1, rel=1e-6)
    assert variance_gain(ACTIVATIONS["silu"]) == pytest.approx(1.7868, abs=2e-3)  # theirs, of 1024² samples
    assert variance_gain(lambda: nn.Threshold(100, 3)) == 1.0  # a constant has no variance


@pytest.mark.parametrize("act", sorted(FUNCTIONS))
def test_the_theory_s_gain_is_the_same(act: str) -> None:
    assert standard_gain(FUNCTIONS[act]) == pytest.approx(variance_gain(ACTIVATIONS[act]) ** 2, rel=1e-5)


def spread_after_30_layers(norm: str, act: str) -> float:
    """The variance between inputs of a unit's pre-activation, averaged over the units."""
    torch.manual_seed(0)
    parts = components(ModelConfig(norm=norm, act=act, shortcut="none"))
    x = torch.randn(1000, 256, 1, 1)
    with torch.no_grad():
        for _ in range(30):
            unit = ConvNormAct(256, 256, parts, kernel=1)
            init_weights(unit, "he")
            before = unit.conv(x)
            x = unit(x)
    return float(before.var(0).mean())


@pytest.mark.parametrize("act", ["relu", "tanh", "sigmoid"])
def test_a_deep_chain_keeps_the_variance_between_inputs_whatever_the_activation(act: str) -> None:
    assert 0.2 < spread_after_30_layers("weight", act) < 5


def test_without_it_a_deep_chain_of_sigmoids_forgets_its_input() -> None:
    assert spread_after_30_layers("none", "sigmoid") < 1e-10


def test_the_value_weight_of_the_norm_brings_it_in() -> None:
    model = build_detector(ModelConfig(norm="weight", depths=(1, 1, 1, 1)), 3)
    convolutions = [
        m for p in model.backbone_layers().values() for m in p.modules() if isinstance(m, nn.Conv2d)
    ]
    assert {type(m) for m in convolutions} == {StandardisedConv2d}
    assert not any(isinstance(m, nn.BatchNorm2d) for m in model.modules())
    assert all(m.bias is not None for m in convolutions)
    assert type(build_detector(ModelConfig(), 3).backbone.stem.conv) is nn.Conv2d
