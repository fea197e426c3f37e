"""Data in a format of one's own: what a reader's images and boxes are checked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as Picture

from detector.config.schema import DataConfig
from detector.data.dataset import Dataset, Item
from detector.data.own import build_dataset, read_registered
from detector.errors import UserError
from detector.registry import register


@pytest.fixture
def item(tmp_path: Path) -> Item:
    Picture.new("RGB", (20, 10)).save(tmp_path / "a.png")
    return Item(tmp_path / "a.png", np.array([1]), np.array([[0.5, 0.5, 1.0, 0.2]], np.float32))


def test_it_is_a_dataset_whose_fingerprint_is_its_content(item: Item) -> None:
    dataset = build_dataset("mine", ["cat", "dog"], {"train": [item], "val": [item]})
    assert (dataset.name, dataset.names, dataset.skipped) == ("mine", ("cat", "dog"), ())
    assert dataset.splits == {"train": (item,), "val": (item,)}
    moved = replace(item, boxes=item.boxes - np.array([0, 0.1, 0, 0], np.float32))
    relabelled = replace(item, classes=np.array([0]))
    others = [
        build_dataset("mine", ["cat", "cow"], {"train": [item], "val": [item]}),
        build_dataset("mine", ["cat", "dog"], {"train": [moved], "val": [item]}),
        build_dataset("mine", ["cat", "dog"], {"train": [relabelled], "val": [item]}),
    ]
    assert len({dataset.fingerprint, *(other.fingerprint for other in others)}) == 4
    again = build_dataset("another", ["cat", "dog"], {"train": [item], "val": [item]})
    assert again.fingerprint == dataset.fingerprint


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"image": Path("nowhere.png")}, r"mine: train: nowhere\.png: there is no such file"),
        ({"classes": np.array([2])}, r"a class is not one of the 2"),
        ({"classes": np.array([-1])}, r"a class is not one of the 2"),
        ({"classes": np.array([0, 1])}, r"expected boxes \(N, 4\) and classes \(N,\), not \(1, 4\), \(2,\)"),
        ({"boxes": np.array([[5, 5, 2, 2.0]])}, "is not cx cy w h in fractions"),
        ({"boxes": np.array([[0.5, 0.5, 0.0, 0.1]])}, "is not cx cy w h in fractions"),
        ({"boxes": np.array([[0.5, np.nan, 0.1, 0.1]])}, "is not cx cy w h in fractions"),
        ({"boxes": np.array([[0.9, 0.5, 0.4, 0.1]])}, "is not cx cy w h in fractions"),
    ],
)
def test_what_cannot_be_trained_on_is_named(item: Item, changes: dict[str, object], said: str) -> None:
    with pytest.raises(UserError, match=said):
        build_dataset("mine", ["cat", "dog"], {"train": [replace(item, **changes)], "val": [item]})


def test_both_splits_must_be_there(item: Item) -> None:
    with pytest.raises(UserError, match="mine: the split 'val' has no images"):
        build_dataset("mine", ["cat", "dog"], {"train": [item]})


def test_a_reader_is_given_the_path_and_returns_a_dataset(item: Item, own_names: None) -> None:
    seen: list[Path] = []

    def read(path: Path) -> Dataset:
        seen.append(path)
        return build_dataset("mine", ["cat", "dog"], {"train": [item], "val": [item]})

    register.dataset("mine")(read)
    assert read_registered(DataConfig(path="some/where.json", format="mine")).name == "mine"
    assert seen == [Path("some/where.json")]
    register.dataset("nothing")(lambda path: None)
    with pytest.raises(UserError, match=r"data\.format=nothing: must return a .*Dataset, not NoneType"):
        read_registered(DataConfig(format="nothing"))
