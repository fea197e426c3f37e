"""The rendered set: reproducible, correctly labelled, and as varied as it claims."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from detector.data import shapes
from detector.data.dataset import read_dataset
from detector.data.shapes import NAMES, render_image, render_shapes
from detector.errors import UserError


def content(folder: Path) -> dict[str, bytes]:
    """Every file below a folder."""
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    render_shapes(tmp_path / "one", train=5, val=2, size=128)
    render_shapes(tmp_path / "two", train=5, val=2, size=128)
    render_shapes(tmp_path / "three", train=3, val=2, size=128)
    render_shapes(tmp_path / "four", train=5, val=2, size=128, seed=1)
    one, two, three, four = (content(tmp_path / name) for name in ("one", "two", "three", "four"))
    assert one == two
    assert len(one) == 2 * 7 and len(set(one.values())) == len(one)
    assert three.items() <= one.items()  # an image does not depend on how many there are
    assert not set(one.values()) & set(four.values())


def test_the_strict_reader_finds_nothing_wrong(tmp_path: Path) -> None:
    render_shapes(tmp_path / "shapes", train=24, val=8, size=128)
    text = f"path: shapes\ntrain: images/train\nval: images/val\nnames: {list(NAMES)}\n"
    (tmp_path / "data.yaml").write_text(text)
    read = read_dataset(tmp_path / "data.yaml")
    assert [len(items) for items in read.splits.values()] == [24, 8]
    assert {int(kind) for item in read.splits["train"] for kind in item.classes} == set(range(8))
    assert all(1 <= len(item.classes) <= 6 for item in read.splits["train"])


def test_nothing_is_overwritten_or_left_half_done(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "shapes").mkdir()
    with pytest.raises(UserError, match="exists already"):
        render_shapes(tmp_path / "shapes", train=1, val=1)

    def interrupted(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(shapes, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        render_shapes(tmp_path / "other", train=1, val=1)
    assert [path.name for path in tmp_path.iterdir()] == ["shapes"]


def test_a_folder_that_cannot_be_written(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be written: No such file"):
        render_shapes(tmp_path / "missing" / "shapes", train=1, val=1)


def test_boxes_and_sizes() -> None:
    boxes = []
    for index in range(40):
        image, classes, found = render_image(0, "val", index, size=96)
        assert image.shape == (96, 96, 3) and image.dtype == np.uint8
        assert len(classes) == len(found) >= 1
        boxes.append(found)
    table = np.concatenate(boxes)
    low, high = table[:, :2] - table[:, 2:] / 2, table[:, :2] + table[:, 2:] / 2
    assert (low >= -1e-6).all() and (high <= 1 + 1e-6).all()
    longest = table[:, 2:].max(axis=1)
    assert longest.max() <= 0.6 and np.quantile(longest, 0.1) > 0.1 and np.ptp(longest) > 0.25


@pytest.mark.parametrize("name", NAMES)
def test_a_box_is_tight_around_the_drawn_pixels(name: str) -> None:
    """The box comes from the outline; here it is measured on what OpenCV fills."""
    rng = np.random.default_rng(NAMES.index(name))
    for _ in range(5):
        contours = shapes._place(shapes._outline(name, rng), rng, 200)
        rows, columns = np.nonzero(shapes._rasterise(contours, 200) > 0.02)
        x, y, width, height = shapes._box(contours, 200) * 200
        measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        box = [x - width / 2, y - height / 2, x + width / 2, y + height / 2]
        np.testing.assert_allclose(measured, box, atol=2)


@pytest.mark.parametrize("name", NAMES)
def test_the_area_is_that_of_the_drawn_pixels(name: str) -> None:
    """Visibility is a ratio of both, so outlines must run the right way round and be filled as meant."""
    contours = [40 * contour + 50 for contour in shapes._outline(name, np.random.default_rng(0))]
    area = sum(shapes._signed_area(contour) for contour in contours)
    assert shapes._rasterise(contours, 100).sum() == pytest.approx(area, rel=0.02)


@pytest.mark.parametrize(("name", "area"), [("circle", np.pi), ("square", 2), ("triangle", 3 * 3**0.5 / 4)])
def test_areas_in_the_unit_circle(name: str, area: float) -> None:
    (contour,) = shapes._outline(name, np.random.default_rng(0))
    assert shapes._signed_area(contour) == pytest.approx(area, rel=2e-3)


def test_a_shape_that_is_nearly_hidden_is_not_labelled(monkeypatch: pytest.MonkeyPatch) -> None:
    """All shapes are the same square in the same place: only the last one drawn can be seen."""
    square = np.array([[20, 20], [60, 20], [60, 60], [20, 60]], float)
    monkeypatch.setattr(shapes, "_place", lambda contours, rng, size: [square])
    for index in range(5):
        _, classes, boxes = render_image(0, "train", index, size=80)
        assert len(classes) == 1
        np.testing.assert_allclose(boxes, [[0.5, 0.5, 0.5, 0.5]], atol=1e-6)


@pytest.mark.parametrize(("overlap", "labelled"), [(0.68, 2), (0.72, 1)])
def test_the_limit_of_visibility(monkeypatch: pytest.MonkeyPatch, overlap: float, labelled: int) -> None:
    """Two squares, the second covering a known share of the first: 32 % is enough to see, 28 % is not."""
    square = np.array([[20, 20], [70, 20], [70, 70], [20, 70]], float)
    places = iter([square, square + np.array([50 * (1 - overlap), 0])])
    monkeypatch.setattr(shapes, "_place", lambda contours, rng, size: [next(places)])
    monkeypatch.setattr(shapes, "TRIES", 1)
    index = next(i for i in range(100) if drawn(i) == 2)
    _, classes, _ = render_image(0, "train", index, size=100)
    assert len(classes) == labelled


def drawn(index: int) -> int:
    """How many shapes an image of 100 pixels has before hidden ones are dropped."""
    rng = np.random.default_rng([0, 0, index])
    shapes._background(rng, 100)
    return int(rng.integers(1, 7))


def test_crowding_is_avoided() -> None:
    """Two overlapping squares by hand: 6 of the smaller one's 16 pixels are shared."""
    alpha, others = np.zeros((10, 10), np.float32), np.zeros((2, 10, 10), np.float32)
    alpha[0:4, 0:4] = others[0, 1:9, 2:9] = others[1, 8:, 8:] = 1
    assert shapes._overlap(alpha, others) == pytest.approx(6 / 16)
    assert shapes._overlap(alpha, others[:0]) == 0


def test_shapes_stand_out() -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        behind = rng.uniform(0, 255, 3).astype(np.float32)
        first, second = shapes._colours_unlike(behind, rng)
        assert min(np.linalg.norm(first - behind), np.linalg.norm(second - behind)) >= shapes.CONTRAST
        assert 40 <= np.linalg.norm(first - second) <= 100
