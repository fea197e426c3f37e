"""The first bad layer is the right one, forward and backward."""

from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import ModelConfig, TrainConfig
from detector.gradients.nonfinite import NonFiniteOrigin, find_nonfinite_origin
from detector.models.base import DetectionModel
from detector.models.detector import build_detector
from detector.models.loss import DetectionLoss
from detector.models.shortcuts import HighwayGate
from detector.models.weights import read_description
from detector.models.yolo import YoloModel


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


def find(model: nn.Module, batches: int = 1) -> NonFiniteOrigin | None:
    torch.manual_seed(1)
    x = torch.randn(2, 4, 8, 8)
    return find_nonfinite_origin(model, (model(x).square().mean() for _ in range(batches)))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("position", [1, 4, 7, 10, 14])
@pytest.mark.parametrize("direction", ["forward", "backward"])
def test_an_injected_layer_is_named(direction: str, position: int, value: float) -> None:
    model = network(position, Injected(value, direction == "backward"))
    found = find(model)
    assert found is not None
    assert found.where == f"{direction} {position} (Injected)"
    assert found.operation == {"forward": "add", "backward": "PoisonBackward"}[direction]


def compact() -> DetectionModel:
    config = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8, shortcut="gated")
    return build_detector(config, num_classes=2)


def yolo() -> DetectionModel:
    return YoloModel(read_description("yolov8n.yaml") | {"nc": 2}, 2)


COMPACT = (
    "backbone.stem.conv",
    "backbone.p3_0.conv1.act",
    "backbone.p4_0.shortcut",
    "neck.top_down.1.norm",
    "head.cls.0.2",
)
YOLO = (
    "net.model.0.bn",
    "net.model.2.m.0",
    "net.model.9.m",
    "net.model.15",
    "net.model.22.cv2.1.2",
)


@pytest.mark.slow
@pytest.mark.parametrize("value", [float("nan"), float("-inf")])
@pytest.mark.parametrize("direction", ["forward", "backward"])
@pytest.mark.parametrize(
    ("make", "layer"), [*((compact, name) for name in COMPACT), *((yolo, name) for name in YOLO)]
)
def test_real_detectors_under_their_real_loss(
    make: Callable[[], DetectionModel], layer: str, direction: str, value: float
) -> None:
    torch.manual_seed(0)
    model = make().train()
    injected = model.get_submodule(layer)
    injected.register_forward_hook(lambda m, i, output: Poison.apply(output, value, direction == "backward"))
    loss_fn = DetectionLoss(model, TrainConfig())
    images = torch.rand(2, 3, 64, 64)
    targets = {
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([0.0, 1.0]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.5, 0.3, 0.6]]),
    }
    found = find_nonfinite_origin(model, (loss_fn(model(images), targets).total for _ in range(1)))
    assert found is not None
    assert found.where == f"{direction} {layer} ({type(injected).__name__})"
    assert found.operation == {"forward": "add", "backward": "PoisonBackward"}[direction]


@pytest.mark.parametrize(("seed", "batches"), [(0, 1), (2, 3)])
def test_weights_that_are_not_finite_are_named(seed: int, batches: int) -> None:
    model = network(0, None)
    with torch.no_grad():
        model[6].weight[0, 0, 0, 0] = float("nan")
    assert find(model, batches) == NonFiniteOrigin(
        "forward", "6", "Conv2d", "conv2d", "its weights are not finite"
    )


def test_an_overflow_says_how_large_its_inputs_were() -> None:
    model = network(0, None)
    with torch.no_grad():
        model[3].weight.fill_(2e38)
    found = find(model)
    assert found is not None
    assert str(found).startswith("forward 3 (Conv2d), in conv2d: values up to 2.0e+38 go in")


def test_the_gradient_of_an_operation_is_named_with_its_layer() -> None:
    class Root(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return (x.relu() * 0).sqrt() + x  # 0, with the gradient Inf · 0 = NaN

    model = nn.Sequential(nn.Conv2d(4, 4, 1), Root(), nn.SiLU())
    found = find(model)
    assert found is not None
    assert (found.where, found.operation) == ("backward 1 (Root)", "SqrtBackward0")


def test_an_operation_of_a_layer_with_parts_is_its_own() -> None:
    gate = HighwayGate(4)
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.Identity())
    model[1].forward = lambda x: gate(x, x) / 0  # type: ignore[method-assign]
    found = find(model)
    assert found is not None
    assert found.where == "forward 1 (Identity)"
    assert "div" in found.operation


def test_an_infinity_that_stays_inside_its_layer_is_meant() -> None:
    class Masked(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x.masked_fill(x < 0, -torch.inf).exp()  # exp(-Inf) is 0, and so is its gradient

    assert find(nn.Sequential(nn.Conv2d(4, 4, 1), Masked(), nn.Conv2d(4, 4, 1))) is None
    broken = nn.Sequential(nn.Conv2d(4, 4, 1), Masked(), Injected(float("nan"), False))
    found = find(broken)
    assert found is not None
    assert found.where == "forward 2 (Injected)"


def test_memory_that_was_never_written_is_not_blamed(monkeypatch: pytest.MonkeyPatch) -> None:
    class Buffered(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            rubbish = torch.empty(4, 4)
            rubbish.fill_(float("nan"))
            out = torch.empty_like(x)
            out.copy_(x)
            return out

    assert find(nn.Sequential(nn.Conv2d(4, 4, 1), Buffered())) is None


def test_an_activation_in_place_does_not_hide_its_input() -> None:
    model = nn.Sequential(nn.Conv2d(4, 4, 1), nn.SiLU(inplace=True), Injected(float("nan"), False))
    found = find(model)
    assert found is not None
    assert found.where == "forward 2 (Injected)"
    model[2] = nn.Identity()
    with torch.no_grad():
        model[0].weight.fill_(3e38)
    found = find(model)
    assert found is not None
    assert found.where == "forward 0 (Conv2d)"


def test_finite_branches_that_add_up_to_infinity() -> None:
    class Scale(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x * 3e38

    class Both(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.one, self.two = Scale(), Scale()

        def forward(self, x: Tensor) -> Tensor:
            return self.one(x) + self.two(x)

    weight = nn.Linear(1, 1, bias=False)
    model = nn.Sequential(weight, Both())
    with torch.no_grad():
        weight.weight.fill_(1e-3)
    found = find_nonfinite_origin(model, (model(torch.ones(1, 1)).sum() for _ in range(1)))
    assert found is not None
    assert (found.direction, found.layer) == ("backward", "0")
    assert "add up" in found.note


def test_the_micro_batch_is_counted() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    inputs = [torch.ones(1, 2), torch.ones(1, 2), torch.full((1, 2), 1e38)]
    found = find_nonfinite_origin(model, ((model(x) * 1e10).sum() for x in inputs))
    assert found is not None
    assert found.micro_batch == 2


def test_micro_batches_whose_sum_is_too_large() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(0)
    found = find_nonfinite_origin(model, (model(torch.full((1, 1), 3e38)).sum() for _ in range(2)))
    assert found is not None
    assert (found.where, found.operation, found.micro_batch) == ("backward 0 (Linear)", "AccumulateGrad", 1)


def test_a_norm_that_overflows_although_every_gradient_is_finite() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False), nn.Linear(1, 1, bias=False))
    with torch.no_grad():
        model[0].weight.fill_(1)
        model[1].weight.fill_(1e20)
    found = find_nonfinite_origin(model, (model(torch.ones(1, 1)).sum() for _ in range(1)))
    assert found is not None
    assert (found.where, found.operation) == ("backward 0 (Linear)", "gradient norm")


def doubled(tensors: Sequence[Tensor]) -> None:
    """Two shards with the same images."""
    for tensor in tensors:
        tensor += tensor.clone()


def test_shards_whose_finite_gradients_add_up_to_infinity() -> None:
    model = nn.Sequential(nn.Linear(1, 1, bias=False))
    losses = [model(torch.full((1, 1), 2e38)).sum()]  # float32 ends at 3.4e38
    found = find_nonfinite_origin(model, losses, sum_=doubled)
    assert found is not None
    assert (found.where, found.operation) == ("backward 0 (Linear)", "AccumulateGrad")
    assert "several shards" in str(found)


def test_an_origin_in_words() -> None:
    origin = NonFiniteOrigin("forward", "loss", "", "mul")
    assert str(origin) == "forward loss, in mul"
    assert str(replace(origin, kind="Conv2d", note="why")) == "forward loss (Conv2d), in mul: why"


def test_a_loss_that_is_not_finite_is_not_blamed_on_a_layer() -> None:
    model = network(0, None)
    x = torch.randn(2, 4, 8, 8)
    found = find_nonfinite_origin(model, (model(x).mean() * float("inf") for _ in range(1)))
    assert found is not None
    assert (found.where, found.operation) == ("forward loss", "mul")


def test_a_gradient_of_the_loss_that_is_not_finite_is_not_blamed_on_a_layer() -> None:
    model = network(0, None)
    x = torch.randn(2, 4, 8, 8)
    found = find_nonfinite_origin(
        model, ((model(x) * 0).sum().sqrt() for _ in range(1))
    )  # 0, with the gradient 0 · Inf
    assert found is not None
    assert found.where == "backward loss"


def test_finite_numbers_are_not_blamed_and_no_hook_stays() -> None:
    model = network(0, None)
    assert find(model, batches=2) is None
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in model.modules())


def test_looking_changes_neither_gradients_nor_numbers() -> None:
    model, other = network(0, None), network(0, None)
    find(model)
    torch.manual_seed(1)
    other(torch.randn(2, 4, 8, 8)).square().mean().backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        assert ours.grad is not None and theirs.grad is not None
        assert torch.equal(ours.grad, theirs.grad)
