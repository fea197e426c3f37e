"""Drawn boxes: where they belong, in colours that tell classes apart, and nothing a picture can break."""

from __future__ import annotations

import numpy as np
import pytest

from detector.loggers.images import _overlap, _place
from detector.tools.predict.annotate import annotate, class_color
from detector.training.metrics import Prediction


def found(*boxes: tuple[float, float, float, float], label: int = 0) -> Prediction:
    scores = np.linspace(0.9, 0.3, len(boxes), dtype=np.float32)
    corners = np.array(boxes, np.float32).reshape(-1, 4)
    return Prediction(corners, scores, np.full(len(boxes), label))


def test_a_box_is_outlined_in_its_class_s_colour_and_its_inside_left_alone() -> None:
    image = np.full((400, 600, 3), 128, np.uint8)
    drawn = annotate(image, found((100, 150, 400, 350), label=1), ["one", "two"])
    assert drawn.shape == image.shape
    for y, x in ((250, 100), (250, 400), (350, 250), (150, 399)):
        assert tuple(drawn[y, x]) == class_color(1)
    assert (drawn[155:345, 105:395] == 128).all()
    assert (drawn[:, 405:] == 128).all()
    assert (image == 128).all()  # the caller's image


def test_nothing_found_changes_nothing() -> None:
    image = np.random.default_rng(0).integers(0, 256, (50, 70, 3), dtype=np.uint8)
    np.testing.assert_array_equal(annotate(image, found(), ["one"]), image)


def test_lines_and_letters_grow_with_the_image() -> None:
    def painted(size: int) -> float:
        image = np.zeros((size, size, 3), np.uint8)
        box = (0.2 * size, 0.4 * size, 0.8 * size, 0.8 * size)
        return float((annotate(image, found(box), ["thing"]) != 0).any(2).mean())

    assert painted(4000) == pytest.approx(painted(800), rel=0.1)


def test_classes_have_colours_of_their_own() -> None:
    colors = np.array([class_color(label) for label in range(12)], float)
    apart = np.abs(colors[:, None] - colors[None]).sum(2) + 1000 * np.eye(12)
    assert apart.min() > 40


def test_names_are_not_limited_to_ascii() -> None:
    image = np.zeros((200, 300, 3), np.uint8)
    one, other = (annotate(image, found((50, 80, 250, 180)), [name]) for name in ("жук", "кит"))
    assert (one != other).any()


def test_labels_stay_on_the_image_and_off_each_other() -> None:
    taken: list[tuple[float, float, float, float]] = []
    right, left = (250, 2, 299, 100), (20, 50, 80, 90)
    for box in (right, right, left, left, left, (20, 100, 80, 190)):
        place = _place(box, (60, 14), (300, 200), taken)
        assert 0 <= place[0] < place[2] <= 300
        assert 0 <= place[1] < place[3] <= 200
        assert not any(_overlap(place, other) for other in taken)
        taken.append(place)


@pytest.mark.parametrize("shape", [(1, 1, 3), (3, 500, 3), (500, 3, 3)])
def test_images_too_small_for_a_label(shape: tuple[int, int, int]) -> None:
    drawn = annotate(np.zeros(shape, np.uint8), found((0, 0, 1, 1)), ["a long name"])
    assert drawn.shape == shape
