"""Counting, against cases worked out by hand and against a plain loop."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.dataset import Dataset, Item
from detector.data.statistics import Sizes, SplitCount, count


def dataset(splits: dict[str, list[list[tuple[int, float, float]]]], classes: int) -> Dataset:
    """A dataset of images with (class, width, height) boxes."""
    items = {
        split: tuple(
            Item(
                Path(f"/d/{split}/{number}.jpg"),
                np.array([box[0] for box in boxes], np.int64),
                np.array([[0.5, 0.5, *box[1:]] for box in boxes], np.float32).reshape(-1, 4),
            )
            for number, boxes in enumerate(images)
        )
        for split, images in splits.items()
    }
    return Dataset("d", tuple(f"c{n}" for n in range(classes)), items, (), "")


def test_by_hand() -> None:
    # Letterboxed to 320, the 640 x 480 images become 320 x 240: 0.1 x 0.1 is 32 x 24 and so on.
    data = dataset(
        {
            "train": [[(0, 0.1, 0.1), (0, 0.2, 0.2), (1, 0.5, 0.5)], []],
            "val": [[(0, 0.02, 0.5)]],
        },
        classes=3,
    )
    sizes = {item.image: (640, 480) for items in data.splits.values() for item in items}
    sizes[Path("/d/val/0.jpg")] = (100, 200)  # becomes 160 x 320: 3.2 x 160
    found = count(data, sizes, 320)
    assert found.splits == {"train": SplitCount(2, 1, 3), "val": SplitCount(1, 0, 1)}
    cell, other, none = found.classes
    assert cell.boxes == {"train": 2, "val": 1} and cell.images == {"train": 1, "val": 1} and cell.total == 3
    assert cell.sizes == Sizes(2, 1, 0, pytest.approx(32), pytest.approx(48), 1)
    assert other.sizes == Sizes(0, 0, 1, pytest.approx(160), pytest.approx(120), 0)
    assert none.boxes == {"train": 0, "val": 0} and none.sizes == Sizes(0, 0, 0, None, None, 0)
    assert found.sizes.small == 2 and found.sizes.medium == 1 and found.sizes.large == 1
    assert found.image_sizes == ((640, 480, 2), (100, 200, 1))


def test_cocos_limits_belong_to_the_larger_class() -> None:
    data = dataset({"train": [[(0, 0.1, 0.1), (0, 0.3, 0.3), (0, 0.025, 0.5)]]}, classes=1)
    sizes = count(data, {Path("/d/train/0.jpg"): (320, 320)}, 320).sizes
    assert (sizes.small, sizes.medium, sizes.large) == (0, 2, 1)  # 32², 8 x 160 and 96²
    assert sizes.below_stride == 0  # 8 pixels are not below 8


box = st.tuples(st.integers(0, 3), st.floats(0.01, 1), st.floats(0.01, 1))
splits = st.fixed_dictionaries({
    "train": st.lists(st.lists(box, max_size=5), min_size=1, max_size=4),
    "val": st.lists(st.lists(box, max_size=5), min_size=1, max_size=4),
})  # fmt: skip


@pytest.mark.slow
@given(splits)
def test_against_a_plain_loop(images: dict[str, list[list[tuple[int, float, float]]]]) -> None:
    data = dataset(images, classes=4)
    found = count(data, {item.image: (50, 40) for items in data.splits.values() for item in items}, 64)
    boxes: Counter[tuple[str, int]] = Counter()
    shown: Counter[tuple[str, int]] = Counter()
    for split, lists in images.items():
        for one in lists:
            boxes.update((split, index) for index, _, _ in one)
            shown.update({(split, index) for index, _, _ in one})
    for split in images:
        assert [one.boxes[split] for one in found.classes] == [boxes[split, index] for index in range(4)]
        assert [one.images[split] for one in found.classes] == [shown[split, index] for index in range(4)]
    total = found.sizes.small + found.sizes.medium + found.sizes.large
    assert total == sum(one.boxes for one in found.splits.values()) == sum(one.total for one in found.classes)
