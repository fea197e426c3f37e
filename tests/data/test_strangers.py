"""The data that people have: each habit of other tools gives the boxes that it means, and is counted.

Where ultralytics accepts the same files, its own reading of them gives the same boxes. It reads a copy, since
it writes caches beside data.
"""

from __future__ import annotations

import hashlib
import io
import json
import shlex
import shutil
import unicodedata
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import pytest
from PIL import Image as PillowImage

from detector.cli import main
from detector.config.loading import load_config
from detector.config.schema import DataConfig
from detector.data.data_yaml import DataYaml
from detector.data.dataset import Dataset, read_dataset, scan
from detector.data.geometry import xywh_to_xyxy, xyxy_to_xywh
from detector.data.images import read_image
from detector.data.near_duplicates import thumbnail
from detector.data.preflight import inspect
from detector.data.problems import counted, said
from detector.data.sources import check_command, load_configured
from detector.errors import UserError
from detector.runtime.ultralytics_import import import_ultralytics
from tests.data.conftest import LABEL, picture
from tests.data.preflight_data import SPOILED, encoded, make_dataset
from tests.support import ROOT

YAML = "train: images/train\nval: images/val\nnames: [cat, dog]\n"
BOX = (0, 0.5, 0.5, 0.25, 0.5)  # what LABEL says
Boxes = list[tuple[float, ...]]
Read = Counter[tuple[str, tuple[tuple[float, ...], ...]]]  # an image's content, its objects: class, corners


def theirs(data: Path, split: str = "train") -> Read:
    """What ultralytics reads."""
    described = import_ultralytics("data.utils").check_det_dataset(str(data), autodownload=False)
    reader = import_ultralytics("data.dataset").YOLODataset
    found: Read = Counter()
    for label in reader(img_path=described[split], data=described, task="detect", augment=False).labels:
        rows = np.concatenate([label["cls"], label["bboxes"]], axis=1)
        found[read_of(Path(label["im_file"]), rows)] += 1
    return found


def ours(data: Dataset, split: str = "train") -> Read:
    """What the project reads."""
    found: Read = Counter()
    for item in data.splits[split]:
        found[read_of(item.image, np.column_stack([item.classes, item.boxes]))] += 1
    return found


def read_of(image: Path, rows: np.ndarray) -> tuple[str, tuple[tuple[float, ...], ...]]:
    """One image: rows are class, cx, cy, w, h; corners are compared, inside the image and to float error."""
    corners = np.clip(xywh_to_xyxy(rows[:, 1:].astype(np.float64)), 0, 1)
    boxes = np.column_stack([rows[:, 0], corners]).round(5) + 0.0
    return hashlib.sha256(image.read_bytes()).hexdigest()[:8], tuple(sorted(map(tuple, boxes.tolist())))


def label(file: str, *lines: str) -> Callable[[Path], None]:
    """Write a label file, with its folder."""

    def build(root: Path) -> None:
        (root / file).parent.mkdir(parents=True, exist_ok=True)
        (root / file).write_text("\n".join(lines) + "\n")

    return build


def both(*steps: Callable[[Path], None]) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        for step in steps:
            step(root)

    return build


def described(text: str) -> Callable[[Path], None]:
    """Write the data YAML."""

    def build(root: Path) -> None:
        (root / "data.yaml").write_text(text.replace("ROOT", root.as_posix()), encoding="utf-8")

    return build


def moved(old: str, new: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        (root / old).rename(root / new)

    return build


def copied(old: str, new: str) -> Callable[[Path], None]:
    def build(root: Path) -> None:
        (root / new).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(root / old, root / new)

    return build


@dataclass(frozen=True)
class Habit:
    """A variation of the small dataset, what is meant by it, and what is said of it."""

    build: Callable[[Path], None]
    meant: dict[str, Boxes] = field(default_factory=dict)  # images of train by name; the others have BOX
    said: dict[str, tuple[str, int]] = field(default_factory=dict)  # kind -> severity, count
    ultralytics: str = "the same"  # what it reads: see `compare`
    refused: str = ""  # the error with data.repair=false; "": none


POLYGON = "1 0.2 0.2 0.6 0.2 0.6 0.7 0.3 0.9"
POLYGON_BOX = (1, 0.4, 0.55, 0.4, 0.7)
REPAIRED = "repair", 1
HABITS = {
    "polygons": Habit(
        label("labels/train/b.txt", POLYGON, "0 0.1 0.1 0.3 0.1 0.3 0.3"),
        {"b.jpg": [POLYGON_BOX, (0, 0.2, 0.2, 0.2, 0.2)]},
        {"polygon": ("repair", 2)},
        refused="b.txt:1: 9 fields are a polygon",
    ),
    "two polygons in one box are two objects": Habit(
        label("labels/train/b.txt", "0 0.1 0.1 0.3 0.1 0.3 0.3", "0 0.1 0.1 0.1 0.3 0.3 0.3"),
        {"b.jpg": [(0, 0.2, 0.2, 0.2, 0.2)] * 2},
        {"polygon": ("repair", 2), "double-box": ("warning", 1)},
        refused="polygon",
    ),
    "polygons and boxes in one file": Habit(
        label("labels/train/b.txt", POLYGON, LABEL.strip()),
        {"b.jpg": [POLYGON_BOX, BOX]},
        {"polygon": REPAIRED},
        ultralytics="loses",
        refused="polygon",
    ),
    "polygons in one file, boxes in another": Habit(
        label("labels/train/b.txt", POLYGON),
        {"b.jpg": [POLYGON_BOX]},
        {"polygon": REPAIRED},
        refused="polygon",
    ),
    "boxes with keypoints": Habit(
        both(
            label("labels/train/b.txt", "0 0.5 0.5 0.25 0.5 0.1 0.1 0.9 0.9"),
            described(YAML + "kpt_shape: [2, 2]\n"),
        ),
        {},
        {"keypoints": REPAIRED},
        refused="9 fields are a polygon",
    ),
    "the same box twice": Habit(
        label("labels/train/b.txt", LABEL.strip(), "1 0.2 0.2 0.1 0.1", LABEL.strip()),
        {"b.jpg": [BOX, (1, 0.2, 0.2, 0.1, 0.1)]},
        {"duplicate-box": REPAIRED},
        refused="b.txt:3: repeats line 1",
    ),
    "coordinates rounded past the edge": Habit(
        label("labels/train/b.txt", "0 1.01 0.5 0.1 0.1", "1 0.5 -0.01 0.2 0.2", "1 0.5 0.5 1.005 1"),
        {"b.jpg": [(0, 0.98, 0.5, 0.04, 0.1), (1, 0.5, 0.045, 0.2, 0.09), (1, 0.5, 0.5, 1, 1)]},
        {"rounding": ("repair", 3)},
        refused="b.txt:1: cx is 1.01, outside [0, 1] by rounding",
    ),
    "the same image twice": Habit(
        both(
            copied("images/train/a.jpg", "images/train/a (1).jpg"),
            copied("labels/train/a.txt", "labels/train/a (1).txt"),
        ),
        {},
        {"duplicate": REPAIRED},
        ultralytics="repeats",
        refused="a.jpg: is identical to ",
    ),
    "a missing test folder": Habit(
        described(YAML + "test: ../test/images\n"), {}, {"missing-split": ("note", 1)}
    ),
    "classes without names": Habit(
        described(YAML.replace("names: [cat, dog]", "nc: 2")),
        {},
        {"no-names": ("note", 1)},
        refused="'names' is missing",
    ),
    "backslashes in a path": Habit(
        described(YAML.replace("images/", "images\\")),
        {},
        {"path": ("repair", 2)},
        ultralytics="refuses",
        refused=r"images\train, which does not exist; write / instead of \, and correct 'train' or 'path'",
    ),
    "backslashes in a list": Habit(
        both(
            described(YAML.replace("images/train", "train.txt")),
            label("train.txt", r"images\train\a.jpg", r".\images\train\b.jpg"),
        ),
        {},
        {"path": ("repair", 2)},
        ultralytics="refuses",
        refused=r"train.txt:1: there is no image 'images\\train",
    ),
    "splits of another machine": Habit(
        described(YAML.replace("images/", "/content/set/images/")),
        {},
        {"path": ("repair", 2)},
        ultralytics="refuses",
        refused="its end is not below",
    ),
    "a path of another machine": Habit(
        described("path: /content/sets/mine\n" + YAML),
        {},
        {"path": REPAIRED},
        ultralytics="refuses",
        refused="/content/sets/mine/images/train, which does not exist",
    ),
    "a path of another Windows machine": Habit(
        described("path: 'D:\\sets\\mine'\n" + YAML),
        {},
        {"path": REPAIRED},
        ultralytics="refuses",
        refused="which does not exist",
    ),
    "a list of another machine": Habit(
        both(
            described(YAML.replace("images/train", "train.txt")),
            label("train.txt", "/content/set/images/train/a.jpg", "/content/set/images/train/b.jpg"),
        ),
        {},
        {"path": ("repair", 2)},
        ultralytics="refuses",
        refused="lies outside the dataset's folder",
    ),
    "val is the folder of train": Habit(
        described(YAML.replace("images/val", "images/train")), {}, {"same-images": ("warning", 1)}
    ),
    "test is the folder of val": Habit(
        described(YAML + "test: images/val\n"), {}, {"same-test": ("warning", 1)}
    ),
    "valid for val": Habit(
        described(YAML.replace("val:", "valid:")),
        {},
        {"split-name": ("note", 1)},
        ultralytics="refuses",
        refused="'val' is missing",
    ),
    "validation for val": Habit(
        described(YAML.replace("val:", "validation:")),
        {},
        {"split-name": ("note", 1)},
        refused="'val' is missing",
    ),
    "an image repeated in a list": Habit(
        both(
            described(YAML.replace("images/train", "train.txt")),
            label("train.txt", "./images/train/a.jpg", "./images/train/b.jpg", "./images/train/a.jpg"),
        ),
        {},
        {"listed-twice": REPAIRED},
        refused="a.jpg: is listed twice in 'train'",
    ),
    "labels called .TXT": Habit(
        moved("labels/train/b.txt", "labels/train/b.TXT"),
        {},
        {"label-name": REPAIRED},
        ultralytics="loses",
        refused="b.TXT: belongs to ",
    ),
    "labels in another case": Habit(
        moved("labels/train/b.txt", "labels/train/B.txt"),
        {},
        {"label-name": REPAIRED},
        ultralytics="loses",
        refused="B.txt: belongs to ",
    ),
    "labels called b.jpg.txt": Habit(
        moved("labels/train/b.txt", "labels/train/b.jpg.txt"),
        {},
        {"label-name": REPAIRED},
        ultralytics="loses",
        refused="b.jpg.txt: belongs to ",
    ),
    "accents written in two ways": Habit(
        both(
            moved("images/train/b.jpg", "images/train/" + unicodedata.normalize("NFD", "größe.jpg")),
            moved("labels/train/b.txt", "labels/train/" + unicodedata.normalize("NFC", "größe.txt")),
        ),
        {},
        {"label-name": REPAIRED, "non-ascii-name": ("note", 1)},
        ultralytics="loses",
        refused="belongs to ",
    ),
    "labels beside images of a folder called images": Habit(
        both(
            moved("labels/train/a.txt", "images/train/a.txt"),
            moved("labels/train/b.txt", "images/train/b.txt"),
        ),
        {},
        {"labels-beside": ("repair", 2)},
        ultralytics="loses",
        refused="a.txt: belongs to ",
    ),
    "JPEGs called .jfif and .jpe": Habit(
        both(
            moved("images/train/a.jpg", "images/train/a.jfif"),
            moved("images/train/b.jpg", "images/train/b.jpe"),
        ),
        {},
        {},
        ultralytics="refuses",
    ),
    "pictures in a format that is not read": Habit(
        both(
            label("images/train/c.avif", "x"),
            label("images/train/d.HEIC", "x"),
            label("images/train/e.avif", "x"),
        ),
        {},
        {"unread-format": ("warning", 3)},
        ultralytics="not asked",
    ),
    "what Jupyter and macOS leave": Habit(
        both(
            copied("images/train/a.jpg", "images/train/.ipynb_checkpoints/a-checkpoint.jpg"),
            label("images/train/._a.jpg", "x"),
        ),
        {},
        {},
    ),
    "what macOS leaves, in a list of find": Habit(
        both(
            described(YAML.replace("images/train", "train.txt")),
            label("images/train/._a.jpg", "x"),
            label("train.txt", "./images/train/._a.jpg", "./images/train/a.jpg", "./images/train/b.jpg"),
        ),
        {},
        {"hidden": REPAIRED},
        refused="train.txt:1: '._a.jpg' is hidden",
    ),
}


OF_THE_SMALL_DATASET = {"empty-class", "missing-from-val", "missing-from-train", "clipped"}


def load(data: Path, **keys: object) -> Dataset:
    """Read as a training run does."""
    return load_configured(DataConfig.model_validate({"path": str(data), "image_size": 320, **keys}), 0)


def kinds(read: Dataset) -> dict[str, tuple[str, int]]:
    """What was counted, without what is so in any dataset of three images."""
    notes = [note for note in read.notes if note.kind not in OF_THE_SMALL_DATASET]
    return {note.kind: (note.severity, note.count) for note in notes}


def checked(capsys: pytest.CaptureFixture[str], data: Path, *arguments: str) -> Counter[tuple[str, str]]:
    """What `detector check` counts."""
    capsys.readouterr()
    assert main(["check", str(data), *arguments, "--json"]) in (0, 1)
    found: Counter[tuple[str, str]] = Counter()
    for problem in json.loads(capsys.readouterr().out)["problems"]:
        found[problem["severity"], problem["kind"]] += problem["count"]
    return found


def compare(expected: str, read: Dataset, copy: Path) -> None:
    """Whether ultralytics does with a copy of the dataset what is expected of it."""
    mine = ours(read)
    if expected == "refuses":
        with pytest.raises((FileNotFoundError, RuntimeError, SyntaxError, ValueError)):
            theirs(copy)
    elif expected == "the same":
        assert theirs(copy) == mine
    elif expected == "repeats":  # an image that is there twice
        found = theirs(copy)
        assert found.keys() == mine.keys() and found.total() > mine.total()
    elif expected == "loses":  # an image or its boxes
        found, objects = theirs(copy), dict(mine.keys())
        assert all({*boxes} <= {*objects[image]} for image, boxes in found)
        assert sum(len(boxes) for _, boxes in found) < sum(map(len, objects.values()))
    else:
        assert expected == "not asked"  # it would install a package first


@pytest.mark.parametrize("name", HABITS)
def test_a_habit_is_read_as_it_is_meant_and_counted(
    dataset: Path, name: str, capsys: pytest.CaptureFixture[str]
) -> None:
    habit = HABITS[name]
    habit.build(dataset)
    data = dataset / "data.yaml"
    read = load(data)
    for item in read.splits["train"]:
        rows = np.column_stack([item.classes, item.boxes])
        meant = read_of(item.image, np.array(habit.meant.get(item.image.name, [BOX])))
        assert read_of(item.image, rows) == meant
    assert kinds(read) == habit.said
    assert checked(capsys, data) == {(note.severity, note.kind): note.count for note in read.notes}
    compare(habit.ultralytics, read, shutil.copytree(dataset, dataset.with_name("copy")) / "data.yaml")
    if habit.refused:
        with pytest.raises(UserError) as caught:
            load(data, repair=False)
        assert habit.refused in str(caught.value)
    else:
        assert ours(load(data, repair=False)) == ours(read)


# ------------------------------------------------------------------------------------- one by one


def test_a_path_that_leads_up_from_the_folder_for_datasets(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """`../datasets/mine` is what ultralytics' own YAMLs looked like, and those of many since."""
    described = tmp_path / "yamls" / "animals.yaml"
    described.parent.mkdir()
    described.write_text("path: ../datasets/mine\n" + YAML)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    (tmp_path / "elsewhere").mkdir()
    shutil.move(dataset, tmp_path / "elsewhere" / "datasets" / "mine")
    with pytest.raises(UserError, match=r"datasets/mine/images/train, which does not exist"):
        load(described)
    monkeypatch.setenv("DETECTOR_DATASETS", str(tmp_path / "elsewhere" / "datasets"))
    read = load(described)
    assert kinds(read) == {"path": ("repair", 1)}
    module = import_ultralytics("data.utils")
    monkeypatch.setattr(module, "DATASETS_DIR", tmp_path / "elsewhere" / "datasets")
    assert theirs(described) == ours(read)


def test_a_split_that_nobody_asks_for_may_be_missing(dataset: Path) -> None:
    expected = load_configured(DataConfig(path=str(dataset / "data.yaml"), image_size=320), 0)
    described(YAML.replace("images/train", "../gone/images") + "test: nowhere\nminival: nowhere\n")(dataset)
    only = read_dataset(dataset / "data.yaml", splits=("val",))
    assert [*only.splits] == ["val"] and ours(only, "val") == ours(expected, "val")
    with pytest.raises(UserError, match=r"'train' names .*gone/images, which does not exist"):
        load(dataset / "data.yaml")


def test_a_path_as_ultralytics_resolves_it(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Beside the data YAML, then in the working directory, then in either program's folder for datasets."""
    described = tmp_path / "yamls/animals.yaml"
    described.parent.mkdir()
    described.write_text("path: mine\n" + YAML)
    monkeypatch.setenv("YOLO_CONFIG_DIR", str(tmp_path / "settings"))
    monkeypatch.chdir(tmp_path / "yamls")
    with pytest.raises(UserError, match=r"'train' names .*mine/images/train, which does not exist"):
        read_dataset(described)
    expected = ours(load(dataset / "data.yaml"))

    (tmp_path / "settings").mkdir()
    (tmp_path / "settings/settings.json").write_text(f'{{"datasets_dir": "{tmp_path}"}}')
    assert ours(read := load(described)) == expected and kinds(read) == {"path": ("repair", 1)}
    (tmp_path / "settings/settings.json").unlink()
    monkeypatch.setenv("DETECTOR_DATASETS", str(tmp_path))
    assert ours(load(described)) == expected
    monkeypatch.setenv("DETECTOR_DATASETS", str(tmp_path / "none"))
    monkeypatch.chdir(tmp_path)
    assert ours(read := load(described)) == expected
    assert str(read.notes[0]) == "repaired (path): yamls/animals.yaml: path is mine, read as mine"
    shutil.copytree(dataset, tmp_path / "copy/mine")
    shutil.copy(described, tmp_path / "copy/animals.yaml")
    monkeypatch.chdir(tmp_path / "copy")
    assert theirs(tmp_path / "copy/animals.yaml") == expected


def test_an_export_of_roboflow_is_read_from_beside_its_yaml(dataset: Path) -> None:
    (dataset / "data.yaml").write_text(YAML.replace("images/", "../images/"))
    read = load(dataset / "data.yaml")
    assert kinds(read) == {}  # the usual export: there is nothing to be said
    assert theirs(shutil.copytree(dataset, dataset.parent / "lone/mine") / "data.yaml") == ours(read)
    for split in ("train", "val"):  # and now a neighbour, which ultralytics would take
        shutil.copytree(dataset / "images" / split, dataset.parent / "images" / split)
    again = load(dataset / "data.yaml")
    assert ours(again) == ours(read) and kinds(again) == {"path": ("repair", 2)}
    assert f"read from {dataset}/images/train beside the data YAML, not from" in again.notes[0].first
    with pytest.raises(UserError, match=rf"the first is looked for at {dataset.parent}/labels/train/a\.txt"):
        load(dataset / "data.yaml", repair=False)
    described("path: ROOT\n" + YAML.replace("images/", "../images/"))(dataset)  # this one says what it means
    with pytest.raises(UserError, match=rf"the first is looked for at {dataset.parent}/labels/train/a\.txt"):
        load(dataset / "data.yaml")


def test_a_split_that_an_export_lacks_is_not_taken_from_its_neighbour(dataset: Path) -> None:
    text = YAML.replace("images/", "../images/")
    (dataset / "data.yaml").write_text(text + "test: ../images/test\n")
    expected = ours(load(dataset / "data.yaml"))
    for kind in ("images", "labels"):
        shutil.copytree(dataset / kind / "val", dataset.parent / kind / "test")
    read = load(dataset / "data.yaml")
    assert ours(read) == expected and [*read.splits] == ["train", "val"]
    assert kinds(read) == {"missing-split": ("note", 1)}
    for kind in ("images", "labels"):
        (dataset / kind / "val").rename(dataset.parent / kind / "val")
    with pytest.raises(UserError, match=rf"{dataset}/images/val, which does not exist; .* a neighbour's"):
        load(dataset / "data.yaml")
    assert len(load(dataset / "data.yaml", val_fraction=0.5).splits["val"]) == 1
    described("path: ROOT\n" + text.replace("../images/train", "images/train"))(dataset)
    assert len(load(dataset / "data.yaml").splits["val"]) == 1  # said plainly, it is read


def test_a_val_that_is_a_link_to_train_is_refused(dataset: Path) -> None:
    for folder in ("images", "labels"):
        shutil.rmtree(dataset / folder / "val")
        (dataset / folder / "val").symlink_to("train")
    with pytest.raises(UserError, match=r"no image of 'val' is usable; .* is in 'val' and, as .* 'train'"):
        load(dataset / "data.yaml")


def test_classes_without_names_are_numbered(dataset: Path) -> None:
    described(YAML.replace("names: [cat, dog]", "nc: 2"))(dataset)
    assert load(dataset / "data.yaml").names == ("class_0", "class_1")


def test_names_with_a_gap_name_the_missing_id(dataset: Path) -> None:
    described(YAML.replace("[cat, dog]", "{0: cat, 2: dog}"))(dataset)
    with pytest.raises(UserError, match="must be 0 to 1, each once; 1 is missing"):
        load(dataset / "data.yaml")


def test_a_file_system_root_names_no_dataset() -> None:
    assert DataYaml(Path("/data.yaml"), Path("/"), ("cat",), {}, ".", None).name == "data"


@pytest.mark.parametrize("suffix", [".heic", ".avif", ".dng", ".gif"])
def test_a_folder_of_pictures_that_are_not_read_says_so(dataset: Path, suffix: str) -> None:
    (dataset / "images/val/c.jpg").rename(dataset / f"images/val/c{suffix}")
    with pytest.raises(UserError, match=rf"'val' has no usable image; .*\(1 \{suffix}\): save them as JPEG"):
        load(dataset / "data.yaml")


def test_the_first_half_of_a_stereo_picture_is_read(dataset: Path) -> None:
    stream = io.BytesIO()
    left, right = PillowImage.new("RGB", (32, 24), (200, 40, 90)), PillowImage.new("RGB", (32, 24))
    left.save(stream, "MPO", save_all=True, append_images=[right])
    (dataset / "images/train/d.mpo").write_bytes(stream.getvalue())
    read = load(dataset / "data.yaml")
    assert len(read.splits["train"]) == 3
    compare("the same", read, shutil.copytree(dataset, dataset.with_name("copy")) / "data.yaml")
    assert abs(read_image(dataset / "images/train/d.mpo").astype(int) - (200, 40, 90)).max() <= 3


def test_labels_that_could_belong_to_two_images_are_a_warning(dataset: Path) -> None:
    (dataset / "labels/train/b.txt").rename(dataset / "labels/train/B.txt")
    (dataset / "images/train/b.png").write_bytes(picture(77, suffix=".png"))
    assert kinds(load(dataset / "data.yaml")) == {"orphan-label": ("warning", 1), "unlabelled": ("note", 2)}


def test_texts_beside_some_images_are_not_read_but_said(dataset: Path) -> None:
    (dataset / "labels/train/b.txt").rename(dataset / "images/train/b.txt")
    read = load(dataset / "data.yaml")
    assert kinds(read) == {"labels-beside": ("warning", 1), "unlabelled": ("note", 1)}
    line = next(line for line in said(read.notes, "…", 50) if "unlabelled" in line)
    assert "1 of 2 images of 'train' without a label file" in line


def test_texts_beside_images_that_say_something_else_are_a_warning(dataset: Path) -> None:
    shutil.copy(dataset / "labels/train/a.txt", dataset / "images/train/a.txt")
    label("images/train/b.txt", "1 0.2 0.2 0.1 0.1")(dataset)
    read = load(dataset / "data.yaml")
    assert kinds(read) == {"labels-beside": ("warning", 1)}
    assert ours(read) == theirs(shutil.copytree(dataset, dataset.with_name("copy")) / "data.yaml")


# ------------------------------------------------------------------------------ what is lost, and what wins

LOST = {
    "commas": b"0,0.5,0.5,0.25,0.5\n1,0.5,0.5,0.25,0.5\n",
    "words": b"cat 0.5 0.5 0.25 0.5\n",
    "UTF-16": "0 0.5 0.5 0.25 0.5\n".encode("utf-16"),
    "ids": b"7 0.5 0.5 0.25 0.5\n",
}


@pytest.mark.parametrize("name", LOST)
def test_an_image_that_lost_all_its_labels_is_left_out(dataset: Path, name: str) -> None:
    (dataset / "labels/train/b.txt").write_bytes(LOST[name])
    read = load(dataset / "data.yaml", on_error="skip")
    assert [item.image.name for item in read.splits["train"]] == ["a.jpg"]
    assert kinds(read)["labels-lost"] == ("note", 1)
    assert ours(read) == theirs(shutil.copytree(dataset, dataset.with_name("copy")) / "data.yaml")


def test_the_labelled_one_of_identical_images_is_used(dataset: Path) -> None:
    (dataset / "images/train/b.jpg").rename(dataset / "images/train/b (2).jpg")
    (dataset / "labels/train/b.txt").rename(dataset / "labels/train/b (2).txt")
    shutil.copy(dataset / "images/train/b (2).jpg", dataset / "images/train/b (1).jpg")
    for options in ({}, {"on_error": "skip", "repair": False}):
        read = load(dataset / "data.yaml", **options)
        assert [item.image.name for item in read.splits["train"]] == ["a.jpg", "b (2).jpg"]
        assert kinds(read) == {"duplicate": ("error" if options else "repair", 1)}
    label("labels/train/b (1).txt", LABEL.strip(), "1 0.2 0.2 0.1 0.1", "1 0.2 0.2 0.1 0.2")(dataset)
    (note,) = (note for note in load(dataset / "data.yaml").notes if note.kind == "duplicate")
    assert note.first.endswith("b (1).jpg, which is used")
    label("labels/train/b (2).txt", "1 0.4 0.4 0.1 0.1", LABEL.strip())(dataset)
    (note,) = (note for note in load(dataset / "data.yaml").notes if note.kind == "duplicate")
    assert note.first.endswith("b (1).jpg, which is used, and its labels show 1 other objects")


SIXTEEN_BITS = {  # values of the pixels, and what is said of them
    "12 bits": ((0, 4096), "nearly black: its 16 bits hold 2 to 4095 of 0 to 65535"),
    "kelvin": ((29000, 31000), "nearly flat: its 16 bits hold 290"),  # in hundredths, as thermal cameras do
    "all": ((0, 65536), ""),
    "half": ((20000, 50000), ""),
    "nothing": ((0, 1), ""),  # as it was taken
}


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_sixteen_bits_of_little_range_are_a_warning(dataset: Path, suffix: str) -> None:
    for number, (name, ((low, end), words)) in enumerate(SIXTEEN_BITS.items()):
        values = np.random.default_rng(number).integers(low, end, (80, 100), dtype=np.uint16)
        values[0, :5] = end - 1
        if words:
            values[1, :5] = 65535  # pixels of the sensor that are stuck
        cv2.imwrite(str(dataset / f"images/train/{name}{suffix}"), values)
    read = load(dataset / "data.yaml")
    found = {problem.file.stem: problem.message for problem in inspect(scan(dataset / "data.yaml"), 320)[0]
             if problem.kind == "dark"}  # fmt: skip
    assert kinds(read)["dark"] == ("warning", 2) and found.keys() == {"12 bits", "kelvin"}
    assert all(SIXTEEN_BITS[name][1] in message for name, message in found.items())
    for name in SIXTEEN_BITS:  # ultralytics sees the same
        theirs = import_ultralytics("utils.patches").imread(str(dataset / f"images/train/{name}{suffix}"))
        assert (theirs[..., ::-1] == read_image(dataset / f"images/train/{name}{suffix}")).all()


@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.int32])
def test_a_tiff_of_other_numbers_is_not_called_corrupt(dataset: Path, dtype: type) -> None:
    numbers = (np.random.default_rng(3).random((24, 32)) * 99).astype(dtype)
    if dtype is np.int32:
        PillowImage.fromarray(numbers).save(dataset / "images/train/b.tif", "TIFF")
    else:
        cv2.imwrite(str(dataset / "images/train/b.tif"), numbers)
    words = rf"b\.tif: .* its pixels are {np.dtype(dtype)} numbers in 1 channels; save it with 8 bits"
    with pytest.raises(UserError, match=words):
        load(dataset / "data.yaml")


def test_corners_are_recognised(tmp_path: Path) -> None:
    """Boxes drawn at random, written as x1 y1 x2 y2 by mistake; and the same as they should be."""
    data = make_dataset(tmp_path / "cells")
    rng = np.random.default_rng(0)
    for file in sorted((data.parent / "labels").rglob("*.txt")):
        corners = np.sort(rng.uniform(0, 1, (4, 2, 2)), axis=1).reshape(4, 4)
        corners[:, 2:] = np.minimum(corners[:, 2:] + 0.05, 1)
        file.write_text("".join(f"0 {' '.join(f'{v:.4f}' for v in row)}\n" for row in corners))
        (file.with_suffix(".right")).write_text(
            "".join(f"0 {' '.join(f'{v:.4f}' for v in row)}\n" for row in xyxy_to_xywh(corners))
        )
    wrong = {note.kind: note for note in load(data).notes}
    assert wrong["corners"].severity == "warning" and "looks like x1 y1 x2 y2" in wrong["corners"].first
    assert f"{wrong['clipped'].count} of 140 boxes would leave" in wrong["corners"].first
    for file in (data.parent / "labels").rglob("*.right"):
        file.replace(file.with_suffix(".txt"))
    assert "corners" not in {note.kind for note in load(data).notes}


def test_a_split_without_objects_is_said(dataset: Path) -> None:
    (dataset / "labels/val/c.txt").write_text("")
    read = load(dataset / "data.yaml")
    assert kinds(read) == {"no-objects": ("warning", 1)}
    assert theirs(shutil.copytree(dataset, dataset.with_name("copy")) / "data.yaml", "val") == ours(
        read, "val"
    )


# --------------------------------------------------------------------------------------- val_fraction


def collection(root: Path, images: int = 40) -> Path:
    """A folder without a val split, in which each fourth picture is the next frame of the one before."""
    for number in range(images):
        alike = number % 4 == 3
        path = root / f"images/{number:02d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encoded(number - alike, quality=60 if alike else 95))
        label(f"labels/{number:02d}.txt", LABEL.strip())(root)
    described("train: images\nnames: [cat, dog]\n")(root)
    return root / "data.yaml"


def held(data: Path, seed: int, fraction: float = 0.2, **options: object) -> list[str]:
    """The names of the images that are held out; nothing is lost, moved or in both."""
    read = read_dataset(data, val_fraction=fraction, seed=seed)
    train, val = ({item.image.name for item in read.splits[split]} for split in ("train", "val"))
    assert not train & val and len(train | val) == 40
    return sorted(val)


def test_images_are_held_out_by_the_seed(tmp_path: Path) -> None:
    data = collection(tmp_path / "mine")
    before = sorted(path for path in tmp_path.rglob("*"))
    with pytest.raises(UserError, match=r"'val' is missing; add .* or let data\.val_fraction=0\.2 hold out"):
        read_dataset(data)
    draws = [held(data, seed) for seed in range(6)]
    assert draws[0] == held(data, 0) and len({tuple(names) for names in draws}) == 6
    for names in draws:
        assert len(names) == 8
        pairs = [{f"{number - 1:02d}.jpg", f"{number:02d}.jpg"} for number in range(3, 40, 4)]
        assert all(len(pair & {*names}) in (0, 2) for pair in pairs)
    assert sorted(path for path in tmp_path.rglob("*")) == before

    both_ways = [read_dataset(data, val_fraction=0.2, seed=seed).fingerprint for seed in (0, 1)]
    assert both_ways[0] == both_ways[1]  # the same data, divided otherwise: the seed says how
    only = read_dataset(data, splits=("val",), val_fraction=0.2, seed=3)
    assert sorted(item.image.name for item in only.splits["val"]) == draws[3] and list(only.splits) == ["val"]
    found = scan(data, sign=thumbnail, val_fraction=0.2, seed=2)
    assert not any(problem.kind == "near-leak" for problem in inspect(found, 320)[0])


def test_images_are_held_out_only_where_there_is_no_val(dataset: Path, tmp_path: Path) -> None:
    data = dataset / "data.yaml"
    with pytest.raises(UserError, match=r"has a val split; remove it, or leave data.val_fraction out"):
        read_dataset(data, val_fraction=0.5)
    for val in (
        "images/train",
        "../valid/images",
    ):  # the folder of train, and one that Roboflow did not export
        data.write_text(YAML.replace("images/val", val))
        assert len(read_dataset(data, val_fraction=0.5).splits["val"]) == 1
    (dataset / "images/train/b.jpg").unlink()
    with pytest.raises(UserError, match=r"val_fraction=0.5 needs images that can be told apart"):
        read_dataset(data, val_fraction=0.5)


# ----------------------------------------------------------------------------------- training and check


def test_a_run_and_the_check_count_the_same(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All kinds of problems at once, for several configurations: by the command that the run prints."""
    data = make_dataset(tmp_path / "cells")
    for spoiled in SPOILED.values():
        spoiled.spoil(data.parent)
    for keys in (
        {},
        {"repair": False},
        {"image_size": 448},
        {"allow_outside": True},
        {"ignore_scores": True},
    ):
        config = DataConfig.model_validate({"path": str(data), "on_error": "skip", **keys})
        read = load_configured(config, 0)
        command = shlex.split(check_command(config, 0))
        assert command[:2] == ["detector", "check"]
        totals = checked(capsys, Path(command[2]), *command[3:])
        assert {(note.severity, note.kind): note.count for note in read.notes} == totals


def test_the_check_reads_as_a_configuration_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    data = collection(tmp_path / "mine")
    config = tmp_path / "mine.yaml"
    config.write_text("data: {image_size: 640, val_fraction: 0.2}\ntrain: {seed: 3}\n")
    assert main(["check", str(data)]) == 2
    assert "data.val_fraction=0.2" in capsys.readouterr().err
    for arguments, size in (
        (["--config", str(config)], 640),
        (["data.val_fraction=0.2", "train.seed=3"], 320),
    ):
        assert main(["check", str(data), *arguments, "--json"]) == 1  # one class has no box
        document = json.loads(capsys.readouterr().out)
        assert document["statistics"]["image_size"] == size
        assert document["statistics"]["splits"]["val"]["images"] == 8
    wanted = DataConfig(path=str(data), val_fraction=0.2)
    command = f"detector check {data} data.image_size=256 data.val_fraction=0.2 train.seed=3"
    assert check_command(wanted, 3) == command


def test_what_is_counted_is_said_in_one_line_a_kind(dataset: Path) -> None:
    label("labels/train/b.txt", POLYGON, POLYGON + " 0.1 0.1")(dataset)
    read = load(dataset / "data.yaml")
    file = f"{dataset}/labels/train/b.txt"
    assert said(read.notes, "detector check x", 50) == [
        f"repaired (polygon, 2): {file}:1: 9 fields are a polygon; the box that encloses it is read",
        "warning (classes and sizes): missing-from-val",
        "all of that, by file and line: detector check x",
    ]
    assert counted(read.notes) == {"data/repaired": {"polygon": 2}, "data/warnings": {"missing-from-val": 1}}
    few = said(read.notes, "detector check x", 8)
    assert [line for line in few if "expected" in line] == [
        "warning (classes and sizes): to be expected of 8 images: missing-from-val"
    ]
    assert said([], "detector check x", 50) == [] and counted([]) == {}


DEVICES = {"0": "cuda:0", "3": "cuda:3", "'1'": "cuda:1", "cuda": "cuda", "cpu": "cpu"}


@pytest.mark.parametrize("written", DEVICES)
def test_a_number_is_a_gpu(written: str) -> None:
    config = load_config(ROOT / "configs/coco8.yaml", [f"train.device={written}"]).config
    assert config.train.device == DEVICES[written]


@pytest.mark.parametrize("written", ["0,1", "[0, 1]", "'0, 1'"])
def test_several_gpus_are_answered_with_torchrun(written: str) -> None:
    words = r"train\.device: is one device; to train on 2 GPUs: torchrun --nproc-per-node 2 train\.py"
    with pytest.raises(UserError, match=words):
        load_config(ROOT / "configs/coco8.yaml", [f"train.device={written}"])
