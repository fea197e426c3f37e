"""Fixup's rules, one by one."""

from __future__ import annotations

import math

import pytest
import torch

from detector.config.schema import ModelConfig
from detector.models.detector import build_detector
from detector.models.fixup import FixupBlock


def trunk(depths: tuple[int, int, int, int], act: str = "relu") -> list[FixupBlock]:
    torch.manual_seed(0)
    config = ModelConfig(block="fixup", norm="none", act=act, depths=depths, widths=(16, 32, 32, 32, 32))
    return [m for m in build_detector(config, 3).modules() if isinstance(m, FixupBlock)]


@pytest.mark.parametrize("act", ["silu", "relu", "sigmoid"])
def test_a_block_starts_as_the_identity_and_can_leave_it(act: str) -> None:
    block = trunk((1, 1, 1, 1), act)[0]
    x = torch.randn(2, 32, 6, 6)
    out = block(x)
    assert torch.equal(out, x)
    (out * torch.randn_like(out)).sum().backward()
    assert block.conv2.weight.grad is not None and bool(block.conv2.weight.grad.any())


@pytest.mark.parametrize("depths", [(1, 1, 1, 1), (2, 10, 4, 2)])
def test_the_first_convolution_is_scaled_by_the_number_of_blocks(depths: tuple[int, int, int, int]) -> None:
    blocks = trunk(depths)
    assert len(blocks) == sum(depths)
    expected = math.sqrt(2 / (32 * 9)) * sum(depths) ** -0.5  # He's, times L^(-1 / (2m - 2)) with m = 2
    for block in blocks:
        assert float(block.conv1.weight.detach().std()) == pytest.approx(expected, rel=0.03)
        assert not bool(block.conv2.weight.any())


def test_four_shifts_and_one_factor_are_the_branch_s_only_scalars() -> None:
    block = trunk((1, 1, 1, 1))[0]
    assert block.shifts.tolist() == [0, 0, 0, 0] and block.factor.tolist() == [1]
    with torch.no_grad():
        torch.nn.init.normal_(block.conv2.weight)
        block.shifts.copy_(torch.tensor([0.1, -0.2, 0.3, -0.4]))
        block.factor.fill_(0.5)
    x = torch.randn(2, 32, 6, 6)
    f = block.conv1((x + 0.1).relu() - 0.2)
    f = block.conv2((f + 0.3).relu() - 0.4)
    assert torch.allclose(block(x), x + 0.5 * f, atol=1e-5)


def test_a_norm_beside_it_is_refused() -> None:
    with pytest.raises(ValueError, match=r"model\.block=fixup is built without one"):
        ModelConfig(block="fixup")
