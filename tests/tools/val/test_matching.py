"""Matching and the confusion matrix, by hand and against torchvision's overlap."""

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detector.data.geometry import iou_matrix
from detector.tools.val.matching import FALSE, LEFT_OUT, confusion_matrix, match
from detector.training.metrics import Prediction, Truth

SIZE = (640, 480)
A, B, C = (0.0, 0.0, 100.0, 100.0), (200.0, 0.0, 300.0, 100.0), (0.0, 200.0, 100.0, 300.0)


def truth(*objects: tuple[tuple[float, ...], int]) -> Truth:
    boxes = np.array([box for box, _ in objects], np.float32).reshape(-1, 4)
    return Truth(boxes, np.array([label for _, label in objects], np.int64), SIZE)


def found(*detections: tuple[tuple[float, ...], int, float]) -> Prediction:
    boxes = np.array([box for box, _, _ in detections], np.float32).reshape(-1, 4)
    scores = np.array([score for _, _, score in detections], np.float32)
    return Prediction(boxes, scores, np.array([label for _, label, _ in detections], np.int64))


def moved(box: tuple[float, ...], by: float) -> tuple[float, ...]:
    """A 100 x 100 box shifted by 25 overlaps itself by 75 / 125 = 0.6."""
    return (box[0] + by, box[1], box[2] + by, box[3])


def test_overlap_is_torchvision_s() -> None:
    rng = np.random.default_rng(0)
    corners = rng.uniform(0, 100, (2, 30, 2))
    a, b = (np.concatenate((c, c + rng.uniform(1, 60, c.shape)), 1) for c in corners)
    expected = box_iou(torch.from_numpy(a), torch.from_numpy(b)).numpy()
    assert (expected > 0).any()
    np.testing.assert_allclose(iou_matrix(a, b), expected, atol=1e-12)


def test_empty_boxes_overlap_nothing() -> None:
    point = np.zeros((1, 4))
    assert iou_matrix(point, point).tolist() == [[0.0]]
    assert iou_matrix(np.empty((0, 4)), point).shape == (0, 1)


def test_the_better_score_chooses_first_and_the_other_is_false() -> None:
    labels = truth((A, 0))
    assert match(labels, found((moved(A, 25), 0, 0.9), (A, 0, 0.8)), 0.5).tolist() == [0, FALSE]
    assert match(labels, found((moved(A, 25), 0, 0.7), (A, 0, 0.8)), 0.5).tolist() == [FALSE, 0]


def test_another_class_or_too_little_overlap_finds_nothing() -> None:
    detections = found((A, 1, 0.9), (moved(A, 25), 0, 0.8))
    assert match(truth((A, 0)), detections, 0.61).tolist() == [FALSE, FALSE]
    assert match(truth((A, 0)), detections, 0.6).tolist() == [FALSE, 0]


def test_what_is_taken_leaves_the_second_best() -> None:
    # Both objects overlap the second detection; the one it overlaps more is taken.
    labels = truth((A, 0), (moved(A, 20), 0))
    assert match(labels, found((A, 0, 0.9), (moved(A, 5), 0, 0.8)), 0.5).tolist() == [0, 1]


def test_beyond_a_hundred_of_a_class_nothing_is_considered() -> None:
    detections = found(*((B, 0, 0.9 - i / 1000) for i in range(100)), (A, 0, 0.1), (C, 1, 0.05))
    matched = match(truth((A, 0), (C, 1)), detections, 0.5)
    assert matched[100] == LEFT_OUT
    assert matched[101] == 1
    assert set(matched[:100]) == {FALSE}


def test_confusion_by_hand() -> None:
    truths = [truth((A, 0), (B, 1), (C, 1)), truth((A, 0)), truth()]
    predictions = [
        # A found, B taken for class 0, C missed, one detection of nothing, one below the confidence
        found((A, 0, 0.9), (moved(B, 10), 0, 0.8), ((400, 300, 450, 350), 1, 0.7), (C, 1, 0.24)),
        # two on one object: the better overlap counts, though its class is wrong and its score lower
        found((moved(A, 20), 0, 0.9), (A, 1, 0.5)),
        found(),
    ]
    assert confusion_matrix(truths, predictions, 2).tolist() == [
        [1, 1, 0],
        [1, 0, 1],
        [1, 1, 0],
    ]


def test_at_the_threshold() -> None:
    exact = moved(A, 25)  # 0.6
    for iou, expected in ((0.59, 1), (0.61, 0)):
        assert confusion_matrix([truth((A, 0))], [found((exact, 0, 0.25))], 1, iou=iou)[0, 0] == expected


def test_a_perfect_detector_confuses_nothing() -> None:
    truths = [truth((A, 0), (B, 2)), truth((C, 1), (B, 2))]
    predictions = [Prediction(t.boxes, np.ones(len(t.classes), np.float32), t.classes) for t in truths]
    assert confusion_matrix(truths, predictions, 3).tolist() == np.diag([1, 1, 2, 0]).tolist()


@pytest.mark.parametrize("seed", range(3))
def test_every_object_and_every_detection_is_counted_once(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(10):
        n, m = rng.integers(0, 12, 2)
        a, b = rng.uniform(0, 200, (n, 2)), rng.uniform(0, 200, (m, 2))
        truths.append(Truth(np.concatenate((a, a + 60), 1), rng.integers(0, 3, n), SIZE))
        predictions.append(
            Prediction(np.concatenate((b, b + 60), 1), rng.uniform(0.3, 1, m), rng.integers(0, 3, m))
        )
    counts = confusion_matrix(truths, predictions, 3)
    of = np.concatenate([t.classes for t in truths]), np.concatenate([p.classes for p in predictions])
    assert counts.sum(1)[:3].tolist() == np.bincount(of[0], minlength=3).tolist()
    assert counts.sum(0)[:3].tolist() == np.bincount(of[1], minlength=3).tolist()
