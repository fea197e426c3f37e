"""Points inside a network, against lists written by hand and counts of its convolutions."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.errors import UserError
from detector.gradients.points import Calls, points, points_inside
from detector.gradients.recorder import GradientRecorder
from detector.integrations.layers import choose_layers
from detector.models.build import build_model
from detector.models.strip import strip
from detector.models.yolo import YoloModel
from detector.runtime.ultralytics_import import import_ultralytics
from tests.models.test_strip import backward
from tests.models.test_yolo import IMAGES, built

FAMILIES = ["yolov8n.yaml", "yolov10n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml"]


@torch.no_grad()
def calls_of(model: nn.Module, images: Tensor) -> Calls:
    with Calls(model.net if isinstance(model, YoloModel) else model) as calls:
        model.eval()(images)
    return calls


def block(kind: str, *args: object) -> nn.Module:
    made: nn.Module = getattr(import_ultralytics("nn.modules"), kind)(*args)
    return made


@pytest.mark.parametrize(
    ("kind", "args", "convs", "blocks"),
    [
        ("C2f", (16, 16, 2, True), "cv1 m.0.cv1 m.0.cv2 m.1.cv1 m.1.cv2 cv2", "m.0 m.1"),
        ("C3k2", (16, 16, 1, False), "cv1 m.0.cv1 m.0.cv2 cv2", "m.0"),
        ("SPPF", (16, 16), "cv1 cv2", ""),
        (
            "C2PSA",
            (128, 128),
            "cv1 m.0.attn.qkv m.0.attn.pe m.0.attn.proj m.0.ffn.0 m.0.ffn.1 cv2",
            "m.0.attn m.0",
        ),
    ],
)
def test_the_parts_of_a_block_are_in_the_order_in_which_they_are_used(
    kind: str, args: tuple[object, ...], convs: str, blocks: str
) -> None:
    net = nn.Sequential(block(kind, *args))
    calls = calls_of(net, torch.rand(1, int(str(args[0])), 8, 8))
    assert list(points(calls, "convs")) == [f"{n:03d}_0.{name}" for n, name in enumerate(convs.split())]
    inside = [f"0.{name}" for name in blocks.split()]
    assert [name[4:] for name in points(calls, "blocks")] == [*inside, "0"]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_convolution_of_a_network_has_one_point_whatever_is_stripped(name: str) -> None:
    whole = built(name)
    calls = calls_of(whole, IMAGES)
    found = points(calls, "convs")
    # What decodes the boxes' distribution is no part of training.
    every = [m for m in whole.modules() if isinstance(m, nn.Conv2d) and m.weight.requires_grad]
    held = [[m for m in unit.modules() if isinstance(m, nn.Conv2d)] for unit in found.values()]
    assert {len(convs) for convs in held} == {1}
    assert {convs[0] for convs in held} == set(every)
    assert list(found) == sorted(found)
    names = {which: list(points(calls, which)) for which in ("blocks", "convs", "model.2.*cv1")}
    for change in ({"shortcut": "none", "norm": "none", "act": "relu"}, {"shortcut": "gated"}):
        changed = calls_of(built(name, **change), IMAGES)
        assert {which: list(points(changed, which)) for which in names} == names, change
    chained = built(name, shortcut="chain")
    assert list(chained.backbone_layers()) == list(whole.backbone_layers())
    assert list(choose_layers(chained.net)) == list(whole.backbone_layers())
    chain = calls_of(chained, IMAGES)
    assert list(points(chain, "blocks")) == names["blocks"]
    assert len(points(chain, "convs")) <= len(names["convs"])  # the bypasses in a C3k are gone


def test_a_block_with_another_shortcut_is_measured_behind_it() -> None:
    net = strip(nn.Sequential(block("Bottleneck", 8, 8)), shortcut="gated")
    calls = calls_of(net, torch.rand(1, 8, 4, 4))
    assert list(points(calls, "convs")) == ["000_0.cv1", "001_0.cv2"]
    assert points(calls, "blocks") == {"000_0": net[0]}


def test_our_own_network_and_a_pattern() -> None:
    model = build_model(ModelConfig(depths=(1, 1, 1, 1)), ("a", "b")).model
    calls = calls_of(model, IMAGES)
    assert [name[4:] for name in points(calls, "convs")][:4] == [
        "backbone.stem", "backbone.p2_down", "backbone.p2_0.conv1", "backbone.p2_0.conv2",
    ]  # fmt: skip
    assert list(points(calls, "neck.lateral.?")) == [f"00{n}_neck.lateral.{n}" for n in range(3)]
    with pytest.raises(UserError, match=r"points=model\.2: no module of this network"):
        points(calls, "model.2")


@pytest.mark.parametrize("freeze", ["none", "backbone"])
def test_what_is_recorded_inside_is_plain_autograd_and_v_is_the_trunks(freeze: str) -> None:
    model, alone = built("yolo11n.yaml", freeze=freeze), built("yolo11n.yaml", freeze=freeze)
    inside = points_inside(model, "convs")
    assert model.training
    recorder = GradientRecorder(model.backbone_layers(), inside=inside)
    only = GradientRecorder(alone.backbone_layers())
    outputs: dict[str, Tensor] = {}

    def kept(name: str) -> Callable[..., None]:
        def hook(module: nn.Module, inputs: object, output: Tensor) -> None:
            if output.requires_grad:
                output.retain_grad()
                outputs[name] = output

        return hook

    with recorder, only:
        for name, module in inside.items():
            module.register_forward_hook(kept(name))
        backward(model), backward(alone)
    row, expected = recorder.measure(), only.measure()
    norms = {
        f"point_activation_grad/{name}": float(out.grad.double().norm()) for name, out in outputs.items()
    }  # type: ignore[union-attr]
    weights = {
        f"point_weight_grad/{name}": float(conv.weight.grad.double().norm())
        for name, unit in inside.items()
        for conv in unit.modules()
        if isinstance(conv, nn.Conv2d) and conv.weight.grad is not None
    }
    assert {key: value for key, value in row.items() if "point_" in key} == pytest.approx(
        norms | weights, rel=1e-5
    )
    assert {key: value for key, value in row.items() if "point_" not in key} == expected
    assert len(norms) == len(inside)
    assert len(weights) == sum(any(p.requires_grad for p in unit.parameters()) for unit in inside.values())


def test_a_norm_before_an_activation_in_place_can_be_watched_in_a_frozen_trunk() -> None:
    model = built("yolo26n.yaml", freeze="backbone")
    inside = points_inside(model, "model.0*.bn")
    with GradientRecorder(model.backbone_layers(), inside=inside) as recorder:
        backward(model)
    assert not any("point_" in key for key in recorder.measure())


class Shared(nn.Module):
    """One layer that is used twice, one that is never used, and one before it that is defined behind it."""

    def __init__(self) -> None:
        super().__init__()
        self.twice, self.never = nn.Linear(4, 4), nn.Linear(4, 4)
        self.last, self.first = nn.Linear(4, 1), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.last(self.twice(self.twice(self.first(x))))
        return out


def test_any_module_has_points_in_the_order_of_its_forward_pass() -> None:
    found = points(calls_of(Shared(), torch.ones(2, 4)), "convs")
    assert list(found) == ["000_first", "001_twice", "002_last"]
