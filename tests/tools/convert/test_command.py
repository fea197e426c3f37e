"""`detector convert` as a person types it."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from detector.cli import main
from detector.data.dataset import read_dataset
from tests.support import ROOT
from tests.tools.convert.builders import coco_json, save_json, save_picture, save_voc


@pytest.fixture
def source(tmp_path: Path) -> Path:
    for seed in range(5):
        save_voc(tmp_path / "voc", f"{seed}", [("cat", 1, 1, 9, 9), ("dog", 60, 40, 70, 48)], seed=seed)
    return tmp_path / "voc"


def test_a_conversion(
    source: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(source.parent)
    assert main(["convert", "--from", "voc", "voc", "yolo", "--split", "0.6,0.4", "--names", "dog,cat"]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[0] == ("clipped: voc/0.xml: object 2 (dog), line 5: "
                      "clipped from (59, 39, 70, 48) to (59, 39, 64, 48)")  # fmt: skip
    assert [line.split() for line in out[5:7]] == [
        ["train", "3", "images", "6", "boxes"], ["val", "2", "images", "4", "boxes"]]  # fmt: skip
    assert out[7:] == [
        "2 classes: dog, cat",
        "5 boxes clipped, 0 dropped, 0 difficult or crowd skipped; 0 images left out",
        "written: yolo/data.yaml; next: detector check yolo/data.yaml",
    ]
    assert read_dataset(Path("yolo/data.yaml")).names == ("dog", "cat")


def test_the_report_as_json(source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--from", "voc", str(source), str(tmp_path / "yolo"), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report == json.loads((tmp_path / "yolo/conversion.json").read_text())
    assert report["splits"] == {"train": {"images": 4, "boxes": 8}, "val": {"images": 1, "boxes": 2}}
    assert (report["clipped"], report["dropped"], report["left_out"], report["difficult"]) == (5, 0, 0, 0)
    assert len(report["notes"]) == 5 and report["notes"][0]["where"] == "object 2 (dog), line 5"


def test_long_reports_are_shortened(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed in range(25):
        save_voc(tmp_path / "voc", f"{seed:02}", [("cat", 60, 40, 70, 48)], seed=seed)
    assert main(["convert", "--from", "voc", str(tmp_path / "voc"), str(tmp_path / "yolo")]) == 0
    out = capsys.readouterr().out.splitlines()
    assert out[20] == f"and 5 more, in {tmp_path}/yolo/conversion.json" and len(out) == 26


@pytest.mark.parametrize(
    ("options", "named"),
    [
        (["--split", "0.5"], "--split 0.5"),
        (["--names", "cat,cat"], "--names cat,cat"),
        (["--names", "cat"], "'dog'"),
        (["--images", "nowhere"], "--images nowhere"),
    ],
)
def test_mistakes_are_named(
    source: Path, tmp_path: Path, options: list[str], named: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["convert", "--from", "voc", str(source), str(tmp_path / "yolo"), *options]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and named in error and len(error.splitlines()) == 1
    assert not (tmp_path / "yolo").exists()


@pytest.mark.parametrize(
    ("change", "options", "reasons"),
    [
        ({}, [], []),
        ({"iscrowd": 1}, [], ["4 of 4 boxes were lost", "4 are marked difficult or iscrowd (--keep"]),
        ({"iscrowd": 1}, ["--keep-difficult"], []),
        ({"image_id": "a.png"}, [], ["4 cannot be used, first", "annotation 100 (cat): there is no image a"]),
        ({"category_id": 9}, [], ["4 cannot be used, first", "annotation 100: there is no category 9"]),
        ({"bbox": None}, [], ["4 of 4 boxes were lost; 4 cannot be used", "neither a bbox nor"]),
    ],
)  # fmt: skip
def test_where_most_boxes_are_lost_that_is_an_error(
    tmp_path: Path,
    change: dict[str, Any],
    options: list[str],
    reasons: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:
    for seed, stem in enumerate("abcd"):
        save_picture(tmp_path / f"coco/{stem}.png", seed)
    boxes = [{"image_id": number, "bbox": [1, 1, 9, 9], **change} for number in range(1, 5)]
    save_json(tmp_path / "coco/x.json", coco_json([f"{stem}.png" for stem in "abcd"], boxes))
    out = tmp_path / "yolo"
    assert main(["convert", "--from", "coco", str(tmp_path / "coco"), str(out), *options]) == bool(reasons)
    error = capsys.readouterr().err
    assert len(error.splitlines()) == bool(reasons) and all(reason in error for reason in reasons)
    lost = json.loads((out / "conversion.json").read_text())["lost"]
    assert lost == (4 if reasons else 0)  # and what there is was written, to look at


def test_half_is_not_most(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for seed, stem in enumerate("abcd"):
        save_voc(tmp_path / "voc", stem, [("cat", 1, 1, 9, 9), ("cat", 1, 1, 0, 0)], seed=seed)
    assert main(["convert", "--from", "voc", str(tmp_path / "voc"), str(tmp_path / "half")]) == 0
    (tmp_path / "voc/a.png").unlink()  # now with an image
    assert main(["convert", "--from", "voc", str(tmp_path / "voc"), str(tmp_path / "most")]) == 1
    error = capsys.readouterr().err
    assert "5 of 8 boxes were lost; 3 cannot be used" in error
    assert "2 belong to images that are left out, first" in error and "there is no image a.*" in error


def test_merge(tmp_path: Path) -> None:
    for seed, stem in enumerate("ab"):
        save_picture(tmp_path / f"coco/{stem}.png", seed)
    for person in ("ann", "bob", "eve"):
        boxes = [
            {"image_id": number, "bbox": [1, 1, 9, 9 + len(person) + ord(person[0])]} for number in (1, 2)
        ]
        save_json(tmp_path / f"coco/{person}.json", coco_json(["a.png", "b.png"], boxes))
    command = ["convert", "--from", "coco", str(tmp_path / "coco")]
    assert main([*command, str(tmp_path / "one")]) == 1  # two thirds are lost
    assert main([*command, str(tmp_path / "all"), "--merge"]) == 0


def test_zero_based_is_for_voc(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["convert", "--from", "coco", "x", str(tmp_path / "yolo"), "--zero-based"]) == 2
    assert "--zero-based is for --from voc" in capsys.readouterr().err


def test_file_names_that_are_no_unicode(
    source: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(source, "4.xml").rename(Path(source, "\udcff.xml"))  # what Python makes of the byte 255
    assert main(["convert", "--from", "voc", str(source), str(tmp_path / "yolo")]) == 0
    assert "\\udcff.xml: there is no image" in capsys.readouterr().out


def test_help_imports_nothing_heavy() -> None:
    done = subprocess.run([sys.executable, "-X", "importtime", "-m", "detector", "convert", "--help"],
                          cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
    assert "--zero-based" in done.stdout
    for heavy in ("torch", "cv2", "numpy", "PIL", "yaml", "orjson"):
        assert f" {heavy}\n" not in done.stderr, heavy
