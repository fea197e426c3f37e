"""Near-duplicates: what counts as the same picture, and a bit count worked out the slow way."""

from __future__ import annotations

from collections.abc import Callable

import cv2
import numpy as np
import pytest

from detector.data.near_duplicates import Pair, look_alikes, near_duplicates, thumbnail
from tests.data.preflight_data import scene


def photograph(seed: int) -> np.ndarray:
    """A scene with detail, 320 x 240."""
    noise = np.random.default_rng([seed, 1]).integers(0, 30, (240, 320, 3), dtype=np.uint8)
    return np.asarray(cv2.add(scene(seed, 320, 240), noise))


CHANGES: dict[str, Callable[[np.ndarray], np.ndarray]] = {
    "jpeg": lambda image: cv2.imdecode(cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 20])[1], 1),
    "half": lambda image: cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA),
    "double": lambda image: cv2.resize(image, None, fx=2, fy=2),
    "brighter": lambda image: cv2.convertScaleAbs(image, alpha=0.9, beta=20),
    "blurred": lambda image: cv2.GaussianBlur(image, (5, 5), 0),
    "cropped": lambda image: image[2:, 3:],
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_changed_copy_is_found(change: str) -> None:
    originals = [photograph(seed) for seed in range(40)]
    copies = [np.ascontiguousarray(CHANGES[change](image)) for image in originals[::4]]
    pairs = near_duplicates([thumbnail(image) for image in copies], [thumbnail(image) for image in originals])
    assert [(pair.query, pair.reference) for pair in pairs] == [(index, index * 4) for index in range(10)]


@pytest.mark.slow
def test_other_pictures_are_not() -> None:
    thumbnails = [thumbnail(photograph(seed)) for seed in range(120)]
    assert near_duplicates(thumbnails[60:], thumbnails[:60]) == []


def test_the_bits_are_counted_right() -> None:
    one = thumbnail(photograph(1))
    other = one.copy()
    other[3, 4:9] = np.clip(other[3, 4:9].astype(int) + 60, 0, 255)
    expected = 0
    for y in range(16):
        for x in range(16):
            expected += (one[y, x + 1] > one[y, x]) != (other[y, x + 1] > other[y, x])
    assert 0 < expected < 10
    assert near_duplicates([other], [thumbnail(photograph(2)), one]) == [Pair(0, 1, expected)]


def test_the_closest_is_named() -> None:
    image = photograph(3)
    changed = CHANGES["jpeg"](image)
    references = [thumbnail(changed), thumbnail(image)]
    assert near_duplicates([thumbnail(image)], references) == [Pair(0, 1, 0)]


def test_look_alikes_are_grouped_directly_and_by_way_of_others() -> None:
    """The frames of a film, of which the ends have little in common, beside other pictures and plain ones."""
    film = [photograph(5)]
    for _ in range(4):
        film.append(CHANGES["jpeg"](np.roll(film[-1], 2, axis=1)))
    pictures = [photograph(1), *film[::2], photograph(2), *film[1::2], np.zeros((50, 60, 3), np.uint8)]
    thumbnails = [thumbnail(picture) for picture in pictures]
    first, last = thumbnail(film[0]), thumbnail(film[-1])
    assert near_duplicates([first], [thumbnail(film[1])]) and not near_duplicates([first], [last])
    assert look_alikes(thumbnails) == [[0], [1, 2, 3, 5, 6], [4], [7]]
    assert look_alikes([]) == []


def test_plain_pictures_are_not_alike() -> None:
    plain = [np.full((50, 60, 3), grey, np.uint8) for grey in (0, 0, 128, 255)]
    assert near_duplicates([thumbnail(plain[0])], [thumbnail(image) for image in plain]) == []


def test_different_objects_on_white_are_not_alike() -> None:
    """Their hashes are: most of the 256 bits are zero."""

    def product(left: int, top: int) -> np.ndarray:
        image = np.full((160, 170, 3), 255, np.uint8)
        image[top : top + 40, left : left + 40] = 40
        return image

    assert near_duplicates([thumbnail(product(10, 10))], [thumbnail(product(110, 100))]) == []
    assert len(near_duplicates([thumbnail(product(10, 10))], [thumbnail(product(10, 10))])) == 1


def test_nothing_to_compare() -> None:
    assert near_duplicates([], [thumbnail(photograph(0))]) == []
    assert near_duplicates([thumbnail(photograph(0))], []) == []
