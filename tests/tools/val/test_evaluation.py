"""The numbers of an evaluation: by hand, and against the official ones."""

import math

import numpy as np
import pytest

from detector.tools.val.evaluation import CONFIDENCES, IOU, METRICS, RECALLS, best_confidence, report
from detector.tools.val.matching import LEFT_OUT, match
from detector.training.metrics import Prediction, Truth, coco_map

SIZE = (640, 480)
A, B, C, D = ((x, 0.0, x + 50.0, 50.0) for x in (0.0, 100.0, 200.0, 300.0))
NOWHERE = (500.0, 300.0, 550.0, 350.0)


def truth(*boxes: tuple[float, ...], classes: list[int]) -> Truth:
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), SIZE)


def found(*boxes: tuple[float, ...], scores: list[float], classes: list[int]) -> Prediction:
    return Prediction(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, np.int64)
    )


NOTHING = found(scores=[], classes=[])


def random_split(seed: int) -> tuple[list[Truth], list[Prediction]]:
    """Labels, and detections that are the labels shaken, some of the wrong class, with noise."""
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(15):
        n, extra = int(rng.integers(0, 8)), 140 if seed == 2 else 6
        corner = rng.uniform(0, 300, (n, 2))
        boxes = np.concatenate((corner, corner + rng.uniform(40, 150, (n, 2))), 1).astype(np.float32)
        classes = rng.integers(0, 3, n)
        truths.append(Truth(boxes, classes, SIZE))
        noise = rng.uniform(0, 300, (extra, 2))
        noise = np.concatenate((noise, noise + rng.uniform(5, 90, noise.shape)), 1)
        everything = np.concatenate((boxes + rng.normal(0, 6, boxes.shape), noise)).astype(np.float32)
        kinds = np.concatenate((np.where(rng.random(n) < 0.2, 1, classes), rng.integers(0, 3, extra)))
        predictions.append(Prediction(everything, rng.random(len(kinds)).astype(np.float32), kinds))
    return truths, predictions


def test_curves_by_hand() -> None:
    """Four objects; by falling score: right, right, wrong, right. One object is never found."""
    labels = [truth(A, B, C, D, classes=[0, 0, 0, 0])]
    detections = [found(A, B, NOWHERE, C, scores=[0.9, 0.8, 0.7, 0.6], classes=[0, 0, 0, 0])]
    result = report(labels, detections, ["cell"])
    # Precision 1 up to recall 1/2, then 3/4 up to recall 3/4, then nothing: 51, 25 and 25 of the 101 points.
    expected = [1.0] * 51 + [0.75] * 25 + [0.0] * 25
    np.testing.assert_allclose(result.precision[0], expected)
    assert result.classes[0].ap50 == pytest.approx((51 + 25 * 0.75) / 101)
    assert result.classes[0].ap == pytest.approx(result.classes[0].ap50)  # all boxes are exact

    # F1 = 2 TP / (detections + 4 objects) wherever this many detections count.
    for confidence, expected_f1 in ((0.95, 0), (0.85, 2 / 5), (0.75, 4 / 6), (0.65, 4 / 7), (0.5, 6 / 8)):
        at = int(np.searchsorted(CONFIDENCES, confidence))
        assert result.f1[0, at] == pytest.approx(expected_f1), confidence
    # 6/8 is the best, from 0 up to 0.6: its middle.
    assert 0.29 < result.confidence < 0.31
    row = result.classes[0]
    assert (row.images, row.boxes, row.precision, row.recall) == (1, 4, 0.75, 0.75)
    assert row.f1 == pytest.approx(0.75)
    assert [(e.image, e.missed, e.false) for e in result.worst(5)] == [(0, 1, 1)]


def test_a_perfect_detector() -> None:
    labels = [truth(A, B, classes=[0, 1]), truth(C, classes=[1]), truth(classes=[])]
    detections = [Prediction(t.boxes, np.full(len(t.classes), 0.8, np.float32), t.classes) for t in labels]
    result = report(labels, detections, ["a", "b"])
    assert all(value == pytest.approx(1) for value in result.metrics.values() if not math.isnan(value))
    assert all(row[3:] == pytest.approx((1,) * 5) for row in (*result.classes, result.mean))
    assert result.confusion.tolist() == [[1, 0, 0], [0, 2, 0], [0, 0, 0]]
    assert result.worst(9) == []
    assert 0.35 < result.confidence < 0.45  # the middle of what is equally good
    assert (result.mean.images, result.mean.boxes) == (3, 3)


@pytest.mark.parametrize("seed", range(3))
def test_the_metrics_are_those_of_training_and_the_curves_belong_to_them(seed: int) -> None:
    truths, predictions = random_split(seed)
    result = report(truths, predictions, ["a", "b", "c"])
    for name, value in coco_map(truths, predictions, 3).items():
        assert result.metrics[name] == value
    assert 0 < result.metrics["mAP50"] < 1
    assert np.mean([row.ap50 for row in result.classes]) == pytest.approx(result.metrics["mAP50"])
    assert np.mean([row.ap for row in result.classes]) == pytest.approx(result.metrics["mAP50-95"])


@pytest.mark.parametrize("seed", range(3))
def test_our_matching_gives_the_official_precision(seed: int) -> None:
    """Precision against recall from `match` alone, interpolated by hand, is the official curve."""
    truths, predictions = random_split(seed)
    result = report(truths, predictions, ["a", "b", "c"])
    matches = [match(t, p, IOU) for t, p in zip(truths, predictions, strict=True)]
    for label in range(3):
        rows = [(p.classes == label) & (m != LEFT_OUT) for p, m in zip(predictions, matches, strict=True)]
        scores = np.concatenate([p.scores[r] for p, r in zip(predictions, rows, strict=True)])
        right = np.concatenate([m[r] >= 0 for m, r in zip(matches, rows, strict=True)])
        right = right[np.argsort(-scores, kind="stable")].cumsum()
        precision, recall = right / np.arange(1, len(right) + 1), right / result.classes[label].boxes
        envelope = [precision[recall >= r].max(initial=0) for r in RECALLS]
        np.testing.assert_allclose(result.precision[label], envelope, atol=1e-9)


def test_a_class_without_labels_has_no_numbers_and_counts_nowhere() -> None:
    result = report([truth(A, classes=[0])], [found(A, B, scores=[0.9, 0.9], classes=[0, 1])], ["a", "b"])
    assert all(math.isnan(value) for value in result.classes[1][3:])
    assert result.mean.f1 == pytest.approx(1)
    assert result.metrics["mAP50"] == pytest.approx(1)


def test_sizes_that_do_not_occur_have_no_number() -> None:
    result = report([truth(A, classes=[0])], [NOTHING], ["a"])  # 50 x 50: medium
    assert tuple(result.metrics) == METRICS
    assert result.metrics["mAP-medium"] == result.metrics["mAP50-95"] == result.metrics["AR100"] == 0
    assert all(math.isnan(result.metrics[key]) for key in ("mAP-small", "mAP-large", "AR-small", "AR-large"))
    assert result.classes[0].recall == result.classes[0].precision == result.classes[0].f1 == 0
    assert result.worst(1)[0].missed == 1


def test_nothing_to_find_is_not_a_number() -> None:
    result = report([truth(classes=[])], [found(A, scores=[0.9], classes=[0])], ["a"])
    assert all(math.isnan(value) for value in result.metrics.values())
    assert result.mean.boxes == 0
    assert math.isnan(result.mean.f1)
    assert result.worst(1)[0].false == 1


def test_the_best_confidence_is_the_middle_of_a_plateau() -> None:
    f1 = np.zeros((2, 1001))
    f1[0, 200:401] = 0.8
    f1[1] = np.nan
    assert CONFIDENCES[best_confidence(f1)] == pytest.approx(0.3)
