"""A stored network of ultralytics is what predicts, is trained, kept and exported, or it is refused."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from torch import nn

from detector.config.schema import ModelConfig
from detector.errors import UserError
from detector.models.base import DetectionModel
from detector.models.build import build_model, load_model, rebuild
from detector.models.yolo import YoloModel
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.export.ultralytics_file import export_ultralytics
from tests.checkpoints import confident, save

NAMES = ("cat", "dog")
IMAGES = torch.rand(2, 3, 64, 96, generator=torch.Generator().manual_seed(1))
Change = Callable[[Any], None]  # of the list of layers


DESCRIPTION = """
nc: 2
backbone:
  - [-1, 1, Conv, [8, 3, 2]]     # 0, stride 2
  - [-1, 1, Conv, [8, 3, 2]]     # 1, 4
  - [-1, 1, Conv, [16, 3, 2]]    # 2, 8
  - [-1, 1, C2f, [16, True]]     # 3
  - [-1, 1, Conv, [128, 3, 2]]   # 4, 16
  - [-1, 1, SPPF, [128, 5]]      # 5
  - [-1, 1, C2PSA, [128]]        # 6
  - [-1, 1, A2C2f, [64, True, 1]]  # 7
head:
  - [-1, 1, nn.Upsample, [None, 2, nearest]]  # 8
  - [[-1, 3], 1, Concat, [1]]    # 9
  - [-1, 1, C2f, [16]]           # 10
  - [[10, 7], 1, Detect, [nc]]
"""


def network(two_heads: bool = False) -> Any:
    """A small one of each kind of layer, with running statistics that keep its signals in range."""
    torch.manual_seed(1)
    description = yaml.safe_load(DESCRIPTION) | ({"end2end": True} if two_heads else {})
    net = import_ultralytics("nn.tasks").DetectionModel(description, verbose=False)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None
    net.train()(IMAGES)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 0.03
    net.names = dict(enumerate(NAMES))
    return net


def saved(net: Any, path: Path) -> Path:
    torch.save({"model": net, "ema": None, "version": "8.3.78", "train_args": {"imgsz": 320}}, path)
    return path


def answer(net: Any) -> dict[str, torch.Tensor]:
    """What ultralytics computes with a network."""
    net.eval()
    net.model[-1].training = True
    with torch.no_grad():
        raw = net(IMAGES)
    raw = raw.get("one2many", raw)  # of two heads, the usual one
    return {key: raw[key] for key in ("boxes", "scores")}


def both(*changes: Change) -> Change:
    def change(layers: Any) -> None:
        for one in changes:
            one(layers)

    return change


def put(index: int, path: str, value: Any) -> Change:
    """Set an attribute below a layer: `cv1.act` of layer 9."""

    def change(layers: Any) -> None:
        parent, _, own = path.rpartition(".")
        setattr(layers[index].get_submodule(parent), own, value)

    return change


CHANGES: dict[str, tuple[Change, dict[str, dict[str, Any]]]] = {
    # Ultralytics' own 8.4.7 wrote this one for every network with an SPPF.
    "an activation": (put(5, "cv1.act", nn.Identity()), {"model.5.cv1.act": {"class": "Identity"}}),
    "its slope": (
        put(3, "cv2.act", nn.LeakyReLU(0.3)),
        {"model.3.cv2.act": {"class": "LeakyReLU", "negative_slope": 0.3}},
    ),
    "an epsilon": (put(0, "bn.eps", 0.5), {"model.0.bn": {"eps": 0.5}}),
    "a momentum": (put(0, "bn.momentum", 0.5), {"model.0.bn": {"momentum": 0.5}}),
    "a shortcut": (put(3, "m.0.add", False), {"model.3.m.0": {"add": False}}),
    "a pool": (
        both(put(5, "m.kernel_size", 3), put(5, "m.padding", 1)),
        {"model.5.m": {"kernel_size": 3, "padding": 1}},
    ),
    "an interpolation": (put(8, "mode", "bilinear"), {"model.8": {"mode": "bilinear"}}),
    "a scale": (put(6, "m.0.attn.scale", 0.5), {"model.6.m.0.attn": {"scale": 0.5}}),
    "an area": (put(7, "m.0.0.attn.area", 4), {"model.7.m.0.0.attn": {"area": 4}}),
    "nothing": (lambda layers: None, {}),
}


def same(model: DetectionModel, expected: dict[str, torch.Tensor]) -> bool:
    with torch.no_grad():
        found = model.eval()(IMAGES)
    return all(torch.equal(found[key], value) for key, value in expected.items())


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_stored_is_what_runs(tmp_path: Path, name: str) -> None:
    change, expected = CHANGES[name]
    net = network()
    plain = answer(net)["scores"]
    change(net.model)
    file, theirs = saved(net, tmp_path / "strangers.pt"), answer(net)
    assert torch.equal(theirs["scores"], plain) == (name in ("nothing", "a momentum"))
    loaded = load_model(file).model
    architecture = loaded.architecture()
    assert architecture.get("settings", {}) == expected and same(loaded, theirs)
    kept = rebuild(architecture, len(NAMES))  # as from a checkpoint of a run
    kept.load_state_dict(loaded.state_dict())
    assert same(kept, theirs)
    assert kept.get_submodule("net.model.0.bn").momentum == net.model[0].bn.momentum


@pytest.mark.slow
@pytest.mark.parametrize("two_heads", [False, True])
def test_it_goes_on_into_training_and_export(tmp_path: Path, two_heads: bool) -> None:
    net = network(two_heads)
    both(*(change for change, _ in CHANGES.values()))(net.model)
    file, theirs = saved(net, tmp_path / "strangers.pt"), answer(net)
    trained = build_model(ModelConfig(pretrained=str(file)), NAMES).model
    assert same(trained, theirs)
    for names in (NAMES, ("a", "b", "c")):
        other = build_model(ModelConfig(pretrained=str(file)), names).model
        assert other.architecture() == trained.architecture()
        assert isinstance(other.get_submodule("net.model.5.cv1.act"), nn.Identity)
    export_ultralytics(trained, NAMES, tmp_path / "again.pt", image_size=64)
    assert same(load_model(tmp_path / "again.pt").model, theirs)
    (result,) = (
        import_ultralytics("models")
        .YOLO(str(tmp_path / "again.pt"))
        .predict(np.zeros((64, 64, 3), np.uint8), imgsz=64, verbose=False, save=False, device="cpu")
    )
    assert [*result.names.values()] == [*NAMES]


def test_reading_a_network_draws_no_random_numbers(tmp_path: Path) -> None:
    file = saved(network(), tmp_path / "strangers.pt")
    before = torch.get_rng_state()
    load_model(file)
    assert torch.equal(torch.get_rng_state(), before)


def older_attention(layers: Any) -> None:
    """As YOLOv12's authors published it: queries and keys in one convolution, values in another."""
    conv = import_ultralytics("nn.modules").Conv
    attention = layers[7].m[0][0].attn
    width = attention.num_heads * attention.head_dim
    attention.qk, attention.v = conv(width, 2 * width, 1, act=False), conv(width, width, 1, act=False)
    del attention.qkv


def pool_before(layers: Any) -> None:
    old = layers[5]
    new = import_ultralytics("nn.modules").SPP(old.cv1.conv.in_channels, old.cv2.conv.out_channels)
    new.i, new.f, new.type = old.i, old.f, old.type
    layers[5] = new


REFUSED: dict[str, tuple[Change, str]] = {
    "a layer of a fork": (older_attention, r"layer model\.7\.m\.0\.0\.attn\.qkv.* \(in A2C2f\)"),
    "another kind of layer": (pool_before, r"layer model\.5 is SPP, and SPPF in its description"),
    "another kind within": (put(3, "cv1", nn.Identity()), r"layer model\.3\.cv1 is Identity, and Conv"),
    "another input": (put(9, "f", [3, -1]), r"layer model\.9 \(Concat\) does something else than its desc"),
    "other widths": (
        put(0, "conv", nn.Conv2d(3, 4, 3, 2, 1, bias=False)),
        r"model\.0\.conv \(in Conv\)",
    ),
    "a factor": (put(8, "scale_factor", 4000.0), r"layer model\.8 has scale_factor set to 4000"),
    "a padding": (put(3, "cv1.conv.padding", (32, 32)), r"\(C2f\) cannot be run: its Conv2d gives more"),
    "strides": (lambda layers: layers[-1].stride.mul_(2), "other strides"),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_something_else_is_refused_by_its_layer(tmp_path: Path, name: str) -> None:
    change, words = REFUSED[name]
    net = network()
    change(net.model)
    file = saved(net, tmp_path / "strangers.pt")
    for read in (lambda: load_model(file), lambda: build_model(ModelConfig(pretrained=str(file)), NAMES)):
        with pytest.raises(UserError, match=words) as caught:
            read()
        assert "written by ultralytics 8.3.78 or by a fork" in str(caught.value)


@pytest.mark.parametrize(
    ("kind", "name", "head"),
    [
        ("OBBModel", "yolov8n-obb.yaml", "OBB"),
        ("SegmentationModel", "yolov8n-seg.yaml", "Segment"),
        ("PoseModel", "yolov8n-pose.yaml", "Pose"),
        ("ClassificationModel", "yolov8n-cls.yaml", "Classify"),
    ],
)
def test_a_network_for_another_task_is_refused_by_its_head(
    tmp_path: Path, kind: str, name: str, head: str
) -> None:
    net = getattr(import_ultralytics("nn.tasks"), kind)(name, nc=2, verbose=False)
    net.names = dict(enumerate(NAMES))
    file = saved(net.half(), tmp_path / "strangers.pt")
    for read in (lambda: load_model(file), lambda: build_model(ModelConfig(pretrained=str(file)), NAMES)):
        with pytest.raises(UserError, match=rf"strangers\.pt: its head is {head}; only detection networks"):
            read()


class Call:
    """What a pickle restores by calling a class, as only a stranger's own does."""

    def __init__(self, kind: Any, *arguments: Any) -> None:
        self.call = kind, arguments

    def __reduce__(self) -> Any:
        return self.call


def hostile(name: str) -> Any:
    if name == "bytearray":
        return Call(bytearray, 10**11)
    modules = import_ultralytics("nn.modules")
    return {
        "a linear layer": Call(nn.Linear, 10**6, 10**6),
        "a convolution": Call(modules.Conv, 10**5, 10**5),
        "a layer that downloads": Call(modules.TorchVision, 512, "resnet18", "DEFAULT"),
    }[name]


@pytest.mark.parametrize("name", ["bytearray", "a linear layer", "a convolution", "a layer that downloads"])
def test_no_file_makes_the_reader_construct_anything(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It would allocate terabytes, or ask the network for weights."""

    def connect(*_: object, **__: object) -> None:
        raise AssertionError("a connection was opened")

    monkeypatch.setattr("socket.socket.connect", connect)
    file = tmp_path / "strangers.pt"
    for place in ("model", "ema"):
        torch.save({"model": network(), "ema": None, place: hostile(name)}, file)
        with pytest.raises(UserError, match="not a readable checkpoint"):
            load_model(file)
        load_model(saved(network(), tmp_path / "good.pt"))  # and the next file is read as ever


def test_weights_that_are_not_finite_are_refused(tmp_path: Path) -> None:
    net = network()
    net.model[3].cv1.conv.weight.data[0, 0, 0, 0] = torch.nan
    file = saved(net, tmp_path / "strangers.pt")
    model = confident()
    model.get_submodule("head.cls.0.2").bias.data[0] = torch.inf
    own = save(model, tmp_path / "best.pt")
    for path, layer in ((file, r"net\.model\.3\.cv1\.conv"), (own, r"head\.cls\.0\.2")):
        for read in (load_model, lambda path: build_model(ModelConfig(pretrained=str(path)), NAMES)):
            with pytest.raises(UserError, match=rf"{path.name}: the weights of {layer} are not finite"):
                read(path)


@pytest.mark.parametrize(
    "settings",
    [
        {"model.3.cv1.conv": {"padding": [32, 32]}},
        {"model.8": {"scale_factor": 1e9}},
        {"model.0.bn": {"eps": float("nan")}},
        {"model.5.cv1.act": {"class": "Module"}},
        {"model.99": {"f": 1}},
        {"model.0": [1]},
        ["model.0"],
        {"model.0": {"class": "Identity", "forward": 1}},
    ],
    ids=str,
)
def test_settings_of_a_checkpoint_that_lie(settings: dict[str, dict[str, Any]]) -> None:
    with pytest.raises(
        UserError, match=r"model\.pretrained: the network cannot be built: .*(layer model\.|no attr)"
    ):
        YoloModel(network().yaml, len(NAMES), settings)
