"""A dataset without any fault, and one way to spoil it for each kind of problem."""

from __future__ import annotations

import io
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import yaml
from PIL import Image as PillowImage

TRAIN, VAL, TEST = 30, 3, 2
GOOD_BOXES = (
    "0 0.25 0.3 0.3 0.4", "0 0.7 0.3 0.3 0.4", "0 0.25 0.75 0.3 0.3", "1 0.7 0.75 0.3 0.3"
)  # fmt: skip


def scene(seed: int, width: int = 96, height: int = 72) -> np.ndarray:
    """(height, width, 3) BGR: smooth random shading, unlike that of every other seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (7, 9, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC))


def encoded(seed: int, suffix: str = ".jpg", quality: int = 95) -> bytes:
    """A scene as the content of a file."""
    options = [cv2.IMWRITE_JPEG_QUALITY, quality] if suffix == ".jpg" else []
    return cv2.imencode(suffix, scene(seed), options)[1].tobytes()


def make_dataset(root: Path) -> Path:
    """30 train, 3 val and 2 test images of two classes; return the data YAML. Nothing is wrong with it."""
    seed = 0
    for split, images in (("train", TRAIN), ("val", VAL), ("test", TEST)):
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True)
        for number in range(images):
            (root / f"images/{split}/{number:02d}.jpg").write_bytes(encoded(seed))
            (root / f"labels/{split}/{number:02d}.txt").write_text("\n".join(GOOD_BOXES) + "\n")
            seed += 1
    splits = {split: f"images/{split}" for split in ("train", "val", "test")}
    (root / "data.yaml").write_text(yaml.safe_dump({**splits, "names": ["cell", "platelet"]}))
    return root / "data.yaml"


@dataclass(frozen=True)
class Spoiled:
    """One fault, and the one line that the check has to report for it."""

    spoil: Callable[[Path], None]  # given the dataset's folder
    severity: str
    file: str  # relative to the dataset's folder
    line: int | None
    words: str  # in the message


def _append(file: str, *lines: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        with (root / file).open("a") as stream:
            stream.write("\n".join(lines) + "\n")

    return spoil


def _content(file: str, content: bytes) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        assert (root / file).exists()
        (root / file).write_bytes(content)

    return spoil


def _both(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        for step in steps:
            step(root)

    return spoil


def _copy(source: str, target: str) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        shutil.copy(root / source, root / target)

    return spoil


def _rename(root: Path) -> None:
    for folder, suffix in (("images", "jpg"), ("labels", "txt")):
        path = root / folder / "train" / f"16.{suffix}"
        path.rename(path.with_name(f"zelle-größe.{suffix}"))


def _turned() -> bytes:
    exif, stream = PillowImage.Exif(), io.BytesIO()
    exif[0x0112] = 6
    PillowImage.fromarray(scene(17)).save(stream, "JPEG", exif=exif)
    return stream.getvalue()


@cache
def _huge() -> bytes:
    """A real PNG of 100.01 megapixels in 12 kB."""
    stream = io.BytesIO()
    PillowImage.new("1", (10001, 10000)).save(stream, "PNG")
    assert len(stream.getvalue()) < 50_000
    return stream.getvalue()


def _list(line: str) -> Callable[[Path], None]:
    """Let train have a list file beside its folder."""

    def spoil(root: Path) -> None:
        with (root / "more.txt").open("a") as stream:
            stream.write(line + "\n")
        data = yaml.safe_load((root / "data.yaml").read_text())
        (root / "data.yaml").write_text(yaml.safe_dump({**data, "train": ["images/train", "more.txt"]}))

    return spoil


def _elsewhere(root: Path) -> None:
    outside = root.parent / "elsewhere"
    for folder in ("images", "labels"):
        (outside / folder).mkdir(parents=True)
    (outside / "images/far.jpg").write_bytes(encoded(900))
    (outside / "labels/far.txt").write_text(GOOD_BOXES[0])
    _list("../elsewhere/images/far.jpg")(root)


def _class(name: str, *files: str) -> Callable[[Path], None]:
    """Add a class, and an object of it to each label file."""

    def spoil(root: Path) -> None:
        data = yaml.safe_load((root / "data.yaml").read_text())
        (root / "data.yaml").write_text(yaml.safe_dump({**data, "names": [*data["names"], name]}))
        for file in files:
            _append(file, f"{len(data['names'])} 0.5 0.5 0.3 0.3")(root)

    return spoil


_MANY = [f"0 {0.3 + 0.04 * x:.2f} {0.3 + 0.06 * y:.2f} 0.3 0.3" for x in range(10) for y in range(6)]

# Each uses an image of its own, so that all of them together are a dataset with one problem of each kind.
SPOILED = {
    "fields": Spoiled(_append("labels/train/00.txt", "0 0.5 0.5 0.1"), "error", "labels/train/00.txt", 5,
                      "4 fields, expected 5"),
    "number": Spoiled(_append("labels/train/01.txt", "0 nan 0.5 0.1 0.1"), "error", "labels/train/01.txt", 5,
                      "'nan' is not a finite number"),
    "class-id": Spoiled(_append("labels/train/02.txt", "9 0.5 0.5 0.3 0.3"), "error", "labels/train/02.txt",
                        5, "class 9 is not in names"),
    "coordinates": Spoiled(_append("labels/train/03.txt", "0 0.5 48 0.3 0.3"), "error", "labels/train/03.txt",
                           5, "cy is 48, outside [0, 1]"),
    "no-area": Spoiled(_append("labels/train/04.txt", "0 0.5 0.5 0 0.3"), "error", "labels/train/04.txt", 5,
                       "no area"),
    "duplicate-box": Spoiled(_append("labels/train/05.txt", GOOD_BOXES[1]), "repair", "labels/train/05.txt",
                             5, "repeats line 2"),
    "corrupt": Spoiled(_content("images/train/06.jpg", b"<html>404</html>"), "error", "images/train/06.jpg",
                       None, "cannot be decoded"),
    "truncated": Spoiled(_content("images/train/07.jpg", encoded(7)[:-300]), "error", "images/train/07.jpg",
                         None, "truncated"),
    "empty": Spoiled(_content("images/train/08.jpg", b""), "error", "images/train/08.jpg", None, "is empty"),
    "too-large": Spoiled(lambda root: _content("images/train/09.jpg", _huge())(root),
                         "error", "images/train/09.jpg", None,
                         "10001 x 10000 pixels, and at most 100 megapixels"),
    "unreadable": Spoiled(_content("labels/train/10.txt", b"\xff\xfe0\x00"), "error", "labels/train/10.txt",
                          None, "cannot be read"),
    "duplicate": Spoiled(_copy("images/train/11.jpg", "images/train/12.jpg"), "repair", "images/train/12.jpg",
                         None, "is identical to"),
    "leak": Spoiled(_copy("images/train/13.jpg", "images/val/00.jpg"), "error", "images/val/00.jpg", None,
                    "is in 'val' and, as"),
    "listed-twice": Spoiled(_list("images/train/14.jpg"), "repair", "images/train/14.jpg", None,
                            "listed twice in 'train'"),
    "no-image": Spoiled(_list("images/train/lost.jpg"), "error", "more.txt", None, "there is no image"),
    "mislabelled": Spoiled(_content("images/train/15.jpg", encoded(15, ".png")), "warning",
                           "images/train/15.jpg", None, "is a PNG file named .jpg"),
    "non-ascii-name": Spoiled(_rename, "note", "images/train/zelle-größe.jpg", None, "not ASCII"),
    "exif-rotated": Spoiled(_content("images/train/17.jpg", _turned()), "note", "images/train/17.jpg", None,
                            "EXIF orientation 6) and read upright, 72 x 96"),
    "orphan-label": Spoiled(_append("labels/train/old.txt", GOOD_BOXES[0]), "warning", "labels/train/old.txt",
                            None, "no image is called 'old'"),
    "near-leak": Spoiled(_content("images/test/00.jpg", encoded(18, quality=40)), "warning",
                         "images/test/00.jpg", None, "images/train/18.jpg in 'train'"),
    "clipped": Spoiled(_append("labels/train/19.txt", "0 0.05 0.5 0.3 0.3"), "warning", "labels/train/19.txt",
                       5, "leaves the image by 10 pixels"),
    "double-box": Spoiled(_append("labels/train/20.txt", "0 0.2505 0.3 0.3 0.4"), "warning",
                          "labels/train/20.txt", 5, "same object as line 1"),
    "tiny": Spoiled(_append("labels/train/21.txt", "1 0.5 0.5 0.02 0.3"), "note", "labels/train/21.txt", 5,
                    "in all 1 box of 'platelet'"),
    "outside": Spoiled(_elsewhere, "error", "more.txt", None, "data.allow_outside=true accepts that"),
    "unlabelled": Spoiled(lambda root: (root / "labels/train/22.txt").unlink(), "note", "data.yaml", None,
                          "1 of "),
    "empty-class": Spoiled(_class("ghost"), "warning", "data.yaml", None, "classes without a box: ghost"),
    "missing-from-val": Spoiled(_class("rare", "labels/train/23.txt"), "warning", "data.yaml", None,
                                "not in 'val', so that their score is not measured: rare"),
    "missing-from-train": Spoiled(_class("late", "labels/val/01.txt"), "warning", "data.yaml", None,
                                  "they cannot be learnt: late"),
    "imbalance": Spoiled(
        _both(_class("few", "labels/train/24.txt", "labels/val/02.txt"),
              _append("labels/train/25.txt", *_MANY)),
        "warning", "data.yaml", None, "times as many as 'few' with 1"),
}  # fmt: skip
