"""Networks of ultralytics behind our interface, against ultralytics' own forward pass, loss and decoding."""

import json
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest import mock

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import ModelConfig, TrainConfig
from detector.errors import UserError
from detector.gradients.recorder import GradientRecorder
from detector.models import weights, yolo
from detector.models.base import DetectionModel
from detector.models.build import build_model, load_model, rebuild
from detector.models.decode import decode
from detector.models.loss import DetectionLoss
from detector.models.yolo import YoloModel
from detector.runtime.ultralytics_import import import_ultralytics
from tests.training.harness import create_state

NAMES = ("RBC", "WBC", "Platelets")
TARGETS = {
    "batch_idx": torch.tensor([0.0, 0.0, 1.0]),
    "cls": torch.tensor([2.0, 0.0, 1.0]),
    "bboxes": torch.tensor([[0.5, 0.5, 0.4, 0.6], [0.2, 0.3, 0.2, 0.2], [0.7, 0.6, 0.5, 0.3]]),
}
IMAGES = torch.rand(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))


def built_anew(name: str, **model: object) -> YoloModel:
    torch.manual_seed(0)
    made = build_model(ModelConfig(pretrained=name, **model), NAMES).model  # type: ignore[arg-type]
    assert isinstance(made, YoloModel)
    return made


def built(name: str, **model: object) -> YoloModel:
    """The same, but what ultralytics builds before anything is stripped is copied if it was built before."""
    with mock.patch.object(yolo, "_build", _build_once):
        return built_anew(name, **model)


_BUILD = yolo._build
_NETWORKS: dict[tuple[str, int | None, bytes], tuple[nn.Module, Tensor]] = {}


def _build_once(description: Mapping[str, Any], numbers: int | None) -> nn.Module:
    """`_build`, once for each description and each state of the generator that it draws from."""
    key = json.dumps(description), numbers, torch.get_rng_state().numpy().tobytes()
    if key not in _NETWORKS:
        _NETWORKS[key] = _BUILD(description, numbers), torch.get_rng_state()
    net, after = _NETWORKS[key]
    torch.set_rng_state(after)
    modules = import_ultralytics("nn.modules")
    kinds = (modules.Conv, modules.ConvTranspose, modules.RepConv)
    # All their networks share one activation, and a copy does too.
    return deepcopy(net, {id(kind.default_act): kind.default_act for kind in kinds})


def published(folder: Path, name: str, classes: tuple[str, ...]) -> tuple[Path, nn.Module]:
    """A file of weights in ultralytics' format, with random weights, and the network in it."""
    torch.manual_seed(1)
    net = import_ultralytics("nn.tasks").DetectionModel(f"{name}.yaml", nc=len(classes), verbose=False)
    net.names = dict(enumerate(classes))
    file = folder / f"{name}.pt"
    torch.save({"model": net.half(), "ema": None, "train_args": {"imgsz": 320}, "date": "today"}, file)
    return file, net.float()


@pytest.mark.parametrize(
    "name", ["yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml", "yolov10n.yaml"]
)
def test_the_loss_and_its_gradient_are_those_of_ultralytics(name: str) -> None:
    ours, theirs = built(name), built(name)
    loss_fn = DetectionLoss(ours, TrainConfig(), epochs=10)
    loss_fn.begin_epoch(0)
    loss = loss_fn(ours(IMAGES), TARGETS)
    loss.total.backward()

    theirs.net.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=10)  # type: ignore[assignment]
    expected, items = theirs.net({"img": IMAGES, **TARGETS})
    expected.sum().backward()

    assert torch.equal(loss.total, expected.sum())
    assert torch.equal(loss.parts, torch.stack(list(items.values())))
    for (key, p), q in zip(ours.net.named_parameters(), theirs.net.parameters(), strict=True):
        assert (p.grad is None and q.grad is None) or torch.equal(p.grad, q.grad), key  # type: ignore[arg-type]


def test_the_weights_of_two_heads_are_those_of_ultralytics_at_every_epoch() -> None:
    model = built("yolo26n.yaml")
    loss_fn, reference = DetectionLoss(model, TrainConfig(), epochs=5), None
    namespace = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5, epochs=5)
    model.net.args = namespace  # type: ignore[assignment]
    reference = import_ultralytics("utils.loss").E2ELoss(model.net)
    for epoch in range(5):
        loss_fn.begin_epoch(epoch)
        loss_fn.begin_epoch(epoch)  # a resumed run, or one with many steps an epoch, asks more than once
        assert loss_fn._loss.o2m == pytest.approx(reference.o2m)
        assert loss_fn._loss.o2o == pytest.approx(reference.o2o)
        reference.update()  # as their trainer does at the end of each epoch


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n.yaml", "yolo26n.yaml"])
def test_decoding_is_that_of_ultralytics(name: str) -> None:
    model = built(name).eval()
    with torch.no_grad():
        for head in model.modules():  # spread the scores, so that an order exists
            if isinstance(head, nn.BatchNorm2d):
                head.weight.uniform_(0.5, 1.5)
        boxes, scores = decode(model(IMAGES), model.strides)
        model.head.training = False
        model.head.xyxy = True
        raw, _ = model.net(IMAGES)
    torch.testing.assert_close(boxes, raw[:, :4].transpose(1, 2), rtol=1e-4, atol=1e-3)
    torch.testing.assert_close(scores, raw[:, 4:].transpose(1, 2))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["yolov8n", "yolo26n"])
def test_pretrained_weights_are_kept_wherever_their_shape_fits(tmp_path: Path, name: str) -> None:
    file, net = published(tmp_path, name, ("cat", "WBC", "dog", "bird", "RBC"))
    model, origin = build_model(ModelConfig(pretrained=str(file)), NAMES)
    given = {f"net.{key}": value for key, value in net.state_dict().items()}
    state, last = model.state_dict(), model.class_layers()
    for key, value in state.items():
        if key.rpartition(".")[0] in last:
            assert torch.equal(value[0], given[key][4])  # RBC
            assert torch.equal(value[1], given[key][1])  # WBC
            assert value.shape[0] == 3
        else:  # also the class branches' hidden layers, whose width depends on the number of classes
            assert torch.equal(value, given[key]), key
    new = 2 * len(last)
    assert f"{len(state) - new} of {len(state)} tensors kept" in origin
    assert "RBC, WBC kept" in origin
    assert len(last) == (6 if model.end2end else 3)


@pytest.mark.slow
def test_the_same_classes_keep_everything(tmp_path: Path) -> None:
    file, net = published(tmp_path, "yolov8n", NAMES)
    model, origin = build_model(ModelConfig(pretrained=str(file)), NAMES)
    assert all(torch.equal(model.state_dict()[f"net.{k}"], v) for k, v in net.state_dict().items())
    assert origin.endswith("355 of 355 tensors kept")
    loaded = load_model(file)
    assert (loaded.names, loaded.image_size) == (NAMES, 320)
    with torch.no_grad():
        assert torch.equal(loaded.model(IMAGES)["boxes"], model.eval()(IMAGES)["boxes"])


def test_a_file_of_weights_cannot_run_code(tmp_path: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return exec, (f"open({str(tmp_path / 'ran')!r}, 'w')",)

    torch.save({"model": Payload(), "ema": None}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt"):
        build_model(ModelConfig(pretrained=str(tmp_path / "evil.pt")), NAMES)
    assert not (tmp_path / "ran").exists()


def test_a_description_cannot_run_code(tmp_path: Path) -> None:
    text = (
        f"nc: 2\nactivation: open({str(tmp_path / 'ran')!r}, 'w') and torch.nn.SiLU()\n"
        "backbone:\n  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n"
    )
    (tmp_path / "net.yaml").write_text(text)
    with pytest.raises(UserError, match="cannot build"):
        build_model(ModelConfig(pretrained=str(tmp_path / "net.yaml")), NAMES)
    assert not (tmp_path / "ran").exists()


def test_only_what_ultralytics_itself_describes_may_be_large() -> None:
    """Another width, and it is a stranger's."""
    theirs = weights.read_description("yolov5x-p6.yaml")
    assert weights.comes_with_ultralytics(theirs | {"nc": 3})
    assert not weights.comes_with_ultralytics(theirs | {"width_multiple": 2})
    assert not weights.comes_with_ultralytics(theirs | {"scales": {"x": [1, 2, 1024]}})


@pytest.mark.parametrize(
    ("name", "problem"),
    [
        ("nowhere/best.pt", "there is no such file"),
        ("yolov8q.yaml", "there is no such file"),
        ("yolov8n-seg.yaml", "its head is Segment"),
    ],
)
def test_what_cannot_be_had_is_said(name: str, problem: str) -> None:
    with pytest.raises(UserError, match=problem):
        build_model(ModelConfig(pretrained=name), NAMES)


def test_without_a_network_the_configuration_that_needs_none_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(url: str, file: Path, **_: object) -> None:
        raise ValueError("no network")

    monkeypatch.setattr(weights, "WEIGHTS", tmp_path)
    monkeypatch.setattr(weights, "download", unreachable)
    with pytest.raises(UserError, match=r"no network; .*configs/from_scratch\.yaml"):
        weights.find("yolo26x.pt")


def test_a_broken_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "broken.pt").write_bytes(b"PK\x03\x04 not a checkpoint")
    with pytest.raises(UserError, match=r"broken\.pt: not a readable checkpoint"):
        build_model(ModelConfig(pretrained=str(tmp_path / "broken.pt")), NAMES)


def test_every_layer_of_the_backbone_is_recorded() -> None:
    model = built("yolo26n.yaml")
    state = create_state(model, TrainConfig(device="cpu"))
    recorder = GradientRecorder(model.backbone_layers())
    recorder.begin()
    state.train_mode()
    output = model(IMAGES)
    DetectionLoss(model, TrainConfig(), epochs=1)(output, TARGETS).total.backward()
    recorder.gradients()
    record = recorder.end()
    names = list(model.backbone_layers())
    assert names[:3] == ["00_0.conv", "01_1.conv", "02_2.c3k2"]
    assert [key for key in record if key.startswith("activation_grad/")] == [
        f"activation_grad/{n}" for n in names
    ]
    assert all(record[f"weight_grad/{name}"] > 0 for name in names)


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("yolov8n.yaml", {"p3": "04_4.c2f", "p4": "06_6.c2f", "p5": "09_9.sppf"}),
        ("yolo12n.yaml", {"p3": "04_4.c3k2", "p4": "06_6.a2c2f", "p5": "08_8.a2c2f"}),
        ("yolo26n.yaml", {"p3": "04_4.c3k2", "p4": "06_6.c3k2", "p5": "10_10.c2psa"}),
    ],
)
def test_the_levels_end_where_the_strides_say(name: str, ends: dict[str, str]) -> None:
    model = built(name)
    assert model.level_ends() == ends
    sizes: dict[str, int] = {}
    for level, layer in ends.items():
        module = model.backbone_layers()[layer]
        module.register_forward_hook(lambda *io, level=level: sizes.update({level: io[2].shape[-1]}))
    model(IMAGES)
    assert sizes == {"p3": 64 // 8, "p4": 64 // 16, "p5": 64 // 32}


@pytest.mark.parametrize(("freeze", "frozen"), [("backbone", 10), (3, 3), ("none", 0)])
def test_freezing(freeze: object, frozen: int) -> None:
    model = built("yolov8n.yaml", freeze=freeze)
    layers = list(model.net.model)  # type: ignore[arg-type]
    state = [any(p.requires_grad for p in layer.parameters()) for layer in layers if list(layer.parameters())]
    assert state == [False] * frozen + [True] * (len(state) - frozen)


def test_the_architecture_survives_a_checkpoint() -> None:
    model = built("yolo26n.yaml")
    again = rebuild(model.architecture(), len(NAMES))
    assert {k: v.shape for k, v in again.state_dict().items()} == {
        k: v.shape for k, v in model.state_dict().items()
    }
    again.load_state_dict(model.state_dict())
    with torch.no_grad():
        assert torch.equal(model.eval()(IMAGES)["boxes"], again.eval()(IMAGES)["boxes"])


def test_evaluating_and_training_switch_the_layers_but_not_the_heads_output() -> None:
    model = built("yolov8n.yaml")
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    model.eval()
    assert not any(norm.training for norm in norms)
    assert set(model(IMAGES)) == {"boxes", "scores", "feats"}
    model.train()
    assert all(norm.training for norm in norms)


def test_every_model_says_what_the_engine_needs() -> None:
    compact = build_model(ModelConfig(depths=(1, 1, 1, 1)), NAMES).model
    for model in (compact, built("yolov8n.yaml")):
        assert isinstance(model, DetectionModel)
        assert model.strides == (8, 16, 32)
        assert model.class_layers() <= {key.rpartition(".")[0] for key in model.state_dict()}
        assert len(model.class_layers()) == 3
        assert all(model.get_submodule(name).out_channels == 3 for name in model.class_layers())
