"""Every kind of problem, one by one and all together; then what must not be reported."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.boxes import SAME_OBJECT, Boxes, same_objects
from detector.data.dataset import read_dataset, scan
from detector.data.geometry import iou_matrix, xywh_to_xyxy
from detector.data.near_duplicates import thumbnail
from detector.data.preflight import preflight
from detector.data.problems import Problem
from detector.data.sources import datasets_dir
from detector.data.statistics import count
from detector.errors import UserError
from tests.data.preflight_data import GOOD_BOXES, SPOILED, encoded, make_dataset


def problems_of(data: Path, image_size: int = 320) -> list[Problem]:
    """What the check finds."""
    found = scan(data, sign=thumbnail)
    return preflight(found, count(found.dataset, {p: f.size for p, f in found.files.items()}, image_size))


def test_nothing_is_found_where_nothing_is_wrong(tmp_path: Path) -> None:
    assert problems_of(make_dataset(tmp_path / "cells")) == []


@pytest.mark.parametrize("kind", SPOILED)
def test_each_problem_gives_exactly_one_line(tmp_path: Path, kind: str) -> None:
    data = make_dataset(tmp_path / "cells")
    spoiled = SPOILED[kind]
    spoiled.spoil(data.parent)
    (problem,) = [problem for problem in problems_of(data) if problem.kind != "labels-lost"]
    assert (problem.kind, problem.severity) == (kind, spoiled.severity)
    assert (problem.file, problem.line) == (data.parent / spoiled.file, spoiled.line or problem.line)
    assert spoiled.words in problem.message
    # An error is what training refuses, and nothing else is.
    if spoiled.severity == "error":
        with pytest.raises(UserError, match="1 problem in the data"):
            read_dataset(data)
        return
    read_dataset(data)
    if spoiled.severity == "repair":
        with pytest.raises(UserError, match="1 problem in the data"):
            read_dataset(data, repair=False)
    else:
        read_dataset(data, repair=False)


def test_all_problems_together_give_one_line_each(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    for spoiled in SPOILED.values():
        spoiled.spoil(data.parent)
    found = problems_of(data)
    assert Counter(problem.kind for problem in found) == dict.fromkeys([*SPOILED, "labels-lost"], 1)
    order = ["error", "repair", "warning", "note"]
    assert [problem.severity for problem in found] == sorted((p.severity for p in found), key=order.index)


def test_rounding_is_not_clipping(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    (data.parent / "labels/train/00.txt").write_text(
        "0 0.145 0.5 0.3 0.4\n1 0.7 0.5 0.3 1.0\n"
    )  # by 0.48 pixels
    assert problems_of(data) == []


def test_boxes_of_two_classes_or_partly_overlapping_are_two_objects(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    lines = ["0 0.5 0.5 0.3 0.3", "1 0.5 0.5 0.3 0.3", "0 0.51 0.5 0.3 0.3"]  # IoU 0.29 / 0.31 = 0.935
    (data.parent / "labels/train/00.txt").write_text("\n".join(lines))
    assert problems_of(data) == []


def test_many_tiny_boxes_are_a_warning_and_larger_images_help(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    for number in range(3):
        (data.parent / f"labels/train/{number:02d}.txt").write_text("1 0.5 0.5 0.02 0.3\n0 0.3 0.3 0.3 0.3\n")
    (problem,) = problems_of(data)
    assert (problem.kind, problem.severity, problem.line) == ("tiny", "warning", 1)
    assert "all 3 boxes of 'platelet' (8.6%)" in problem.message  # 3 of 35
    assert problems_of(data, image_size=448) == []  # 0.02 · 448 = 8.96


def test_tiny_is_measured_on_the_letterboxed_image(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")  # 96 x 72: letterboxed to 320 x 240
    (data.parent / "labels/train/00.txt").write_text("0 0.5 0.5 0.3 0.034\n")  # 8.16 pixels high
    assert problems_of(data) == []
    (data.parent / "labels/train/00.txt").write_text("0 0.5 0.5 0.3 0.033\n")  # 7.92
    assert [problem.kind for problem in problems_of(data)] == ["tiny"]


def test_what_tools_leave_beside_labels_is_no_orphan(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    for name in ("classes.txt", "README.roboflow.txt", ".hidden.txt", "old.json"):
        (data.parent / "labels/train" / name).write_text("cell")
    assert problems_of(data) == []


def test_a_label_whose_image_is_in_no_split_is_no_orphan(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    (data.parent / "train.txt").write_text("".join(f"images/train/{n:02d}.jpg\n" for n in range(20)))
    data.write_text(data.read_text().replace("train: images/train", "train: train.txt"))
    assert problems_of(data) == []
    (data.parent / "images/train/25.jpg").unlink()
    assert [problem.kind for problem in problems_of(data)] == ["orphan-label"]


def test_orphans_in_a_folder_that_has_no_images_are_found(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    (data.parent / "labels/train/deep").mkdir()
    (data.parent / "labels/train/deep/x.txt").write_text(GOOD_BOXES[0])
    (problem,) = problems_of(data)
    assert problem.kind == "orphan-label" and problem.file.name == "x.txt"


def test_near_duplicates_inside_one_split_are_no_leak(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    (data.parent / "images/train/05.jpg").write_bytes(encoded(4, quality=60))
    assert problems_of(data) == []


def test_without_thumbnails_no_near_duplicates(tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    SPOILED["near-leak"].spoil(data.parent)
    found = scan(data)
    assert preflight(found, count(found.dataset, {p: f.size for p, f in found.files.items()}, 320)) == []


def test_every_file_is_tracked_once(tmp_path: Path) -> None:
    seen: list[object] = []

    def track(files, total):  # type: ignore[no-untyped-def]
        assert total == 35
        for file in files:
            seen.append(file)
            yield file

    found = scan(make_dataset(tmp_path / "cells"), track=track)
    assert len(seen) == 35 and list(found.files.values()) == seen
    assert all(file.signature is None and file.size == (96, 72) for file in found.files.values())


def test_real_bccd_has_one_leak() -> None:
    """Two shots of one field of view, of which one is in train and the other in val."""
    data = datasets_dir() / "bccd/data.yaml"
    if not data.is_file():
        pytest.skip("BCCD is not here")
    (problem,) = problems_of(data)
    assert problem.kind == "near-leak" and problem.file.name == "BloodImage_00037.jpg"
    assert "BloodImage_00038.jpg" in problem.message


@given(data=st.data())
def test_boxes_of_one_object_as_comparing_each_with_each_finds_them(data: st.DataObject) -> None:
    """All pairs one by one: of those above the bound the best, of equals the first."""
    near = st.sampled_from([0.3, 0.301, 0.302, 0.5])
    rows = data.draw(st.lists(st.tuples(st.integers(0, 2), st.integers(0, 1), near, near, near), max_size=14))
    owner, classes = (np.array([row[column] for row in sorted(rows)], np.int64) for column in (0, 1))
    boxes = np.array([(x, y, w, 0.3) for _, _, x, y, w in sorted(rows)], np.float32).reshape(-1, 4)
    rest = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.bool_), np.zeros(len(rows), np.float32)
    iou = iou_matrix(xywh_to_xyxy(boxes), xywh_to_xyxy(boxes))
    expected = []
    for second in range(len(rows)):
        before = [first for first in range(second)
                  if owner[first] == owner[second] and classes[first] == classes[second]]  # fmt: skip
        if before and max(iou[second, before]) >= SAME_OBJECT:
            expected.append((max(before, key=lambda first: iou[second, first]), second))
    found = [(first, second) for first, second, _ in same_objects(Boxes([], owner, classes, boxes, *rest))]
    assert found == expected
