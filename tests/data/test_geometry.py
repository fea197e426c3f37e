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


def test_the_layouts_by_hand() -> None:
    centres = np.array([[0.5, 0.4, 0.2, 0.6], [0.1, 0.9, 0.2, 0.2]], np.float32)
    corners = np.array([[0.4, 0.1, 0.6, 0.7], [0.0, 0.8, 0.2, 1.0]], np.float32)
    np.testing.assert_allclose(xywh_to_xyxy(centres), corners, atol=1e-6)
    np.testing.assert_allclose(xyxy_to_xywh(corners), centres, atol=1e-6)


@given(sides, sides, sizes, st.lists(st.tuples(*[st.floats(-2, 3, width=32)] * 4), min_size=1, max_size=5))
def test_boxes_are_clipped_to_the_image_and_no_further(
    width: int, height: int, size: int, edges: list[tuple[float, float, float, float]]
) -> None:
    """Also boxes that lie partly or wholly in the padding or outside of the square."""
    box = Letterbox(size, width, height)
    wild = boxes_within(edges) * size
    clipped = box.to_original(wild)
    limits = np.array([width, height] * 2)
    assert (clipped >= 0).all() and (clipped <= limits).all()
    assert (clipped[:, :2] <= clipped[:, 2:]).all()
    # The same by hand in float64: into the image's own square first, then cut, then stretched.
    inner = np.array([box.inner_width, box.inner_height] * 2)
    inside = np.clip(wild.astype(float) - np.array([box.left, box.top] * 2), 0, inner)
    np.testing.assert_allclose(clipped, inside / inner * limits, atol=1e-3 * max(1, *(limits / inner)))


@given(sides, sides, sizes, st.tuples(fraction, fraction, fraction, fraction))
def test_a_box_keeps_its_share_of_the_image(
    width: int, height: int, size: int, edges: tuple[float, float, float, float]
) -> None:
    box = Letterbox(size, width, height)
    before = xyxy_to_xywh(boxes_within([edges]))
    after = box.to_square(before)
    covered = box.inner_width * box.inner_height / size**2
    np.testing.assert_allclose(after[:, 2] * after[:, 3], before[:, 2] * before[:, 3] * covered, atol=1e-6)


def test_shrinking_averages_and_enlarging_interpolates() -> None:
    stripes = np.tile(np.array([[0, 255], [0, 255]], np.uint8).repeat(3).reshape(2, 2, 3), (64, 64, 1))
    assert np.abs(letterbox(stripes, 64)[0].astype(int) - 127.5).max() <= 1  # 128 x 128 into half
    edge = np.array([[[0] * 3, [200] * 3]] * 2, np.uint8)  # 2 x 2
    levels = np.unique(letterbox(edge, 64)[0])
    assert len(levels) > 20 and levels.min() == 0 and levels.max() == 200


def test_the_crop_is_where_the_image_was_put() -> None:
    image = np.random.default_rng(0).integers(0, 256, (32, 64, 3), dtype=np.uint8)
    square, box = letterbox(image, 64)
    np.testing.assert_array_equal(box.crop(square), image)
    assert (np.delete(square, range(16, 48), axis=0) == GREY).all()
