"""True sizes, pictures on their side, and boxes clipped or dropped."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from detector.data.geometry import xywh_to_xyxy
from detector.data.images import read_image
from detector.data.labels import read_labels
from detector.tools.convert.lines import label_lines
from detector.tools.convert.look import Look, look_at
from detector.tools.convert.records import Box, Picture, claimed_size, finite

STORED = (40, 24)  # width and height of the pictures that are on their side


def save_rotated(path: Path, orientation: int) -> np.ndarray:
    """A stored picture with a white rectangle at x 5..12, y 3..9, and an EXIF orientation."""
    pixels = np.zeros((STORED[1], STORED[0], 3), np.uint8)
    pixels[3:9, 5:12] = 255
    exif = PillowImage.Exif()
    exif[0x0112] = orientation
    buffer = io.BytesIO()
    PillowImage.fromarray(pixels).save(buffer, path.suffix[1:], exif=exif)
    path.write_bytes(buffer.getvalue())
    return pixels


def white(image: np.ndarray) -> tuple[int, int, int, int]:
    """Where the white rectangle is: left, top, right, bottom."""
    rows, columns = np.nonzero(image[..., 0] > 128)
    return int(columns.min()), int(rows.min()), int(columns.max()) + 1, int(rows.max()) + 1


def boxes_of(lines: list[str], look: Look) -> np.ndarray:
    """The lines' boxes, parsed by the project's reader, as corners in pixels."""
    labels = read_labels("\n".join(lines), 1)
    assert not labels.mistakes and not labels.repairs
    return xywh_to_xyxy(labels.boxes) * np.array([look.width, look.height] * 2, np.float32)


@pytest.mark.parametrize("suffix", [".png", ".webp"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_size_is_the_one_the_reader_sees(tmp_path: Path, orientation: int, suffix: str) -> None:
    path = tmp_path / f"a{suffix}"
    save_rotated(path, orientation)
    look = look_at(path)
    assert (look.height, look.width) == read_image(path).shape[:2]


@pytest.mark.parametrize("orientation", range(5, 9))
def test_boxes_of_the_stored_picture_are_turned_with_it(tmp_path: Path, orientation: int) -> None:
    path = tmp_path / "a.png"
    save_rotated(path, orientation)
    look = look_at(path)
    # The second box lies where only the stored picture has room, so the tool showed the stored one.
    boxes = (Box("cat", (5, 3, 12, 9), "object 1"), Box("cat", (30, 2, 38, 9), "object 2"))
    lines, notes = label_lines([Picture(path, path, None, STORED, boxes)], look, {"cat": 0})
    np.testing.assert_allclose(boxes_of(lines, look)[0], white(read_image(path)), atol=1e-4)
    assert [note.kind for note in notes] == ["check"] and "turned with it" in notes[0].message


def test_boxes_of_the_upright_picture_stay(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_rotated(path, 6)
    look, corners = look_at(path), white(read_image(path))
    low = Box("cat", (2, 30, 9, 38), "object 2")  # below where the stored picture ends
    for size, kinds in (((look.width, look.height), []), (STORED, ["check"]), (None, [])):
        picture = Picture(path, path, None, size, (Box("cat", corners, "object 1"), low))
        lines, notes = label_lines([picture], look, {"cat": 0})
        np.testing.assert_allclose(boxes_of(lines, look)[0], corners, atol=1e-4)
        assert [note.kind for note in notes] == kinds


def test_a_size_that_disagrees_is_reported(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    save_rotated(path, 1)
    picture = Picture(path, path, None, (100, 100), (Box("cat", (5, 3, 12, 9), ""),))
    _, (note,) = label_lines([picture], look_at(path), {"cat": 0})
    assert note.kind == "check" and "says 100 x 100" in note.message and "is 40 x 24" in note.message


@pytest.mark.parametrize(
    ("data", "reason"),
    [(b"", "is empty"), (b"\x89PNG\r\n\x1a\n", "truncated"), (b"text", "cannot be decoded")],
)
def test_what_is_no_picture(tmp_path: Path, data: bytes, reason: str) -> None:
    (tmp_path / "a.png").write_bytes(data)
    with pytest.raises(ValueError, match=reason):
        look_at(tmp_path / "a.png")
    with pytest.raises(ValueError, match="No such file"):
        look_at(tmp_path / "b.png")


edge = st.floats(-200, 400, allow_nan=False)


@given(width=st.integers(1, 200), height=st.integers(1, 200), edges=st.tuples(edge, edge, edge, edge))
def test_a_box_is_its_part_inside_the_image_or_dropped(
    width: int, height: int, edges: tuple[float, float, float, float]
) -> None:
    look = Look(width, height, 1, b"", np.zeros((16, 17), np.uint8))
    picture = Picture(Path("a.png"), Path("a.xml"), None, None, (Box("cat", edges, "object 1"),))
    lines, notes = label_lines([picture], look, {"cat": 0})
    left, top = max(edges[0], 0.0), max(edges[1], 0.0)
    right, bottom = min(edges[2], float(width)), min(edges[3], float(height))
    if (right - left) / width <= 1e-6 or (bottom - top) / height <= 1e-6:
        assert lines == [] and [note.kind for note in notes] == ["dropped"]
        return
    np.testing.assert_allclose(boxes_of(lines, look), [[left, top, right, bottom]], atol=1e-3)
    clipped = max(abs(a - b) for a, b in zip((left, top, right, bottom), edges, strict=True)) > 1e-3
    assert [note.kind for note in notes] == ["clipped"] * clipped


def test_numbers() -> None:
    assert finite(" 3.5 ") == finite(3.5) == 3.5
    for bad in ("1_0", "٣", "inf", None, True, [], 10**400, float("nan")):
        with pytest.raises(ValueError, match="not a finite number"):
            finite(bad)
    assert claimed_size("640", 480.0) == (640, 480)
    assert claimed_size(0, 480) is claimed_size(None, None) is claimed_size("x", 1) is None
