"""`detector export` as a user calls it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from detector.cli import main
from detector.config.schema import ModelConfig
from detector.models.build import load_model
from tests.checkpoints import NAMES, confident, save


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("checkpoints")
    save(confident(), folder / "best.pt", image_size=64)
    save(confident(ModelConfig(pretrained="yolov8n.yaml")), folder / "yolo.pt", image_size=64)
    return folder


def export(*arguments: object) -> int:
    return main(["export", *map(str, arguments)])


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*torch.jit:FutureWarning", "ignore:.*torch.jit:DeprecationWarning")
def test_the_file_lands_beside_the_checkpoint_once(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(folder / "best.pt", "--format", "torchscript", "--image-size", 96) == 0
    out = capsys.readouterr().out
    assert "best.torchscript" in out
    assert "96 px" in out
    assert "boxes differ by at most" in out
    written = (folder / "best.torchscript").read_bytes()
    boxes, scores = torch.jit.load(str(folder / "best.torchscript"))(torch.rand(1, 3, 96, 96))
    assert boxes.shape == (1, 189, 4)
    assert scores.shape == (1, 189, 3)
    assert export(folder / "best.pt", "--format", "torchscript") == 2
    assert "--out" in capsys.readouterr().err
    assert (folder / "best.torchscript").read_bytes() == written


@pytest.mark.slow
def test_a_file_for_ultralytics_is_a_checkpoint_here_too(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "new" / "theirs.pt"
    assert export(folder / "yolo.pt", "--format", "ultralytics", "--out", out) == 0
    one, other = load_model(folder / "yolo.pt"), load_model(out)
    assert other.names == NAMES
    assert other.image_size == 64
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(one.model(images)["scores"], other.model(images)["scores"])


@pytest.mark.slow
def test_onnx(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    import onnxruntime

    out = tmp_path / "net.onnx"
    assert export(folder / "best.pt", "--out", out, "--batch", 3, "--opset", 20) == 0
    assert "64 px" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(str(out), providers=["CPUExecutionProvider"])
    assert session.get_inputs()[0].shape == [3, 3, 64, 64]
    assert [path.name for path in tmp_path.iterdir()] == ["net.onnx"]


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["--format", "ultralytics"], "use --format onnx"),
        (["--out", "net.pt"], "ends in .onnx"),
        (["--dynamic", "--batch", "2"], "leave one of them out"),
        (["--format", "torchscript", "--opset", "18"], "only for --format onnx"),
        (["--image-size", "100"], "multiples of 32"),
        (["--batch", "0"], "--batch 0: must be positive"),
    ],
)
def test_mistakes_are_named(
    folder: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = sorted(folder.iterdir())
    assert export(folder / "best.pt", *arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert len(error.splitlines()) <= 2
    assert sorted(folder.iterdir()) == before


def test_a_checkpoint_that_is_missing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert export(tmp_path / "nowhere.pt") == 2
    assert "nowhere.pt: there is no checkpoint here" in capsys.readouterr().err
