"""The theory against closed forms, published numbers, Monte Carlo and real networks."""

from __future__ import annotations

import math
import subprocess
import sys
from statistics import fmean

import numpy as np
import pytest
import torch
from torch import nn

from detector.analysis.theory import (
    CARRY,
    FUNCTIONS,
    LEAK,
    _panels,
    batch_norm_factor,
    expectation,
    layer_factor,
    power_exponent,
    residual_ratio,
    weight_gain,
)
from detector.analysis.trunk_theory import (
    block_factors,
    expected_profile,
    layer_names,
    measured_factor,
    overlay,
    stage_factor,
)
from detector.config.schema import ModelConfig
from detector.models.blocks import ACTIVATIONS
from detector.models.curve import curve_of
from detector.models.detector import build_detector
from detector.models.shortcuts import HighwayGate
from detector.registry import register

PI = math.pi


def test_published_factors() -> None:
    assert batch_norm_factor("relu") == pytest.approx(math.sqrt(PI / (PI - 1)), rel=1e-12)  # Yang et al. 2019
    assert batch_norm_factor("relu") == pytest.approx(1.2112, abs=5e-5)
    assert layer_factor("sigmoid", "none", 2) == pytest.approx(0.3178, abs=5e-5)  # Schoenholz et al. 2017
    assert layer_factor("sigmoid", "none", 1) == pytest.approx(0.2361, abs=5e-5)
    assert layer_factor("relu", "none", 2) == pytest.approx(1, rel=1e-12)  # He et al. 2015
    assert layer_factor("relu", "none", 1) == pytest.approx(math.sqrt(0.5), rel=1e-12)
    # As published to two digits in the project's notes: polynomial growth over residual blocks.
    ratios = [residual_ratio("silu", "batch", blocks) for blocks in (4, 10, 24, 56)]
    assert ratios == pytest.approx([3.0, 5.2, 9.4, 17.1], abs=0.06)


def test_the_nodes_integrate_the_moments_of_a_normal_variable() -> None:
    """E[z^2k] = (2k - 1)!!, and 0 for odd powers."""
    nodes, weights = _panels()
    assert nodes.shape == weights.shape
    for power, expected in enumerate([1, 0, 1, 0, 3, 0, 15, 0, 105]):
        assert float((weights * nodes**power).sum()) == pytest.approx(expected, rel=1e-12, abs=1e-12)
    # The kink at zero is a boundary, and half of the mass lies on either side of it.
    assert float((weights * np.maximum(nodes, 0)).sum()) == pytest.approx(
        1 / math.sqrt(2 * math.pi), rel=1e-12
    )
    # A spike a thousandth wide, beside zero: E[exp(-(z/s)^2 / 2)] = s / sqrt(1 + s^2).
    spike = 1e-3
    value = float((weights * np.exp(-((nodes / spike) ** 2) / 2)).sum())
    assert value == pytest.approx(spike / math.sqrt(1 + spike**2), rel=1e-9)


@pytest.mark.parametrize("scale", [1e-6, 0.3, 1.0, 40.0, 1e5])
def test_the_quadrature_is_exact_at_kinks_and_at_any_scale(scale: float) -> None:
    relu, slope = FUNCTIONS["relu"]
    assert expectation(relu, scale) == pytest.approx(scale / math.sqrt(2 * PI), rel=1e-10)
    assert expectation(lambda x: relu(x) ** 2, scale) == pytest.approx(scale**2 / 2, rel=1e-10)
    assert expectation(lambda x: slope(x) ** 2, scale) == pytest.approx(0.5, rel=1e-10)
    leaky = FUNCTIONS["leaky_relu"][0]
    assert expectation(leaky, scale) == pytest.approx((1 - LEAK) * scale / math.sqrt(2 * PI), rel=1e-10)
    # Stein's lemma ties φ to φ': E[z φ(s z)] = s E[φ'(s z)]. It holds for every φ.
    for value, derivative in FUNCTIONS.values():
        left = expectation(lambda x, f=value: x / scale * f(x), scale)
        assert left == pytest.approx(scale * expectation(derivative, scale), rel=1e-7)


@pytest.mark.parametrize("act", sorted(FUNCTIONS))
def test_smooth_functions_against_gauss_hermite_and_torch(act: str) -> None:
    x = torch.linspace(-8, 8, 401, dtype=torch.float64, requires_grad=True)
    y = ACTIVATIONS[act]()(x)
    (slope,) = torch.autograd.grad(y.sum(), x)
    away = np.abs(x.detach().numpy()) > 1e-9  # at a kink the slope is a convention
    value, derivative = FUNCTIONS[act]
    points = x.detach().numpy()
    np.testing.assert_allclose(value(points), y.detach().numpy(), atol=1e-12)
    np.testing.assert_allclose(derivative(points)[away], slope.numpy()[away], atol=1e-12)
    if act in ("silu", "tanh", "sigmoid"):
        nodes, weights = np.polynomial.hermite_e.hermegauss(150)
        hermite = weights @ derivative(nodes) ** 2 / weights.sum()
        assert expectation(lambda x: derivative(x) ** 2) == pytest.approx(hermite, rel=1e-7)


def test_the_exponent_of_power() -> None:
    assert power_exponent("relu") == pytest.approx(1, rel=1e-12)
    value, step = FUNCTIONS["silu"][0], 1e-4
    powers = [expectation(lambda x: value(x) ** 2, math.sqrt(q)) for q in (1 - step, 1 + step)]
    numeric = math.log(powers[1] / powers[0]) / math.log((1 + step) / (1 - step))
    assert power_exponent("silu") == pytest.approx(numeric, rel=1e-6)
    assert power_exponent("silu") > 1.1 > 0.9 > power_exponent("tanh")


@pytest.mark.parametrize("act", ["silu", "relu", "tanh"])
def test_why_the_theory_misses_silu_behind_a_batch_norm(act: str) -> None:
    """Differences in size between inputs grow with SiLU, and shrink with a function that saturates."""
    torch.manual_seed(0)
    h, spreads = torch.randn(256, 256), []
    for _ in range(16):
        z = nn.functional.batch_norm(h @ torch.randn(256, 256), None, None, training=True)
        h = ACTIVATIONS[act]()(z)
        power = h.square().mean(1)  # (inputs,)
        spreads.append(float(power.std() / power.mean()))
    if act == "silu":
        assert spreads[-1] > 4 * spreads[0]
    if act == "tanh":
        assert spreads[-1] < 1.5 * spreads[0]


@pytest.mark.parametrize("depths", [(2, 10, 4, 2), (1, 1, 1, 1), (3, 12, 2, 5)])
def test_the_names_are_the_detector_s(depths: tuple[int, int, int, int]) -> None:
    model = build_detector(ModelConfig(depths=depths), 3)
    assert layer_names(depths) == list(model.backbone_layers())


@pytest.mark.parametrize(
    "scheme", ["he", "lecun", "xavier", "default", "naive", "orthogonal", "delta_orthogonal"]
)
def test_gains_are_those_of_the_initialised_weights(scheme: str) -> None:
    torch.manual_seed(0)
    std = {"init_std": 0.02} if scheme == "naive" else {}
    model = build_detector(ModelConfig(norm="none", init=scheme, **std), 3)
    conv = model.backbone.p5_down.conv  # 64 -> 96
    gain, bias = weight_gain(scheme, 64, 96, 0.02)
    assert float(conv.weight.detach().var()) * 64 * 9 == pytest.approx(gain, rel=0.03)
    assert float(conv.bias.detach().var(correction=0)) == pytest.approx(bias, rel=0.3)


def test_the_gate_is_the_detector_s() -> None:
    gate = HighwayGate(4)
    nn.init.zeros_(gate.gate.weight)
    nn.init.constant_(gate.gate.bias, -1.0)
    x, f = torch.zeros(1, 4, 2, 2), torch.ones(1, 4, 2, 2)
    assert float(gate(x, f).detach().mean()) == pytest.approx(CARRY)


def trunk_output(config: ModelConfig) -> dict[str, float]:
    """log10 of g by layer on white images, with a random linear loss on the trunk's end alone."""
    torch.manual_seed(0)
    trunk = build_detector(config, 3).backbone
    for module in trunk.modules():
        if isinstance(module, nn.Conv2d):
            module.padding_mode = "circular"  # zeros at the border are not part of the theory
    x, outputs = torch.randn(8, 3, 128, 128), []
    for module in trunk.children():
        x = module(x)
        outputs.append(x)
    grads = torch.autograd.grad((x * torch.randn_like(x)).sum(), outputs)
    logs = [math.log10(float(g.double().norm())) for g in grads]
    return dict(zip(layer_names(config.depths), (log - logs[-1] for log in logs), strict=True))


@pytest.mark.parametrize(
    ("changes", "tolerance"),
    [
        ({}, 0.05),
        ({"act": "relu"}, 0.05),
        ({"shortcut": "none", "act": "tanh"}, 0.05),
        ({"shortcut": "none", "norm": "none"}, 0.15),
        ({"shortcut": "none", "norm": "none", "init": "xavier"}, 0.05),
        ({"shortcut": "none", "norm": "none", "init": "default"}, 0.08),
        ({"shortcut": "none", "norm": "none", "act": "sigmoid"}, 0.08),
        ({"shortcut": "gated"}, 0.05),
        ({"norm": "none"}, 0.05),
        ({"norm": "none", "act": "relu"}, 0.06),
        ({"norm": "none", "act": "tanh"}, 0.05),
        ({"shortcut": "skipinit"}, 0.05),
        ({"shortcut": "none", "norm": "none", "act": "tailored_relu", "init": "delta_orthogonal"}, 0.1),
        ({"shortcut": "none", "norm": "none", "act": "tailored_tanh", "init": "orthogonal"}, 0.1),
        ({"norm": "weight", "shortcut": "none", "act": "sigmoid"}, 0.1),
        ({"norm": "weight", "shortcut": "none", "act": "tanh"}, 0.1),
        ({"norm": "weight", "act": "relu"}, 0.1),
        ({"norm": "weight", "shortcut": "skipinit"}, 0.1),
        ({"norm": "group"}, 0.5),  # six channels a group are not many
        ({"act": "GELU"}, 0.05),
        ({"act": "Hardswish", "norm": "none"}, 0.05),
        ({"act": "ELU", "shortcut": "none"}, 0.05),
    ],
)
def test_the_profile_is_the_trunk_s(changes: dict[str, str], tolerance: float) -> None:
    """The absolute error, in decades, at every layer from the stem to the end."""
    config = ModelConfig(depths=(2, 4, 2, 1), widths=(32, 32, 48, 64, 64), **changes)
    measured = trunk_output(config)
    predicted = expected_profile(config, image_power=1.0, act=curve_of(config.act, config))
    assert predicted is not None
    assert list(predicted) == list(measured)
    worst = max(abs(predicted[name] - measured[name]) for name in measured)
    assert worst < tolerance


def test_a_model_that_the_theory_does_not_know_has_no_profile() -> None:
    assert expected_profile(object()) is None
    assert overlay(object(), {}) is None
    assert overlay(ModelConfig(), {}) is None


@pytest.mark.usefixtures("own_names")
@pytest.mark.parametrize("kind", ["activation", "norm", "shortcut", "block", "model"])
def test_what_a_plugin_brings_is_not_predicted(kind: str) -> None:
    getattr(register, kind)("mine")(object)
    key = {"activation": "act", "model": "name"}.get(kind, kind)
    config = ModelConfig(**{key: "mine"})
    assert block_factors(config) == {}
    assert expected_profile(config) is None
    assert overlay(config, {}) is None
    assert math.isnan(stage_factor(block_factors(config)))


@pytest.mark.usefixtures("own_names")
def test_a_plugin_s_weights_matter_only_where_no_norm_takes_their_scale() -> None:
    register.init("mine")(object)
    assert block_factors(ModelConfig(init="mine")) == block_factors(ModelConfig())
    assert expected_profile(ModelConfig(init="mine", norm="none")) is None


def test_an_activation_that_says_nothing_is_predicted_without_an_error() -> None:
    constant = (np.zeros_like, np.zeros_like)
    for norm in ("none", "batch", "group", "weight"):
        assert expected_profile(ModelConfig(act="GELU", norm=norm), act=constant) is None


def test_the_overlay_meets_the_measured_curve_where_the_neck_joins() -> None:
    config = ModelConfig(depths=(1, 2, 1, 1), shortcut="none", norm="none", act="relu", init="lecun")
    names = layer_names(config.depths)
    measured = dict.fromkeys(names, 1.0) | {"05_p3.1": 8.0, "07_p4.0": 4.0, "09_p5.0": 2.0}
    drawn = overlay(config, measured)
    assert drawn is not None
    # A factor of √½ a layer: a half over a block.
    expected = [8 * math.sqrt(0.5) ** k for k in (8, 7, 5, 4, 2, 0)] + [4 / 2, 4, 2 / 2, 2]
    assert list(drawn.values()) == pytest.approx(expected)


def test_the_factor_of_a_stage() -> None:
    names = layer_names((2, 10, 4, 2))
    row = {f"activation_grad/{name}": 0.25**-depth for depth, name in enumerate(names)}
    assert measured_factor(row) == pytest.approx(0.5)  # a quarter a block of two layers
    config = ModelConfig(shortcut="none", norm="none", act="sigmoid")
    assert stage_factor(block_factors(config)) == pytest.approx(0.3178, abs=1e-4)
    assert math.isnan(measured_factor({}))
    assert math.isnan(measured_factor(dict.fromkeys(row, 0.0)))


@pytest.mark.slow
def test_the_trunk_is_measured_on_random_images() -> None:
    from detector.tools.theory.measure import backbone_factor
    from detector.tools.theory.tables import one_pass, random_batch

    config = ModelConfig(shortcut="none", norm="none")
    factors = [backbone_factor(config, 80, one_pass(random_batch(seed)), seed) for seed in (0, 1)]
    assert fmean(factors) == pytest.approx(stage_factor(block_factors(config)), rel=0.02)


def test_predictions_need_no_torch() -> None:
    code = (
        "import detector.analysis.theory, detector.gradients.entries, sys; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
