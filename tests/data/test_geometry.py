"""Letterboxes and boxes, against hand-computed cases and by their inverse."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.geometry import GREY, Letterbox, letterbox, xywh_to_xyxy, xyxy_to_xywh

sides = st.integers(1, 3000)
sizes = st.sampled_from([32, 192, 256, 640])
fraction = st.floats(0, 1, width=32)


def boxes_within(edges: list[tuple[float, float, float, float]]) -> np.ndarray:
    """Sort pairs of fractions into (N, 4) xyxy."""
    x1, y1, x2, y2 = np.array(edges, np.float32).reshape(-1, 4).T
    return np.stack([np.minimum(x1, x2), np.minimum(y1, y2), np.maximum(x1, x2), np.maximum(y1, y2)], axis=1)


def test_landscape_by_hand() -> None:
    box = Letterbox(size=256, width=640, height=480)
    assert (box.scale, box.inner_width, box.inner_height, box.left, box.top) == (0.4, 256, 192, 0, 32)
    square = box.to_square(np.array([[0.5, 0.0, 0.5, 0.5]], np.float32))
    np.testing.assert_allclose(square, [[0.5, 32 / 256, 0.5, 96 / 256]], rtol=1e-6)
    original = box.to_original(np.array([[0, 32, 256, 224], [64, 80, 128, 128]], np.float32))
    np.testing.assert_allclose(original, [[0, 0, 640, 480], [160, 120, 320, 240]], rtol=1e-6)


def test_portrait_is_enlarged_and_centred() -> None:
    box = Letterbox(size=64, width=10, height=20)
    assert (box.scale, box.inner_width, box.inner_height, box.left, box.top) == (3.2, 32, 64, 16, 0)


def test_what_is_in_the_padding_is_clipped_away() -> None:
    box = Letterbox(size=256, width=640, height=480)
    np.testing.assert_array_equal(box.to_original(np.array([[-5, 0, 300, 10]], np.float32)), [[0, 0, 640, 0]])


@given(st.lists(st.tuples(fraction, fraction, fraction, fraction)))
def test_layouts_are_inverse(edges: list[tuple[float, float, float, float]]) -> None:
    boxes = boxes_within(edges)
    np.testing.assert_allclose(xywh_to_xyxy(xyxy_to_xywh(boxes)), boxes, atol=1e-6)


@given(sides, sides, sizes, st.lists(st.tuples(fraction, fraction, fraction, fraction), max_size=5))
def test_into_the_square_and_back(
    width: int, height: int, size: int, edges: list[tuple[float, float, float, float]]
) -> None:
    box = Letterbox(size, width, height)
    boxes = boxes_within(edges)
    square = xywh_to_xyxy(box.to_square(xyxy_to_xywh(boxes)))
    assert (square >= -1e-6).all() and (square <= 1 + 1e-6).all()
    expected = boxes * np.array([width, height] * 2)
    # A pixel of the square may be many pixels of the original: the tolerance is 1/1000 of one.
    pixel = max(width / box.inner_width, height / box.inner_height, 1)
    np.testing.assert_allclose(box.to_original(square * size), expected, atol=1e-3 * pixel)


@given(sides, sides, sizes)
def test_the_image_fills_the_square_and_fits(width: int, height: int, size: int) -> None:
    box = Letterbox(size, width, height)
    assert max(box.inner_width, box.inner_height) == size
    assert min(box.inner_width, box.inner_height) >= 1
    for inner, before in ((box.inner_width, box.left), (box.inner_height, box.top)):
        after = size - before - inner
        assert 0 <= after - before <= 1  # centred; the odd pixel goes right or below
    assert abs(box.inner_width - width * box.scale) <= max(0.5, 1 - width * box.scale)


def test_an_image_of_the_right_size_is_untouched() -> None:
    image = np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8)
    np.testing.assert_array_equal(letterbox(image, 64)[0], image)


def test_pixels_land_where_the_box_says() -> None:
    image = np.zeros((300, 500, 3), np.uint8)
    image[50:150, 100:300] = 255  # xywh fractions: (0.4, 1/3, 0.4, 1/3)
    square, box = letterbox(image, 128)
    x1, y1, x2, y2 = xywh_to_xyxy(box.to_square(np.array([[0.4, 1 / 3, 0.4, 1 / 3]], np.float32)))[0] * 128
    rows, columns = np.nonzero(square[..., 0] > 127)
    found = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
    bright = square[..., 0] == 255
    np.testing.assert_allclose(found, [x1, y1, x2, y2], atol=0.75)
    assert bright.sum() > 0.9 * (x2 - x1) * (y2 - y1)


@pytest.mark.parametrize("shape", [(1, 1), (1, 1000), (1000, 1), (7, 3)])
def test_odd_sizes_are_padded_with_grey(shape: tuple[int, int]) -> None:
    square, box = letterbox(np.zeros((*shape, 3), np.uint8), 64)
    assert square.shape == (64, 64, 3) and square.dtype == np.uint8
    assert (square == GREY).all(axis=2).sum() == 64 * 64 - box.inner_width * box.inner_height
