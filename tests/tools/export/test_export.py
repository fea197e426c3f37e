"""Exported files compute what the network computes, in the programs they are made for."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torchvision.ops import batched_nms

from detector.config.schema import ModelConfig
from detector.data.geometry import letterbox
from detector.errors import UserError
from detector.models.build import load_model
from detector.models.yolo import YoloModel
from detector.predictor import Predictor
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.export.graphs import Network, compare, export_onnx, export_torchscript, new_file
from detector.tools.export.ultralytics_file import export_ultralytics
from tests.checkpoints import NAMES, confident, picture, save

pytestmark = pytest.mark.slow

SIZE = 64
YOLOS = ["yolov8n.yaml", "yolo26n.yaml"]  # one head, and two


def network_input(size: int, seed: int = 0) -> NDArray[np.float32]:
    """(1, 3, size, size) of a letterboxed picture."""
    square, _ = letterbox(picture(seed), size)
    return np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / 255


@pytest.fixture(scope="module")
def dynamic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("onnx") / "tiny.onnx"
    export_onnx(confident(), NAMES, path, image_size=SIZE, dynamic=True)
    return path


@pytest.mark.slow
def test_onnx_runs_at_any_batch_and_size(dynamic: Path) -> None:
    import onnxruntime

    session = onnxruntime.InferenceSession(str(dynamic), providers=["CPUExecutionProvider"])
    assert [entry.name for entry in session.get_inputs()] == ["images"]
    assert [(entry.name, entry.shape) for entry in session.get_outputs()] == [
        ("boxes", ["batch", "anchors", 4]),
        ("scores", ["batch", "anchors", 3]),
    ]
    network = Network(confident())
    for shape in ((1, 3, 64, 64), (3, 3, 96, 32), (2, 3, 32, 160)):
        images = torch.rand(shape)
        boxes, scores = session.run(None, {"images": images.numpy()})
        with torch.no_grad():
            expected_boxes, expected_scores = network(images)
        np.testing.assert_allclose(boxes, expected_boxes.numpy(), atol=1e-3)
        np.testing.assert_allclose(scores, expected_scores.numpy(), atol=1e-4)


@pytest.mark.slow
def test_onnx_says_how_to_use_it(dynamic: Path) -> None:
    import onnx

    proto = onnx.load(dynamic)
    facts = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(facts["names"]) == list(NAMES)
    assert json.loads(facts["image_size"]) == SIZE
    assert json.loads(facts["strides"]) == [8, 16, 32]
    assert json.loads(facts["nms"]) is True
    assert proto.opset_import[0].version == 18


@pytest.mark.slow
def test_onnx_and_suppression_are_what_predict_finds(dynamic: Path, tmp_path: Path) -> None:
    import onnxruntime

    checkpoint = save(confident(), tmp_path / "tiny.pt", image_size=SIZE)
    image = picture(5)
    expected = Predictor(checkpoint)(image)
    assert len(expected.boxes) > 3
    # As a program in production would do it, with nothing of this project but the letterbox.
    square, box = letterbox(image, SIZE)
    session = onnxruntime.InferenceSession(str(dynamic), providers=["CPUExecutionProvider"])
    inputs = np.ascontiguousarray(square.transpose(2, 0, 1)[None], np.float32) / 255
    boxes, scores = (torch.from_numpy(output[0]) for output in session.run(None, {"images": inputs}))
    score, label = scores.max(1)
    sure = score > 0.25
    boxes, score, label = boxes[sure], score[sure], label[sure]
    keep = batched_nms(boxes, score, label, 0.7)
    np.testing.assert_allclose(expected.boxes, box.to_original(boxes[keep].numpy()), atol=1e-3)
    np.testing.assert_allclose(expected.scores, score[keep].numpy(), atol=1e-5)
    assert expected.classes.tolist() == label[keep].tolist()


@pytest.mark.slow
def test_onnx_of_a_network_with_two_heads(tmp_path: Path) -> None:
    import onnxruntime

    model = confident(ModelConfig(pretrained="yolo26n.yaml"))
    path = tmp_path / "yolo26.onnx"
    export_onnx(model, NAMES, path, image_size=128, batch=2)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [2, 3, 128, 128]
    assert session.get_outputs()[0].shape == [2, 336, 4]
    images = np.concatenate((network_input(128, 1), network_input(128, 2)))
    with torch.no_grad():
        for found, expected in zip(
            session.run(None, {"images": images}), Network(model)(torch.from_numpy(images)), strict=True
        ):
            np.testing.assert_allclose(found, expected.numpy(), atol=1e-3)


@pytest.mark.parametrize("missing", ["onnx", "onnxruntime", "onnxscript"])
def test_a_missing_package_is_named(missing: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, missing, None)
    with pytest.raises(UserError, match=rf"{missing}.*pip install '\.\[export\]'"):
        export_onnx(confident(), NAMES, tmp_path / "x.onnx", image_size=SIZE)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
@pytest.mark.parametrize("config", [None, *YOLOS])
def test_torchscript(config: str | None, tmp_path: Path) -> None:
    model = confident() if config is None else confident(ModelConfig(pretrained=config))
    path = tmp_path / "net.torchscript"
    export_torchscript(model, NAMES, path, image_size=SIZE)
    extra = {"metadata.json": ""}
    loaded = torch.jit.load(str(path), _extra_files=extra)
    assert json.loads(extra["metadata.json"])["names"] == list(NAMES)
    for shape in ((1, 3, 64, 64), (2, 3, 96, 160)):
        images = torch.rand(shape)
        with torch.no_grad():
            for found, expected in zip(loaded(images), Network(model)(images), strict=True):
                torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_torchscript_does_not_keep_the_device_it_was_traced_on(tmp_path: Path) -> None:
    # On a GPU, a tensor that the trace moves to the CPU would fail. It may be made there, and follow others.
    path = tmp_path / "net.torchscript"
    export_torchscript(confident(), NAMES, path, image_size=SIZE)
    nodes = list(torch.jit.load(str(path)).inlined_graph.nodes())
    assert {"aten::arange", "aten::type_as"} <= {node.kind() for node in nodes}
    for node in nodes:
        if node.kind() == "aten::to":
            assert "Device" not in {str(value.type()) for value in node.inputs()}


@pytest.mark.parametrize("config", YOLOS)
def test_ultralytics_opens_the_file_and_finds_the_same(config: str, tmp_path: Path) -> None:
    model = confident(ModelConfig(pretrained=config))
    exported = tmp_path / "net.pt"
    export_ultralytics(model, NAMES, exported, image_size=128)
    mine = Predictor(save(model, tmp_path / "checkpoint.pt", image_size=128))
    yolo = import_ultralytics("models").YOLO(str(exported))
    assert list(yolo.names.values()) == list(NAMES)
    # Sizes that need no resizing, so that no interpolation differs; with even and with odd padding.
    square, _ = letterbox(picture(1), 128)
    for image in (square, square[16:112], square[16:111]):
        found = mine(image)
        (result,) = yolo.predict(
            image[..., ::-1],  # BGR, as OpenCV reads
            rect=False,
            conf=0.25,
            iou=0.7,
            verbose=False,
            save=False,
            device="cpu",
        )
        boxes, scores = result.boxes.xyxy.numpy(), result.boxes.conf.numpy()
        labels = result.boxes.cls.numpy().astype(np.int64)
        real = (boxes[:, 2:] > boxes[:, :2]).all(1)  # the others are left out here, on purpose
        assert len(found.boxes) > 1
        np.testing.assert_allclose(found.boxes, boxes[real], atol=0.01)
        np.testing.assert_allclose(found.scores, scores[real], atol=1e-4)
        assert found.classes.tolist() == labels[real].tolist()


def test_a_head_with_other_classes_survives_the_round_trip(tmp_path: Path) -> None:
    # The hidden width of its class branches was made for 80 classes, and stays so.
    from detector.models.weights import read_description

    torch.manual_seed(0)
    model = YoloModel(read_description("yolov8n.yaml") | {"nc": 80}, 3).eval()
    export_ultralytics(model, NAMES, tmp_path / "net.pt", image_size=64)
    loaded = load_model(tmp_path / "net.pt")
    assert loaded.names == NAMES
    assert loaded.image_size == 64
    images = torch.from_numpy(network_input(64))
    with torch.no_grad():
        torch.testing.assert_close(loaded.model(images)["scores"], model(images)["scores"], rtol=0, atol=0)


def test_the_compact_detector_is_nothing_for_ultralytics(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="use --format onnx"):
        export_ultralytics(confident(), NAMES, tmp_path / "x.pt", image_size=SIZE)
    assert not list(tmp_path.iterdir())


def test_a_file_that_disagrees_is_refused() -> None:
    network, images = Network(confident()), [network_input(SIZE), network_input(SIZE, 1)]

    def run(factor: float, offset: float) -> object:
        def outputs(inputs: NDArray[np.float32]) -> list[NDArray[np.float32]]:
            with torch.no_grad():
                boxes, scores = network(torch.from_numpy(inputs))
            return [(boxes + offset).numpy(), (scores * factor).numpy()]

        return outputs

    difference = compare(network, run(1, 0.003), images)
    assert difference.boxes == pytest.approx(0.003, rel=0.01)
    assert difference.scores == 0
    for factor, offset in ((1.1, 0), (1, 0.1), (1, np.nan), (np.nan, 0)):
        with pytest.raises(UserError, match="does not agree"):
            compare(network, run(factor, offset), images)
    with pytest.raises(UserError, match="shape"):
        compare(network, lambda inputs: [np.zeros((1, 3, 4)), np.zeros((1, 3, 3))], images)


def test_weights_that_are_not_finite_are_named(tmp_path: Path) -> None:
    model = confident()
    model.head.cls[0][2].bias.data[0] = torch.nan
    with pytest.raises(UserError, match="not finite"):
        compare(Network(model), lambda inputs: [], [network_input(SIZE)])


def test_a_file_appears_only_when_all_went_well(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.onnx"
    with pytest.raises(RuntimeError), new_file(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert not list(path.parent.iterdir())
    with new_file(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists()
    assert [p.read_text() for p in path.parent.iterdir()] == ["whole"]
    with pytest.raises(UserError, match="nothing is overwritten"), new_file(path):
        raise AssertionError
    late = tmp_path / "x"
    with pytest.raises(UserError, match="nothing is overwritten"), new_file(late):
        late.write_text("another's")
    assert late.read_text() == "another's"
    with pytest.raises(UserError, match="cannot be written"), new_file(path / "below" / "a.onnx"):
        raise AssertionError
