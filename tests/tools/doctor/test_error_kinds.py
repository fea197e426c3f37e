"""Kinds of errors against cases worked out by hand, from sections 2.2 and 2.3 of the TIDE paper."""

from __future__ import annotations

import numpy as np
import pytest

from detector.tools.doctor.error_kinds import KINDS, RIGHT, error_kinds, sort_errors
from detector.training.metrics import Prediction, Truth

A = (0.0, 0.0, 10.0, 10.0)
B = (50.0, 50.0, 60.0, 60.0)
NEAR_A = (0.0, 0.0, 10.0, 8.0)  # IoU 0.8
BESIDE_A = (4.0, 0.0, 14.0, 10.0)  # 6 · 10 / (200 - 60) = 0.43
TOUCHING_A = (9.0, 0.0, 19.0, 10.0)  # 10 / 190 = 0.05
NOWHERE = (80.0, 0.0, 90.0, 10.0)


def truth(*objects: tuple[tuple[float, ...], int]) -> Truth:
    boxes = np.array([box for box, _ in objects], np.float32).reshape(-1, 4)
    return Truth(boxes, np.array([label for _, label in objects], np.int64), (100, 100))


def found(*detections: tuple[tuple[float, ...], int, float]) -> Prediction:
    boxes = np.array([box for box, _, _ in detections], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in detections], np.float32)
    return Prediction(boxes, scores, np.array([label for _, label, _ in detections], np.int64))


@pytest.mark.parametrize(
    ("box", "label", "kind"),
    [
        (NEAR_A, 0, "right"),
        (NEAR_A, 1, "class"),
        (BESIDE_A, 0, "place"),
        (BESIDE_A, 1, "both"),
        (TOUCHING_A, 0, "background"),
        (NOWHERE, 0, "background"),
    ],
)
def test_one_detection_of_one_object(box: tuple[float, ...], label: int, kind: str) -> None:
    image = sort_errors(truth((A, 0)), found((box, label, 0.9)))
    (index,) = image.kinds.tolist()
    assert ("right" if index == RIGHT else KINDS[index]) == kind
    # An object that a mistake of class or place is about is not missed as well.
    assert image.missed.tolist() == [kind in ("both", "background")]


def test_the_better_score_finds_an_object_and_the_other_is_a_duplicate() -> None:
    image = sort_errors(truth((A, 0)), found((A, 0, 0.5), (NEAR_A, 0, 0.9)))
    assert image.found.scores.tolist() == pytest.approx([0.9, 0.5])
    assert image.kinds.tolist() == [RIGHT, KINDS.index("duplicate")]


def test_without_objects_or_without_detections() -> None:
    assert sort_errors(truth(), found((A, 0, 0.9))).kinds.tolist() == [KINDS.index("background")]
    assert sort_errors(truth((A, 0)), found()).missed.tolist() == [True]
    result = error_kinds([truth((A, 0))], [found()], 1)
    assert result.ap50 == 0
    assert result.costs["missed"] == 1
    assert np.isnan(error_kinds([truth()], [found()], 1).ap50)


# Two objects of one class. One is found by the second best score; what the best one does to AP50, read off
# at 101 recalls: precision is 1/2 up to recall 1/2, so 51 of 101 times 1/2; without the mistake 51 of 101, or
# all of them where the other object is then found too.
HALF, WHOLE = 51 / 101, 1.0


@pytest.mark.parametrize(
    ("box", "label", "kind", "mended"),
    [
        (BESIDE_A, 0, "place", WHOLE),
        (A, 1, "class", WHOLE),
        (BESIDE_A, 1, "both", HALF),
        (NOWHERE, 0, "background", HALF),
    ],
)
def test_the_cost_of_a_kind_is_what_ap50_gains_without_it(
    box: tuple[float, ...], label: int, kind: str, mended: float
) -> None:
    labels, detections = truth((A, 0), (B, 0)), found((box, label, 0.9), (B, 0, 0.8))
    result = error_kinds([labels], [detections], 2)
    # A detection of class 1, which has no object, does not count against the AP of class 0.
    now = HALF / 2 if label == 0 else HALF
    assert result.ap50 == pytest.approx(now, abs=1e-6)
    assert result.counts[kind] == 1
    assert result.costs[kind] == pytest.approx(mended - now, abs=1e-6)
    assert sum(result.counts.values()) == 1 + (kind in ("both", "background"))


def test_a_duplicate_costs_what_it_stands_before() -> None:
    """The scores 0.9, 0.8, 0.7 are right, duplicate, right: precision at recall 1 is 2/3."""
    result = error_kinds([truth((A, 0), (B, 0))], [found((A, 0, 0.9), (NEAR_A, 0, 0.8), (B, 0, 0.7))], 1)
    assert result.ap50 == pytest.approx((51 + 50 * 2 / 3) / 101, abs=1e-6)
    assert result.costs["duplicate"] == pytest.approx(1 - result.ap50, abs=1e-6)
    assert result.worst == "duplicate"
    assert {kind for kind, count in result.counts.items() if count} == {"duplicate"}


def test_an_object_that_was_missed_is_no_longer_asked_for() -> None:
    result = error_kinds([truth((A, 0), (B, 0))], [found((A, 0, 0.9))], 1)
    assert result.ap50 == pytest.approx(HALF, abs=1e-6)
    assert result.costs["missed"] == pytest.approx(1 - HALF, abs=1e-6)


def test_an_object_is_given_to_the_best_of_the_mistakes_about_it() -> None:
    """As tidecv has it: that of class goes, since a better score would have found the object."""
    result = error_kinds(
        [truth((A, 0), (B, 1))], [found((BESIDE_A, 0, 0.9), (NEAR_A, 1, 0.8), (B, 1, 0.7))], 2
    )
    # Class 0 has AP 0; class 1 finds its object behind a mistake: (0 + 1/2) / 2.
    assert result.ap50 == pytest.approx(0.25, abs=1e-6)
    assert result.costs["place"] == pytest.approx(0.5, abs=1e-6)
    assert result.costs["class"] == pytest.approx(0.25, abs=1e-6)
