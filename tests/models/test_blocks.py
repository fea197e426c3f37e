"""The blocks, against hand-computed cases and torch's own layers."""

import pytest
import torch
from torch import nn

from detector.models.blocks import (
    ACTIVATIONS,
    NORMS,
    SHORTCUTS,
    Block,
    Components,
    ConvNormAct,
    HighwayGate,
    group_norm,
)


def parts(act: str = "silu", norm: str = "batch", shortcut: str = "residual") -> Components:
    return Components(ACTIVATIONS[act], NORMS[norm], SHORTCUTS[shortcut])


def test_a_residual_block_is_x_plus_two_units() -> None:
    torch.manual_seed(0)
    block = Block(8, parts())
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block.eval()(x), x + block.conv2(block.conv1(x)))


def test_a_plain_block_forgets_its_input_but_for_the_units() -> None:
    torch.manual_seed(0)
    block = Block(8, parts(shortcut="none"))
    x = torch.randn(2, 8, 6, 6)
    assert torch.equal(block.eval()(x), block.conv2(block.conv1(x)))


@pytest.mark.parametrize(("bias", "expected"), [(100.0, "f"), (-100.0, "x")])
def test_the_gate_mixes_between_the_branch_and_the_input(bias: float, expected: str) -> None:
    gate = HighwayGate(4)
    nn.init.zeros_(gate.gate.weight)
    nn.init.constant_(gate.gate.bias, bias)
    x, f = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    assert torch.allclose(gate(x, f), {"x": x, "f": f}[expected])


def test_the_gate_halfway() -> None:
    gate = HighwayGate(4)
    nn.init.zeros_(gate.gate.weight)
    nn.init.zeros_(gate.gate.bias)
    x, f = torch.randn(2, 4, 3, 3), torch.randn(2, 4, 3, 3)
    assert torch.allclose(gate(x, f), (x + f) / 2)


@pytest.mark.parametrize("norm", ["none", "batch"])
def test_skipinit_starts_as_the_identity_and_takes_the_branch_in_as_it_learns(norm: str) -> None:
    block = Block(8, parts(norm=norm, shortcut="skipinit"))
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    out = block(x)
    assert torch.equal(out, x)
    (grad,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    assert torch.equal(grad, torch.ones_like(x))  # nothing of the gradient is lost or added
    f = block.conv2(block.conv1(x))
    (scale,) = torch.autograd.grad(out.sum(), block.shortcut.scale)
    assert float(scale) == pytest.approx(float(f.detach().sum()), rel=1e-4)  # so it does leave 0
    nn.init.constant_(block.shortcut.scale, 0.3)
    assert torch.allclose(block.eval()(x), x + 0.3 * block.conv2(block.conv1(x)))


def test_a_bias_exactly_where_no_norm_shifts() -> None:
    assert ConvNormAct(3, 8, parts(norm="batch")).conv.bias is None
    assert ConvNormAct(3, 8, parts(norm="group")).conv.bias is None
    assert ConvNormAct(3, 8, parts(norm="none")).conv.bias is not None


def test_a_unit_is_convolution_norm_activation() -> None:
    torch.manual_seed(0)
    unit = ConvNormAct(3, 8, parts(), stride=2)
    reference = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.SiLU())
    reference[0].load_state_dict(unit.conv.state_dict())
    x = torch.randn(2, 3, 16, 16)
    assert torch.equal(unit(x), reference(x))


@pytest.mark.parametrize("channels", [3, 8, 24, 36])
def test_groups_divide_any_width(channels: int) -> None:
    norm = group_norm(channels)
    assert channels % norm.num_groups == 0
    assert norm(torch.randn(2, channels, 4, 4)).shape == (2, channels, 4, 4)


@pytest.mark.parametrize("act", sorted(ACTIVATIONS))
def test_no_activation_overwrites_its_input(act: str) -> None:
    x = torch.linspace(-3, 3, 24).reshape(1, 4, 2, 3)
    before = x.clone()
    ACTIVATIONS[act]()(x)
    assert torch.equal(x, before)


@pytest.mark.parametrize("shortcut", sorted(SHORTCUTS))
@pytest.mark.parametrize("norm", sorted(NORMS))
def test_every_combination_keeps_the_shape_and_trains(norm: str, shortcut: str) -> None:
    block = Block(8, parts(norm=norm, shortcut=shortcut))
    x = torch.randn(2, 8, 6, 6, requires_grad=True)
    out = block(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    missing = [name for name, p in block.named_parameters() if p.grad is None]
    assert missing == []
