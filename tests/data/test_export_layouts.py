"""The folders that annotation tools export are read as docs/own_data.md says."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from detector.data.dataset import read_dataset
from detector.errors import UserError
from tests.support import ROOT
from tests.tools.convert.builders import save_picture

LABEL = "1 0.5 0.5 0.25 0.5\n"
NAMES = "names: [cat, dog]\n"


def add(root: Path, image: str, label: str, seed: int) -> None:
    """An image and its labels."""
    save_picture(root / image, seed)
    (root / label).parent.mkdir(parents=True, exist_ok=True)
    (root / label).write_text(LABEL)


def counts(root: Path, text: str) -> dict[str, int]:
    """How many labelled images each split has."""
    (root / "data.yaml").write_text(text)
    found = read_dataset(root / "data.yaml").splits
    assert all(item.classes.tolist() == [1] for items in found.values() for item in items)
    return {split: len(items) for split, items in found.items()}


def test_labelimg_yolo(tmp_path: Path) -> None:
    for seed, name in enumerate(("one/a", "one/b", "two/a")):
        add(tmp_path, f"{name}.jpg", f"{name}.txt", seed)
    for folder in ("one", "two"):
        (tmp_path / folder / "classes.txt").write_text("cat\ndog\n")
    assert counts(tmp_path, f"train: one\nval: two\n{NAMES}") == {"train": 2, "val": 1}


def test_cvat_yolo_1_1(tmp_path: Path) -> None:
    for seed, name in enumerate(("obj_train_data/a", "obj_train_data/b", "obj_valid_data/c")):
        add(tmp_path, f"{name}.png", f"{name}.txt", seed)
    (tmp_path / "obj.data").write_text("classes = 2\ntrain = data/train.txt\nnames = data/obj.names\n")
    (tmp_path / "obj.names").write_text("cat\ndog\n")
    (tmp_path / "train.txt").write_text("data/obj_train_data/a.png\ndata/obj_train_data/b.png\n")
    text = f"train: obj_train_data\nval: obj_valid_data\n{NAMES}"
    assert counts(tmp_path, text) == {"train": 2, "val": 1}
    with pytest.raises(UserError, match=r"'train' has no usable image.*train\.txt:1"):
        counts(tmp_path, text.replace("train: obj_train_data", "train: train.txt"))


def test_cvat_ultralytics_yolo(tmp_path: Path) -> None:
    for seed, name in enumerate(("train/a", "train/b", "val/c")):
        add(tmp_path, f"images/{name}.png", f"labels/{name}.txt", seed)
    (tmp_path / "train.txt").write_text("images/train/a.png\nimages/train/b.png\n")
    (tmp_path / "val.txt").write_text("images/val/c.png\n")
    names = "names:\n  0: cat\n  1: dog\n"
    assert counts(tmp_path, f"path: ./\ntrain: train.txt\nval: val.txt\n{names}") == {"train": 2, "val": 1}
    with pytest.raises(UserError, match="'val' is missing"):
        counts(tmp_path, f"path: ./\ntrain: train.txt\n{names}")


def test_roboflow_yolo(tmp_path: Path) -> None:
    for seed, split in enumerate(("train", "valid", "test")):
        name = f"x_jpg.rf.{seed:032x}"
        add(tmp_path, f"{split}/images/{name}.jpg", f"{split}/labels/{name}.txt", seed)
    (tmp_path / "README.roboflow.txt").write_text("exported\n")
    text = (
        "train: ../train/images\nval: ../valid/images\ntest: ../test/images\n\nnc: 2\nnames: ['cat', 'dog']\n"
    )
    assert counts(tmp_path, text) == {"train": 1, "val": 1, "test": 1}


def test_label_studio_yolo_and_the_lists_of_the_documentation(tmp_path: Path) -> None:
    for seed in range(60):
        add(tmp_path, f"images/{seed:08x}-photo.jpg", f"labels/{seed:08x}-photo.txt", seed)
    for folder in (".", "labels"):
        (tmp_path / folder / "classes.txt").write_text("cat\ndog\n")
        (tmp_path / folder / "notes.json").write_text("{}")
    documented = (
        (ROOT / "docs/own_data.md").read_text(encoding="utf-8").partition("To choose them yourself")[2]
    )
    script = documented.partition("```bash\n")[2].partition("```")[0]
    subprocess.run(["bash", "-euc", script], cwd=tmp_path, check=True)
    assert counts(tmp_path, f"train: train.txt\nval: val.txt\n{NAMES}") == {"train": 10, "val": 50}
