"""`detector predict` as a user calls it: on real files, with the folder and the exit code it leaves."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.cli import main
from detector.data.images import read_image
from detector.predictor import Predictor
from detector.tools.predict.video import Stream, VideoFile
from tests.checkpoints import NAMES, confident, picture, save
from tests.tools.predict.test_video import Camera


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    run = tmp_path_factory.mktemp("somewhere") / "my-run"
    return save(confident(), run / "checkpoints" / "best.pt", image_size=128)


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder of three images; the working directory is above it."""
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "images"
    folder.mkdir()
    for number, suffix in enumerate((".jpg", ".png", ".bmp")):
        cv2.imwrite(str(folder / f"{number}{suffix}"), picture(number, 150 + number, 200)[..., ::-1])
    return folder


def predict(*arguments: object) -> int:
    return main(["predict", *map(str, arguments)])


@pytest.mark.slow
def test_pictures_labels_and_json_say_the_same(
    model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, images, "--save-txt", "--json", "--batch", 2, "--out", "new/results") == 0
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert "3 images" in printed.err
    assert "new/results" in printed.err
    assert document["names"] == list(NAMES)
    assert document["interrupted"] is False
    assert document["skipped"] == []
    results = Path("new/results")
    written = sorted(path.relative_to(results).as_posix() for path in results.rglob("*.*"))
    assert written == ["0.jpg", "1.png", "2.bmp", "labels/0.txt", "labels/1.txt", "labels/2.txt"]
    predictor = Predictor(model)
    for number, row in enumerate(document["results"]):
        source = Path(row["file"])
        image = read_image(source)
        assert (row["height"], row["width"]) == (150 + number, 200) == image.shape[:2]
        expected = predictor(image)
        assert len(row["boxes"]) == len(expected.boxes) > 0
        corners = np.array([box["xyxy"] for box in row["boxes"]])
        np.testing.assert_allclose(corners, expected.boxes, atol=0.01)
        assert [box["class"] for box in row["boxes"]] == expected.classes.tolist()
        assert [box["name"] for box in row["boxes"]] == [NAMES[label] for label in expected.classes]
        # The label file, by the format's definition.
        lines = np.loadtxt(results / "labels" / f"{number}.txt", ndmin=2)
        assert lines[:, 0].tolist() == expected.classes.tolist()
        centre, half = lines[:, 1:3] * [200, 150 + number], lines[:, 3:5] * [200, 150 + number] / 2
        np.testing.assert_allclose(np.hstack((centre - half, centre + half)), expected.boxes, atol=0.01)
        np.testing.assert_allclose(lines[:, 5], expected.scores, atol=1e-4)
        # The picture has the image's size, and something was drawn on it.
        drawn = read_image(results / source.name)
        assert drawn.shape == image.shape
        assert np.abs(drawn.astype(int) - image).max() > 50


@pytest.mark.slow
def test_a_jpeg_by_another_name_is_drawn_as_jpg(model: Path, images: Path) -> None:
    for suffix in ("jfif", "jpe", "mpo"):
        shutil.copy("images/0.jpg", f"images/as_{suffix}.{suffix}")
    assert main(["predict", str(model), "images", "--out", "out"]) == 0
    drawn = {path.name for path in Path("out").iterdir() if path.name.startswith("as_")}
    assert drawn == {"as_jfif.jpg", "as_jpe.jpg", "as_mpo.jpg"}


@pytest.mark.slow
def test_by_default_a_new_folder_is_made_each_time(model: Path, images: Path) -> None:
    for _ in range(3):
        assert predict(model, images / "0.jpg") == 0
    folders = sorted(Path("runs").iterdir())
    assert len(folders) == 3
    assert all(folder.name.startswith("predict-my-run-") for folder in folders)
    assert all([path.name for path in folder.iterdir()] == ["0.jpg"] for folder in folders)


def test_nothing_is_overwritten(model: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = {path: path.read_bytes() for path in images.iterdir()}
    assert predict(model, images, "--out", images) == 2
    assert "nothing is overwritten" in capsys.readouterr().err
    assert {path: path.read_bytes() for path in images.iterdir()} == before


@pytest.mark.slow
def test_same_names_from_two_folders_do_not_meet(model: Path, images: Path) -> None:
    shutil.copytree(images, "more")
    cv2.imwrite("more/0.png", picture(9)[..., ::-1])
    assert predict(model, images, "more", "--save-txt", "--out", "out") == 0
    written = {path.relative_to("out").as_posix() for path in Path("out").rglob("*.*")}
    assert {"images/0.jpg", "more/0.jpg", "more/0_2.png", "labels/more/0_2.txt"} <= written
    assert len(written) == 2 * 7


def test_a_corrupt_image_is_named_and_the_others_are_done(
    model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (images / "0.jpg").write_bytes((images / "0.jpg").read_bytes()[:-200])
    (images / "bad.avi").write_bytes(b"RIFF")
    assert predict(model, images, "--json", "--out", "out") == 1
    printed = capsys.readouterr()
    assert "0.jpg: the image is truncated" in printed.err
    assert "bad.avi: no frame can be read" in printed.err
    document = json.loads(printed.out)
    assert [Path(row["file"]).name for row in document["skipped"]] == ["0.jpg", "bad.avi"]
    assert [Path(row["file"]).name for row in document["results"]] == ["1.png", "2.bmp"]
    assert sorted(path.name for path in Path("out").iterdir()) == ["1.png", "2.bmp"]


def test_without_pictures_nothing_is_written(
    model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, images, "--no-images") == 0
    assert not Path("runs").exists()
    assert "3 images" in capsys.readouterr().out
    assert predict(model, images, "--no-images", "--out", "out") == 2


def test_an_image_with_nothing_on_it_has_an_empty_label_file(
    model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, images / "0.jpg", "--conf", 1, "--save-txt", "--no-images", "--out", "out") == 0
    assert [path.as_posix() for path in Path("out").rglob("*.*")] == ["out/labels/0.txt"]
    assert Path("out/labels/0.txt").read_bytes() == b""
    assert "found: nothing with a score of 1 or more; --conf sets it" in capsys.readouterr().out


@pytest.mark.slow
def test_a_video(model: Path, images: Path, capsys: pytest.CaptureFixture[str]) -> None:
    video = VideoFile(images / "clip.mp4", 12.5)
    for number in range(7):
        video.add(picture(number, 96, 128))
    video.close()
    assert predict(model, images / "clip.mp4", "--batch", 3, "--json", "--save-txt", "--out", "out") == 0
    document = json.loads(capsys.readouterr().out)
    assert [row["frame"] for row in document["results"]] == list(range(7))
    assert any(row["boxes"] for row in document["results"])
    stream = Stream(Path("out/clip.mp4"))
    assert stream.rate == 12.5
    assert [frame.shape for frame in stream] == [(96, 128, 3)] * 7
    labels = sorted(Path("out/labels/clip.mp4").iterdir())
    assert [path.name for path in labels] == [f"{number:06d}.txt" for number in range(7)]
    assert len(labels[3].read_text().splitlines()) == len(document["results"][3]["boxes"])
    assert predict(model, images / "clip.mp4", "--frames", 2, "--out", "two") == 0
    assert len(list(Stream(Path("two/clip.mp4")))) == 2


def test_a_camera(model: Path, images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr("detector.tools.predict.video.sys.platform", "linux")
    with monkeypatch.context() as patch:
        patch.setattr(cv2, "VideoCapture", Camera)
        assert predict(model, 0, "--frames", 3, "--save-txt", "--out", "out") == 0
    assert len(list(Path("out/labels/camera0").iterdir())) == 3
    assert len(list(Stream(Path("out/camera0.mp4")))) >= 3


@pytest.mark.parametrize("source", ["images", "clip.avi"])
def test_an_interruption_leaves_what_is_done(
    model: Path,
    images: Path,
    source: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (200, 150))
    for number in range(3):
        video.write(picture(number, 150, 200))
    video.release()
    original, batches = Predictor.batch, []

    def batch(self: Predictor, images: Any) -> Any:
        batches.append(len(images))
        if len(batches) == 2:
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, images)

    monkeypatch.setattr(Predictor, "batch", batch)
    assert predict(model, source, "--batch", 1, "--json", "--out", "out") == 130
    printed = capsys.readouterr()
    document = json.loads(printed.out)
    assert document["interrupted"] is True
    assert len(document["results"]) == 2
    assert "interrupted" in printed.err
    if source == "images":
        assert [read_image(path).shape[1] for path in sorted(Path("out").iterdir())] == [200, 200]
    else:
        assert len(list(Stream(Path("out/clip.mp4")))) == 2


def test_a_video_whose_end_is_missing_is_named(
    model: Path, images: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    video = cv2.VideoWriter("clip.avi", cv2.VideoWriter.fourcc(*"MJPG"), 10, (200, 150))
    for number in range(30):
        video.write(picture(number, 150, 200))
    video.release()
    data = Path("clip.avi").read_bytes()
    Path("clip.avi").write_bytes(data[: len(data) // 2])
    assert predict(model, "clip.avi", "--no-images") == 1
    assert "of its 30 frames can be read" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["http://example.org/a.jpg"], "download the file"),
        (["nowhere"], "nowhere: there is no such file"),
        (["images", "--image-size", "100"], "multiples of 32"),
        (["images", "--out", "images/0.jpg"], "this folder cannot be made: File exists"),
        (["images", "--out", "images/0.jpg/below"], "cannot be made"),
        (["images", "--precision", "fp16", "--device", "cpu"], "bf16"),
    ],
)
@pytest.mark.usefixtures("images")
def test_mistakes_are_named(
    model: Path, arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict(model, *arguments) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("error: ")
    assert named in printed.err
    assert len(printed.err.splitlines()) <= 2
    assert not Path("runs").exists()


@pytest.mark.usefixtures("images")
def test_a_file_that_is_no_checkpoint(capsys: pytest.CaptureFixture[str]) -> None:
    assert predict("images/0.jpg", "images") == 2
    assert "images/0.jpg: not a readable checkpoint" in capsys.readouterr().err
    assert predict("best.pt", "images", "--conf", "25") == 2
    assert "not between 0 and 1" in capsys.readouterr().err
