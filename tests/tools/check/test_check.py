"""`detector check` as a person or a program calls it."""

from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import pytest
from rich.console import Console

from detector.cli import main
from detector.data.dataset import read_dataset
from detector.tools.check import report as check_report
from tests.data.preflight_data import GOOD_BOXES, SPOILED, make_dataset
from tests.support import ROOT

Captured = pytest.CaptureFixture[str]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    return make_dataset(tmp_path / "cells")


def state(folder: Path) -> dict[str, tuple[int, int, str]]:
    """Every file and folder: mode, time of change, content."""
    found = {}
    for path in [folder, *folder.rglob("*")]:
        status = path.lstat()
        content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
        found[str(path)] = (status.st_mode, status.st_mtime_ns, content)
    return found


def document(capsys: Captured) -> dict:  # type: ignore[type-arg]
    """What --json printed: exactly one document."""
    return dict(json.loads(capsys.readouterr().out))


def test_a_clean_dataset(data: Path, capsys: Captured) -> None:
    assert main(["check", str(data)]) == 0
    out = capsys.readouterr().out
    assert "train         30            0    120" in out
    assert "cell       90 / 30" in out
    assert "clean: 0 errors, 0 warnings, 0 notes in 35 images" in out.splitlines()[-1]


@pytest.mark.parametrize(("kind", "code"), [("number", 1), ("clipped", 1), ("non-ascii-name", 0)])
def test_the_exit_code_follows_the_severity(data: Path, kind: str, code: int, capsys: Captured) -> None:
    SPOILED[kind].spoil(data.parent)
    assert main(["check", str(data)]) == code
    out = capsys.readouterr().out
    assert f"{SPOILED[kind].severity}: {kind}\n  {data.parent / SPOILED[kind].file}:" in out
    assert ("clean" if code == 0 else "problems") in out.splitlines()[-1]


def _no_val(data: Path) -> None:
    data.write_text("train: images/train\nval: nowhere\nnames: [cell, platelet]\n")


def _nothing_usable(data: Path) -> None:
    for path in (data.parent / "images/val").iterdir():
        path.write_bytes(b"")


UNUSABLE = {
    "no such file": lambda data: data.unlink(),
    "no data YAML": lambda data: data.write_text("[1, 2]"),
    "'val' names": _no_val,
    "no image of 'val' is usable": _nothing_usable,
}


@pytest.mark.parametrize("words", UNUSABLE)
def test_an_unusable_dataset(data: Path, words: str, capsys: Captured) -> None:
    UNUSABLE[words](data)
    assert main(["check", str(data)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and "Traceback" not in captured.err
    assert main(["check", str(data), "--json"]) == 2
    found = document(capsys)
    assert found["verdict"] == "unusable" and found["file"] == str(data)
    if words != "no such file":
        assert words in captured.err and words in found["error"]


def test_all_problems_on_the_terminal_are_one_line_each(data: Path, capsys: Captured) -> None:
    for spoiled in SPOILED.values():
        spoiled.spoil(data.parent)
    assert main(["check", str(data)]) == 1
    lines = capsys.readouterr().out.splitlines()
    for kind, spoiled in SPOILED.items():
        place = lines.index(f"{spoiled.severity}: {kind}")
        line = "" if spoiled.line is None else f":{spoiled.line}"
        assert lines[place + 1].startswith(f"  {data.parent / spoiled.file}{line}")
        assert spoiled.words in lines[place + 1] and not lines[place + 2].startswith("  ")
    errors, repairs, warnings, notes = (
        sum(spoiled.severity == severity for spoiled in SPOILED.values())
        for severity in ("error", "repair", "warning", "note")
    )
    notes += 1  # labels-lost: what became of the file that is unreadable
    assert f"{errors} errors, {repairs} repairs, {warnings} warnings, {notes} notes" in lines[-1]


def test_json_says_the_same_and_nothing_else_is_on_stdout(data: Path, capsys: Captured) -> None:
    SPOILED["class-id"].spoil(data.parent)
    SPOILED["outside"].spoil(data.parent)
    assert main(["check", str(data), "--json", "--image-size", "640", "--allow-outside"]) == 1
    found = document(capsys)
    assert found["verdict"] == "problems" and found["dataset"] == "cells" and found["file"] == str(data)
    assert (found["errors"], found["warnings"], found["notes"]) == (1, 0, 1)
    first = found["problems"][0]
    assert first["kind"] == "class-id" and first["severity"] == "error"
    assert first["file"] == str(data.parent / "labels/train/02.txt") and first["line"] == 5
    statistics = found["statistics"]
    assert statistics["image_size"] == 640
    assert statistics["splits"]["train"] == {"images": 31, "backgrounds": 0, "boxes": 121}
    assert statistics["classes"][1]["boxes"] == {"train": 30, "val": 3, "test": 2}
    assert statistics["classes"][1]["sizes"]["median_width"] == pytest.approx(0.3 * 640)
    assert statistics["image_sizes"] == [{"width": 96, "height": 72, "images": 36}]


def test_its_errors_are_those_of_training(data: Path, capsys: Captured) -> None:
    for kind in ("fields", "no-area", "truncated", "leak", "clipped", "orphan-label"):
        SPOILED[kind].spoil(data.parent)
    main(["check", str(data), "--json"])
    errors = [one for one in document(capsys)["problems"] if one["severity"] == "error"]
    skipped = read_dataset(data, on_error="skip").skipped
    assert len(errors) == len(skipped) == 4
    for error, line in zip(errors, skipped, strict=True):
        assert line.startswith(error["file"]) and line.endswith(error["message"])


def test_ten_of_a_kind_are_listed_unless_all_are_wanted(data: Path, capsys: Captured) -> None:
    (data.parent / "labels/train/00.txt").write_text("0 1\n" * 25 + GOOD_BOXES[0])
    main(["check", str(data)])
    out = capsys.readouterr().out
    assert "error: fields (25)" in out and "00.txt:10:" in out and "00.txt:11:" not in out
    assert "… and 15 more; --all lists them" in out
    main(["check", str(data), "--all"])
    out = capsys.readouterr().out
    assert "00.txt:25:" in out and "more" not in out
    main(["check", str(data), "--json"])
    assert len(document(capsys)["problems"]) == 25


def test_near_duplicates_can_be_left_out(data: Path, capsys: Captured) -> None:
    SPOILED["near-leak"].spoil(data.parent)
    assert main(["check", str(data)]) == 1
    assert main(["check", str(data), "--no-near-duplicates"]) == 0


def test_nothing_is_written(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for spoiled in SPOILED.values():
        spoiled.spoil(data.parent)
    for path in [*data.parent.rglob("*"), data.parent]:
        path.chmod(path.stat().st_mode & ~0o222)  # read-only
    elsewhere = data.parent.parent / "working"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    before = state(data.parent)
    assert main(["check", str(data)]) == 1
    assert main(["check", str(data), "--json"]) == 1
    assert main(["check", str(data), "--sheet", "sheet.png"]) == 1
    assert state(data.parent) == before
    assert os.listdir(elsewhere) == ["sheet.png"]
    for path in [data.parent, *data.parent.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)


# ---------------------------------------------------------------------------------------- sheet


def test_the_sheet_shows_every_class_in_its_colour(data: Path, tmp_path: Path, capsys: Captured) -> None:
    SPOILED["missing-from-val"].spoil(data.parent)  # one box of the third class, in train/23
    sheet = tmp_path / "sheet.png"
    assert main(["check", str(data), "--sheet", str(sheet)]) == 1
    assert "16 images" in capsys.readouterr().err
    picture = cv2.cvtColor(cv2.imread(str(sheet)), cv2.COLOR_BGR2RGB)
    assert picture.shape == (4 * (26 + 360), 4 * 480, 3)
    from detector.tools.check.sheet import COLORS

    for color in COLORS[:3]:
        assert (picture == color).all(axis=2).sum() > 100


def test_a_sheet_is_never_overwritten(data: Path, tmp_path: Path, capsys: Captured) -> None:
    sheet = tmp_path / "sheet.png"
    sheet.write_text("mine")
    assert main(["check", str(data), "--sheet", str(sheet)]) == 2
    captured = capsys.readouterr()
    assert "exists already" in captured.err and captured.out == "" and sheet.read_text() == "mine"


@pytest.mark.parametrize(("name", "words"), [("sheet.pdf", "must end in"), ("none/sheet.png", "no folder")])
def test_a_sheet_that_cannot_be_written(data: Path, name: str, words: str, capsys: Captured) -> None:
    assert main(["check", str(data), "--sheet", str(data.parent / name)]) == 2
    assert words in capsys.readouterr().err


def test_a_sheet_of_few_images_without_objects(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    for path in (data.parent / "labels").rglob("*.txt"):
        path.write_text("")
    assert main(["check", str(data), "--sheet", str(tmp_path / "sheet.png")]) == 1
    assert (tmp_path / "sheet.png").stat().st_size > 1000


# ------------------------------------------------------------------------------------- terminal


def test_tables_fit_into_80_columns(data: Path, monkeypatch: pytest.MonkeyPatch, capsys: Captured) -> None:
    data.write_text(data.read_text().replace("cell", "a-class-with-a-very-long-name-that-has-no-end"))
    stream = io.StringIO()

    def terminal(**_: object) -> Console:
        return Console(file=stream, width=80, force_terminal=True, color_system=None, highlight=False)

    monkeypatch.setattr(check_report, "Console", terminal)
    assert main(["check", str(data)]) == 0
    lines = stream.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert any(line.startswith("a-class-with") and "…" in line and "90 / 30" in line for line in lines)


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux allows such names")
def test_hostile_names_reach_the_terminal_as_text(data: Path, capsys: Captured) -> None:
    for old, name in (("00", b"\xff\xfe.jpg"), ("01", b"\x1b[2J.jpg")):
        os.rename(os.fsencode(data.parent / f"images/train/{old}.jpg"),
                  os.path.join(os.fsencode(data.parent), b"images/train", name))  # fmt: skip
    assert main(["check", str(data)]) == 1  # two labels have lost their images
    out = capsys.readouterr().out
    assert "\x1b" not in out and "\\x1b[2J.jpg" in out and "\\udcff\\udcfe.jpg" in out
    assert main(["check", str(data), "--json"]) == 1
    assert any(one["kind"] == "non-ascii-name" for one in document(capsys)["problems"])


def test_a_wrong_image_size(data: Path, capsys: Captured) -> None:
    assert main(["check", str(data), "--image-size", "0"]) == 2
    assert "--image-size" in capsys.readouterr().err


def test_builtin_coco8(coco8: Path, capsys: Captured) -> None:
    assert main(["check", str(ROOT / "datasets/coco8.yaml"), "--json"]) == 1
    found = document(capsys)
    assert found["root"] == str(coco8 / "coco8") and found["errors"] == 0
    assert found["statistics"]["splits"]["val"] == {"images": 4, "backgrounds": 0, "boxes": 17}
    assert {one["kind"] for one in found["problems"]} == {
        "empty-class", "missing-from-val", "missing-from-train", "tiny"}  # fmt: skip


def test_help_imports_nothing_heavy_and_the_check_no_torch(data: Path) -> None:
    for command, heavy in (
        (["--help"], ("numpy", "cv2", "torch", "pydantic")),
        ([str(data)], ("torch", "ultralytics", "wandb", "matplotlib")),
    ):
        done = subprocess.run([sys.executable, "-X", "importtime", "-m", "detector", "check", *command],
                              cwd=ROOT, capture_output=True, text=True, check=True)  # fmt: skip
        assert done.stdout
        for module in heavy:
            assert f" {module}\n" not in done.stderr, module


def test_without_a_terminal_there_is_no_progress_bar(data: Path) -> None:
    done = subprocess.run([sys.executable, "-m", "detector", "check", str(data)], cwd=ROOT,
                          capture_output=True, text=True, check=True)  # fmt: skip
    assert done.stderr == "reading 35 images and their labels\n" and "\x1b" not in done.stdout
