"""The first bad layer is the right one, forward and backward."""

import pytest
import torch
from torch import Tensor, nn

from detector.gradients.nonfinite import first_bad_layer


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


def find(model: nn.Module) -> str | None:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 8, 8)

    def backward() -> Tensor:
        loss = model(x).square().mean()
        loss.backward()
        return loss

    return first_bad_layer(model, backward)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("position", [1, 4, 7, 10, 14])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_injected_layer_is_named(direction: str, position: int, value: float) -> None:
    model = network(position, Injected(value, direction == "backward"))
    assert find(model) == f"{direction} {position} (Injected)"


def test_weights_that_are_not_finite_are_named() -> None:
    model = network(0, None)
    with torch.no_grad():
        model[6].weight[0, 0, 0, 0] = float("nan")
    assert find(model) == "forward 6 (Conv2d)"


def test_a_loss_that_is_not_finite_is_not_blamed_on_a_layer() -> None:
    model = network(0, None)
    x = torch.randn(2, 4, 8, 8)

    def backward() -> Tensor:
        loss = model(x).mean() * float("inf")
        loss.backward()
        return loss

    assert first_bad_layer(model, backward) == "loss"


def test_a_gradient_of_the_loss_that_is_not_finite_is_not_blamed_on_a_layer() -> None:
    model = network(0, None)
    x = torch.randn(2, 4, 8, 8)

    def backward() -> Tensor:
        loss = (model(x) * 0).sum().sqrt()  # 0, with the gradient 0 · Inf
        loss.backward()
        return loss

    assert first_bad_layer(model, backward) == "loss"


def test_finite_numbers_are_not_blamed_and_no_hook_stays() -> None:
    model = network(0, None)
    assert find(model) is None
    assert not any(module._forward_hooks for module in model.modules())
