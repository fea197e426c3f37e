"""Augmentation: by hand with fixed draws, and by measuring where the pixels went."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.data.augment import augment, resample
from detector.data.geometry import GREY, xywh_to_xyxy

OFF = {"fliplr": 0.0, "translate": 0.0, "scale": 0.0}
gain = st.floats(0, 1)


class Draws(np.random.Generator):
    """A generator whose draws are given: flip, zoom, shift x, shift y, each in [0, 1)."""

    def __init__(self, *values: float) -> None:
        super().__init__(np.random.PCG64(0))
        self.values = np.array(values)

    def random(self, size: int) -> np.ndarray:  # type: ignore[override]
        assert size == len(self.values)
        return self.values


def example(size: int = 64) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """An image, one box (0.25 to 0.5, 0.5 to 0.75), its class."""
    image = np.random.default_rng(0).integers(0, 256, (size, size, 3), dtype=np.uint8)
    return image, np.array([[0.375, 0.625, 0.25, 0.25]], np.float32), np.array([3])


def test_all_off_changes_nothing() -> None:
    image, boxes, classes = example()
    out = augment(image, boxes, classes, np.random.default_rng(0), **OFF)
    for before, after in zip((image, boxes, classes), out, strict=True):
        np.testing.assert_array_equal(before, after)


def test_flip_by_hand() -> None:
    image, boxes, classes = example()
    out, moved, _ = augment(image, boxes, classes, Draws(0.49, 0.5, 0.5, 0.5), **{**OFF, "fliplr": 0.5})
    np.testing.assert_array_equal(out, image[:, ::-1])
    np.testing.assert_array_equal(moved, np.array([[0.625, 0.625, 0.25, 0.25]], np.float32))
    out, moved, _ = augment(image, boxes, classes, Draws(0.5, 0.5, 0.5, 0.5), **{**OFF, "fliplr": 0.5})
    np.testing.assert_array_equal(out, image)
    np.testing.assert_array_equal(moved, boxes)


def test_shift_by_hand() -> None:
    """Draws of 1 and 0 at translate 0.25 are a quarter to the right and a quarter up."""
    image, boxes, classes = example()
    out, moved, _ = augment(image, boxes, classes, Draws(0.9, 0.5, 1.0, 0.0), **{**OFF, "translate": 0.25})
    np.testing.assert_array_equal(out[:48, 16:], image[16:, :48])
    assert (out[48:] == GREY).all() and (out[:, :16] == GREY).all()
    np.testing.assert_allclose(moved, [[0.625, 0.375, 0.25, 0.25]], atol=1e-6)


def test_zoom_by_hand() -> None:
    """Zooming by 1.5 about the centre takes 0.25..0.5 to 0.125..0.5 and 0.5..0.75 to 0.5..0.875."""
    image, boxes, classes = example()
    _, moved, _ = augment(image, boxes, classes, Draws(0.9, 1.0, 0.5, 0.5), **{**OFF, "scale": 0.5})
    np.testing.assert_allclose(xywh_to_xyxy(moved), [[0.125, 0.5, 0.5, 0.875]], atol=1e-6)


@pytest.mark.parametrize(("right", "kept"), [(0.88, True), (0.92, False)])
def test_a_box_of_which_less_than_a_tenth_is_left_is_dropped(right: float, kept: bool) -> None:
    """A box a whole image wide, pushed out until 12 % or 8 % of it are left."""
    image, _, _ = example()
    boxes, classes = np.array([[0.5, 0.5, 1, 1]], np.float32), np.array([3])
    _, moved, left = augment(image, boxes, classes, Draws(0.9, 0.5, (1 + right) / 2, 0.5),
                             **{**OFF, "translate": 1.0})  # fmt: skip
    assert len(moved) == len(left) == kept
    if kept:
        np.testing.assert_allclose(xywh_to_xyxy(moved), [[right, 0, 1, 1]], atol=1e-6)


def test_each_box_is_judged_by_its_own_area() -> None:
    """The same push with three boxes: of a wide one 8 % are left, of the others all and half."""
    image, _, _ = example()
    boxes = np.array([[0.5, 0.5, 1, 1], [0.04, 0.5, 0.08, 1], [0.08, 0.5, 0.16, 0.5]], np.float32)
    _, moved, left = augment(image, boxes, np.array([3, 4, 5]), Draws(0.9, 0.5, (1 + 0.92) / 2, 0.5),
                             **{**OFF, "translate": 1.0})  # fmt: skip
    assert left.tolist() == [4, 5]
    np.testing.assert_allclose(xywh_to_xyxy(moved), [[0.92, 0, 1, 1], [0.92, 0.25, 1, 0.75]], atol=1e-6)


@pytest.mark.parametrize(("pixels", "kept"), [(2.1, True), (1.9, False)])
def test_a_box_of_less_than_two_pixels_is_dropped(pixels: float, kept: bool) -> None:
    image, _, _ = example(64)
    boxes = np.array([[0.5, 0.5, 2 * pixels / 64, 0.5]], np.float32)
    _, moved, _ = augment(image, boxes, np.array([0]), Draws(0.9, 0.0, 0.5, 0.5), **{**OFF, "scale": 0.5})
    assert len(moved) == kept


@given(st.integers(0, 2**32), gain, gain, gain)
def test_boxes_stay_inside_and_keep_their_classes(
    seed: int, fliplr: float, translate: float, scale: float
) -> None:
    image, _, _ = example(16)
    rng = np.random.default_rng(seed)
    boxes = np.concatenate([rng.uniform(0.3, 0.7, (5, 2)), rng.uniform(0.1, 0.6, (5, 2))], axis=1)
    gains = {"fliplr": fliplr, "translate": translate, "scale": scale}
    out, moved, classes = augment(image, boxes.astype(np.float32), np.arange(5), rng, **gains)
    assert out.shape == image.shape and out.dtype == np.uint8
    assert moved.dtype == np.float32 and moved.shape == (len(classes), 4)
    assert (np.diff(classes) > 0).all()
    edges = xywh_to_xyxy(moved)
    assert (edges >= -1e-6).all() and (edges <= 1 + 1e-6).all()


@given(st.integers(0, 2**32))
def test_pixels_and_boxes_move_together(seed: int) -> None:
    """A white rectangle on black: its box is compared with where the white pixels are."""
    image = np.zeros((128, 128, 3), np.uint8)
    image[40:80, 30:90] = 255
    box = np.array([[60 / 128, 60 / 128, 60 / 128, 40 / 128]], np.float32)
    out, moved, _ = augment(image, box, np.array([0]), np.random.default_rng(seed),
                            fliplr=0.5, translate=0.3, scale=0.5)  # fmt: skip
    rows, columns = np.nonzero(out[..., 0] > 160)  # brighter than the grey border
    if len(moved):
        measured = [columns.min(), rows.min(), columns.max() + 1, rows.max() + 1]
        np.testing.assert_allclose(measured, xywh_to_xyxy(moved)[0] * 128, atol=1.1)


def test_a_pure_function_of_its_generator() -> None:
    image, boxes, classes = example()
    before = image.copy()
    gains = {"fliplr": 0.5, "translate": 0.2, "scale": 0.5}
    one = augment(image, boxes, classes, np.random.default_rng(7), **gains)
    two = augment(image, boxes, classes, np.random.default_rng(7), **gains)
    other = augment(image, boxes, classes, np.random.default_rng(8), **gains)
    for first, second in zip(one, two, strict=True):
        np.testing.assert_array_equal(first, second)
    assert not np.array_equal(one[0], other[0])
    np.testing.assert_array_equal(image, before)


def test_an_image_without_objects() -> None:
    image, _, _ = example()
    _, boxes, classes = augment(image, np.zeros((0, 4), np.float32), np.zeros(0, np.int64),
                                np.random.default_rng(0), fliplr=1.0, translate=0.1, scale=0.1)  # fmt: skip
    assert boxes.shape == (0, 4) and classes.shape == (0,)


@given(
    seed=st.integers(0, 2**32), size=st.sampled_from([32, 64, 96]), four=st.booleans(), tilted=st.booleans()
)
def test_with_a_fourth_channel_the_three_are_resampled_as_without(
    seed: int, size: int, four: bool, tilted: bool
) -> None:
    """OpenCV takes other code for four channels, which must not be seen in a single bit."""
    rng = np.random.default_rng(seed)
    height, width = rng.integers(1, 2 * size, 2)
    image = rng.integers(0, 256, (height, width, 4), dtype=np.uint8)
    matrix = np.eye(3, dtype=np.float32)
    matrix[:2, :2] += rng.uniform(-1, 1, (2, 2))
    matrix[:2, 2] = rng.uniform(-size, size, 2)
    matrix[2, :2] = rng.uniform(0, 0.001, 2)
    plain = np.ascontiguousarray(image[:, :, :3])
    if tilted:
        expected = cv2.warpPerspective(plain, matrix, (size, size), borderValue=(GREY,) * 3)
    else:
        expected = cv2.warpAffine(plain, matrix[:2], (size, size), borderValue=(GREY,) * 3)
    resampled = resample(image if four else plain, matrix if tilted else matrix[:2], size)
    np.testing.assert_array_equal(resampled, expected)
