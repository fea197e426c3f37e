"""Dead and saturated units against cases counted by hand, and slopes against closed forms."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from detector.gradients.units import FLAT, slope, watch_units

X = torch.linspace(-8, 8, 161)


@pytest.mark.parametrize(
    ("activation", "closed_form"),
    [
        (nn.ReLU(), lambda x: (x > 0).float()),
        (nn.Sigmoid(), lambda x: torch.sigmoid(x) * torch.sigmoid(-x)),
        (nn.Tanh(), lambda x: 1 / torch.cosh(x) ** 2),
        (nn.SiLU(inplace=True), lambda x: torch.sigmoid(x) * (1 + x * torch.sigmoid(-x))),
    ],
)
def test_a_slope_is_the_derivative(activation: nn.Module, closed_form) -> None:  # type: ignore[no-untyped-def]
    x = X.clone()
    with torch.no_grad():
        found = slope(activation, x)
    assert torch.allclose(found, closed_form(X), atol=1e-6)
    assert torch.equal(x, X)


def test_relu_counted_by_hand() -> None:
    """Three units, two images of two positions: one never active, one once, one always."""
    x = torch.tensor(
        [
            [[-1.0, -2.0], [-1.0, 0.5], [1.0, 2.0]],
            [[-0.1, 0.0], [-1.0, -1.0], [3.0, 0.1]],
        ]
    )  # (B, c, positions)
    with watch_units({"00_act": (act := nn.ReLU())}) as units:
        act(x)
    assert units() == {"dead_units/00_act": pytest.approx(1 / 3), "saturation/00_act": pytest.approx(7 / 12)}


def test_batches_count_together() -> None:
    act = nn.ReLU()
    with watch_units({"00_act": act}) as units:
        act(torch.tensor([[-1.0, -1.0, 1.0]]))
        act(torch.tensor([[1.0, -1.0, 1.0], [-1.0, -1.0, -1.0]]))
    assert units() == {"dead_units/00_act": pytest.approx(1 / 3), "saturation/00_act": pytest.approx(6 / 9)}


def test_a_sigmoid_is_dead_where_it_is_saturated_at_both_ends() -> None:
    edge = math.log(1 / FLAT - 2)  # about where σ(x)σ(-x) = 0.01
    x = torch.tensor([[edge + 0.1, edge - 0.1], [-edge - 0.1, edge + 0.1]])
    with watch_units({"00_act": (act := nn.Sigmoid())}) as units:
        act(x)
    assert units() == {"dead_units/00_act": 0.5, "saturation/00_act": 0.75}


def test_an_activation_that_layers_share_counts_for_the_layer_that_calls_it() -> None:
    act = nn.ReLU(inplace=True)
    model = nn.Sequential(nn.Sequential(nn.Linear(2, 4), act, nn.Linear(4, 2), act), nn.Sequential(act))
    for linear, bias in ((model[0][0], -1.0), (model[0][2], 1.0)):
        nn.init.zeros_(linear.weight)
        nn.init.constant_(linear.bias, bias)
    with watch_units({"00_a": model[0], "01_b": model[1]}) as units:
        model(torch.randn(3, 2))
    # Of the first layer's 4 + 2 units the four behind the bias of -1 are dead.
    assert units() == {
        "dead_units/00_a": pytest.approx(4 / 6), "dead_units/01_b": 0.0,
        "saturation/00_a": pytest.approx(4 / 6), "saturation/01_b": 0.0,
    }  # fmt: skip
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())


def test_what_has_a_slope_everywhere_has_no_number() -> None:
    layers = {"00_a": nn.Sequential(nn.Linear(2, 2), nn.LeakyReLU(0.1)), "01_b": nn.Linear(2, 2)}
    with watch_units(layers) as units:
        layers["01_b"](layers["00_a"](torch.randn(3, 2)))
    assert units() == {}


def test_the_hooks_are_gone_after_an_error() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.ReLU())
    with pytest.raises(RuntimeError), watch_units({"00_all": model}):
        model(torch.randn(3, 5))
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
