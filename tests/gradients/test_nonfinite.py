"""The first bad layer is the right one, forward and backward."""

import pytest
import torch
from torch import Tensor, nn

from detector.gradients.nonfinite import Culprit, first_culprit


class Poison(torch.autograd.Function):
    """The identity, with a NaN or Inf in its output or in its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor, value: float, backward: bool) -> Tensor:
        ctx.value = value if backward else 0.0
        return x + (0.0 if backward else value)

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None, None]:
        return grad + ctx.value, None, None


class Injected(nn.Module):
    def __init__(self, value: float, backward: bool) -> None:
        super().__init__()
        self.value, self.backward_pass = value, backward

    def forward(self, x: Tensor) -> Tensor:
        return Poison.apply(x, self.value, self.backward_pass)


def network(position: int, injected: nn.Module | None) -> nn.Sequential:
    torch.manual_seed(0)
    layers = [m for _ in range(5) for m in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4), nn.SiLU())]
    if injected is not None:
        layers.insert(position, injected)
    return nn.Sequential(*layers)


def find(model: nn.Module, batches: int = 1) -> Culprit | None:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 8, 8)
    return first_culprit(model, (model(x).square().mean() for _ in range(batches)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("position", [1, 4, 7, 10, 14])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_injected_layer_is_named(direction: str, position: int, value: float) -> None:
    model = network(position, Injected(value, direction == "backward"))
    operation = {"forward": "add", "backward": "PoisonBackward"}[direction]
    assert find(model) == Culprit(direction, str(position), "Injected", operation)
