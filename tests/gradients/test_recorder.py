"""The recorder, against closed forms and against autograd by hand."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.gradients.indices import vanishing_index
from detector.gradients.layers import layers_of
from detector.gradients.record import ratio
from detector.gradients.recorder import GradientRecorder
from detector.gradients.signal import input_dependence
from detector.models.detector import build_detector


class Scale(nn.Module):
    """y = w·x with a (1, 1) weight: a chain of these has gradients that can be written down."""

    def __init__(self, weight: float) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.tensor([[weight]], dtype=torch.float64))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.weight


def chain(*weights: float) -> tuple[nn.Sequential, dict[str, nn.Module]]:
    model = nn.Sequential(*(Scale(w) for w in weights))
    return model, {f"{i:02d}_scale": module for i, module in enumerate(model)}


def record(
    model: nn.Module, points: dict[str, nn.Module], *inputs: Tensor, scale: float = 1.0
) -> dict[str, float]:
    recorder = GradientRecorder(points)
    recorder.begin()
    for x in inputs:
        (scale * model(x).sum()).backward()
    for p in model.parameters():  # what a gradient scaler's unscale_ does
        if p.grad is not None:
            p.grad /= scale
    recorder.gradients(scale)
    return recorder.end()


X = torch.tensor([[3.0], [4.0]], dtype=torch.float64)  # (2, 1), norm 5


def test_the_closed_form_of_a_chain() -> None:
    # L = Σ c·b·a·x. dL/d(out of a) = c·b for each of 2 samples, and so on back from 1.
    model, points = chain(2.0, 0.5, 10.0)
    row = record(model, points, X)
    root2 = math.sqrt(2)
    assert row["activation_grad/00_scale"] == pytest.approx(0.5 * 10 * root2)
    assert row["activation_grad/01_scale"] == pytest.approx(10 * root2)
    assert row["activation_grad/02_scale"] == pytest.approx(1 * root2)
    # dL/da = c·b·Σx = 5·7, dL/db = c·a·Σx = 20·7, dL/dc = b·a·Σx = 1·7.
    assert row["weight_grad/00_scale"] == pytest.approx(35)
    assert row["weight_grad/01_scale"] == pytest.approx(140)
    assert row["weight_grad/02_scale"] == pytest.approx(7)
    assert row["gradient/vanishing_index"] == pytest.approx(math.log10(5))
    # W = log10((35 / 2) / (7 / 10))
    assert row["gradient/weight_index"] == pytest.approx(math.log10(25))


def test_the_weight_index_can_have_the_opposite_sign() -> None:
    # Halving layers: the gradient halves on its way back, the signal on its way forward.
    model, points = chain(0.5, 0.5, 0.5)
    row = record(model, points, X)
    assert row["gradient/vanishing_index"] == pytest.approx(math.log10(0.25))
    assert row["gradient/weight_index"] == pytest.approx(0.0)  # the two cancel exactly
    model, points = chain(1e3, 1e-3, 1e-3)
    row = record(model, points, X)
    assert row["gradient/vanishing_index"] < -5
    assert row["gradient/weight_index"] == pytest.approx(math.log10((1e-6 / 1e3) / (1.0 / 1e-3)))


def test_accumulation_records_the_joined_batch() -> None:
    model, points = chain(2.0, 0.5, 10.0)
    whole = record(model, points, X)
    model, points = chain(2.0, 0.5, 10.0)
    parts = record(model, points, X[:1], X[1:])
    assert parts == pytest.approx(whole, rel=1e-12)


class Halved(torch.autograd.Function):
    """Its backward pass writes into the gradient that it is given."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x * 0.5

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Tensor:
        return grads[0].mul_(0.5)


class Shift(nn.Module):
    """y = (x + b) / 2; b's gradient, through a view, is in the memory of the sum's."""

    def __init__(self, shape: tuple[int, ...], halve: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight, self.halve = nn.Parameter(torch.zeros(shape)), halve

    def forward(self, x: Tensor) -> Tensor:
        return self.halve(x + self.weight[None])


@pytest.mark.parametrize("halve", [lambda x: x / 2, Halved.apply])
@pytest.mark.parametrize("shape", [(3,), (300, 300)])
def test_a_gradient_that_is_written_to_later_is_recorded_as_it_was(
    shape: tuple[int, ...], halve: Callable[[Tensor], Tensor]
) -> None:
    model = nn.Sequential(Shift(shape, lambda x: x), Shift(shape, halve), Scale(1.0))
    row = record(model, {"00_a": model[0], "01_b": model[1]}, *torch.ones(3, 1, *shape))
    root = math.sqrt(3 * math.prod(shape))  # of three micro-batches
    assert row["activation_grad/01_b"] == pytest.approx(root)
    assert row["activation_grad/00_a"] == pytest.approx(root / 2)


def test_the_loss_scale_is_divided_out() -> None:
    model, points = chain(2.0, 0.5, 10.0)
    plain = record(model, points, X)
    model, points = chain(2.0, 0.5, 10.0)
    scaled = record(model, points, X, scale=65536.0)
    assert scaled == pytest.approx(plain, rel=1e-12)


def test_clipping_after_the_recording_changes_the_update_but_not_the_gradient() -> None:
    model, points = chain(2.0, 0.5, 10.0)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    recorder = GradientRecorder(points)
    recorder.begin()
    model(X).sum().backward()
    recorder.gradients()
    norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
    optimizer.step()
    row = recorder.end({"train/grad_norm": norm})
    assert row["weight_grad/01_scale"] == pytest.approx(140)  # not the clipped one
    total = math.sqrt(35**2 + 140**2 + 7**2)
    assert row["train/grad_norm"] == pytest.approx(total)
    # SGD's step is lr · g / total, over |w|. (clip_grad_norm_ adds 1e-6 to the norm.)
    assert row["update_ratio/01_scale"] == pytest.approx(0.01 * 140 / total / 0.5, rel=1e-5)
    assert row["update_ratio/02_scale"] == pytest.approx(0.01 * 7 / total / 10, rel=1e-5)


def test_against_autograd_by_hand_on_convolutions() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 3), nn.SiLU(), nn.Conv2d(4, 5, 3), nn.BatchNorm2d(5))
    points = {"00_conv": model[0], "01_conv": model[2]}
    x = torch.randn(2, 3, 8, 8)
    row = record(model, points, x)
    model.zero_grad()
    a = model[0](x)
    b = model[2](model[1](a))
    loss = model[3](b).sum()
    grads = torch.autograd.grad(loss, [a, b, model[0].weight, model[2].weight])
    keys = [
        "activation_grad/00_conv",
        "activation_grad/01_conv",
        "weight_grad/00_conv",
        "weight_grad/01_conv",
    ]
    # The sum of a batch-normed output is constant, so its gradient is rounding noise: compare absolutely.
    assert [row[k] for k in keys] == pytest.approx([float(g.norm()) for g in grads], rel=1e-5, abs=1e-9)
    assert row["signal/input_dependence"] == pytest.approx(float(input_dependence(b.detach())), rel=1e-6)


def test_norms_whose_squares_underflow_are_not_zero() -> None:
    linear = nn.Linear(1, 1, bias=False)
    nn.init.constant_(linear.weight, 1e-30)
    model = nn.Sequential(nn.Identity(), linear)
    row = record(model, {"00_in": model[0], "01_out": model[1]}, torch.ones(1, 1))
    assert row["activation_grad/00_in"] == pytest.approx(1e-30, rel=1e-6)
    assert row["gradient/vanishing_index"] == pytest.approx(-30, abs=1e-3)


def test_nan_and_infinity_reach_the_record() -> None:
    model, points = chain(2.0, math.inf, 10.0)
    row = record(model, points, X)
    assert math.isinf(row["activation_grad/00_scale"])
    assert math.isnan(row["gradient/vanishing_index"])


def test_a_frozen_layer_has_an_activation_gradient_and_no_weight_keys() -> None:
    model, points = chain(2.0, 0.5, 10.0)
    model[0].requires_grad_(False)
    row = record(model, points, X)
    assert row["activation_grad/00_scale"] == pytest.approx(5 * math.sqrt(2))
    assert "weight_grad/00_scale" not in row
    assert row["weight_grad/02_scale"] == pytest.approx(7)


def test_a_layer_that_no_gradient_reaches_is_left_out() -> None:
    model, points = chain(2.0, 0.5)
    unused = Scale(1.0)
    row = record(model, {**points, "09_unused": unused}, X)
    assert "activation_grad/09_unused" not in row
    assert row["gradient/vanishing_index"] == pytest.approx(vanishing_index([0.5, 1.0]))


def test_any_output_structure_is_read() -> None:
    class Fork(nn.Module):
        def forward(self, x: Tensor) -> dict[str, list[Tensor]]:
            return {"both": [3 * x, 4 * x]}

    class Join(nn.Module):
        def forward(self, fork: dict[str, list[Tensor]]) -> Tensor:
            return fork["both"][0] * 3 + fork["both"][1] * 4

    model = nn.Sequential(Scale(1.0), Fork(), Join())
    row = record(model, {"00_fork": model[1], "01_join": model[2]}, X[:1])
    assert row["activation_grad/00_fork"] == pytest.approx(5.0)  # √(3² + 4²)


def test_no_hook_is_left_behind_and_evaluation_is_not_recorded() -> None:
    model, points = chain(2.0, 0.5)
    recorder = GradientRecorder(points)
    recorder.begin()
    with torch.no_grad():
        model(X)
    model(X).sum().backward()
    recorder.gradients()
    first = recorder.end()
    assert not any(module._forward_hooks for module in model)
    assert first["activation_grad/00_scale"] == pytest.approx(0.5 * math.sqrt(2))
    model(X).sum().backward()
    recorder.gradients()
    assert recorder.end({"train/loss": torch.tensor(2.0)}) == {"train/loss": 2.0}


@pytest.mark.parametrize(
    ("part", "whole", "expected"), [(1.0, 4.0, 0.25), (0.0, 4.0, 0.0), (0.0, 0.0, 0.0), (1.0, 0.0, math.inf)]
)
def test_a_ratio_to_nothing(part: float, whole: float, expected: float) -> None:
    assert ratio(part, whole) == expected


def test_weights_that_start_at_zero_change_infinitely() -> None:
    model, points = chain(2.0, 0.0)
    recorder = GradientRecorder(points)
    recorder.begin()
    model(X).sum().backward()
    recorder.gradients()
    torch.optim.SGD(model.parameters(), lr=0.01).step()
    row = recorder.end()
    assert row["update_ratio/00_scale"] == 0.0  # behind a zero no gradient arrives
    assert row["update_ratio/01_scale"] == math.inf


def test_recording_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one layer"):
        GradientRecorder({})


def test_an_ultralytics_model_is_recorded_layer_by_layer() -> None:
    """Somebody else's network, driven through its own `loss`, which a hook on the whole model never sees."""
    from types import SimpleNamespace

    from detector.runtime.ultralytics_import import import_ultralytics

    torch.manual_seed(0)
    model = import_ultralytics("nn.tasks").DetectionModel("yolov8n.yaml", nc=3, verbose=False)
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    points = {
        f"{i:02d}_{layer.type.split('.')[-1].lower()}": layer for i, layer in enumerate(model.model[:-1])
    }
    batch = {
        "img": torch.rand(2, 3, 64, 64),
        "batch_idx": torch.tensor([0.0, 1.0]),
        "cls": torch.tensor([[1.0], [2.0]]),
        "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.4], [0.4, 0.6, 0.3, 0.5]]),
    }
    outputs: dict[str, Tensor] = {}

    def keep(name: str) -> None:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            output.retain_grad()
            outputs[name] = output

        points[name].register_forward_hook(hook)

    for name in points:
        keep(name)
    recorder = GradientRecorder(points)
    recorder.begin()
    model.loss(batch)[0].sum().backward()
    recorder.gradients()
    row = recorder.end()
    assert len([key for key in row if key.startswith("activation_grad/")]) == len(points) == 22
    for name, output in outputs.items():
        assert output.grad is not None
        assert row[f"activation_grad/{name}"] == pytest.approx(float(output.grad.norm()), rel=1e-4), name


def test_a_with_block_is_the_three_calls() -> None:
    def rows(by_hand: bool) -> tuple[dict[str, float], dict[str, float]]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(3, 4), nn.Tanh(), nn.Linear(4, 2))
        recorder = GradientRecorder(model)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        found = []
        for _ in range(2):
            optimizer.zero_grad()
            if by_hand:
                recorder.begin()
                model(torch.ones(5, 3)).square().sum().backward()
                recorder.gradients()
            else:
                with recorder:
                    model(torch.ones(5, 3)).square().sum().backward()
                assert not recorder.active
            optimizer.step()
            found.append(recorder.end() if by_hand else recorder.measure())
        return found[0], found[1]

    assert rows(by_hand=False) == rows(by_hand=True)
    assert "update_ratio/00_0" in rows(by_hand=False)[1]


def test_an_error_in_a_with_block_forgets_the_step() -> None:
    model = nn.Sequential(nn.Linear(2, 2))
    recorder = GradientRecorder(model)
    with pytest.raises(RuntimeError, match="mine"), recorder:
        model(torch.ones(1, 2)).sum().backward()
        raise RuntimeError("mine")
    assert recorder.measure() == {}
    assert not model[0]._forward_hooks


class Stage(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(nn.Sequential(nn.Conv2d(2, 2, 1), nn.ReLU()) for _ in range(depth))


class Net(nn.Module):
    def __init__(self, depth: int) -> None:
        super().__init__()
        self.stem, self.norm, self.body = nn.Conv2d(3, 2, 1), nn.BatchNorm2d(2), Stage(depth)
        self.head = nn.Linear(2, 1)


def test_the_layers_of_any_model() -> None:
    convolutions = [f"{at + 1:02d}_body.blocks.{at}.0" for at in range(5)]
    assert list(layers_of(Net(5))) == ["00_stem", *convolutions, "06_head"]
    assert list(layers_of(nn.Sequential(Net(5)))) == [
        "00_0.stem", *(name.replace("_body", "_0.body") for name in convolutions), "06_0.head",
    ]  # fmt: skip
    assert list(layers_of(nn.Sequential(nn.Linear(2, 2), nn.Tanh(), nn.Linear(2, 2)))) == ["00_0", "01_2"]
    assert list(layers_of(nn.Linear(2, 2))) == ["00_Linear"]
    detector = build_detector(ModelConfig(), 2)
    assert layers_of(detector) == detector.backbone_layers()


def test_a_resnet_is_its_blocks() -> None:
    models = pytest.importorskip("torchvision.models")
    blocks = [f"{2 * stage + half - 1:02d}_layer{stage}.{half}" for stage in (1, 2, 3, 4) for half in (0, 1)]
    assert list(layers_of(models.resnet18())) == ["00_conv1", *blocks, "09_fc"]


def test_layers_may_be_named() -> None:
    model = Net(2)
    recorder = GradientRecorder(model, layers=["stem", "body.blocks.1"])
    assert recorder.points == {"00_stem": model.stem, "01_body.blocks.1": model.body.blocks[1]}
    with pytest.raises(AttributeError, match="nothing"):
        GradientRecorder(model, layers=["nothing"])
    with pytest.raises(ValueError, match="at least one layer"):
        GradientRecorder(model, layers=[])
