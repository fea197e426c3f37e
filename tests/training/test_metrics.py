"""mAP, against pycocotools on the same detections and against hand-computed cases."""

import contextlib
import io
import math

import numpy as np
import pytest
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.registry import register
from detector.training import metrics
from detector.training.metrics import (
    METRICS,
    Prediction,
    Result,
    Truth,
    best_of,
    coco_map,
    evaluate_metrics,
    run_coco,
    to_coco,
)

SIZE = (640, 480)


def truth(*boxes: tuple[float, ...], classes: list[int]) -> Truth:
    return Truth(np.array(boxes, np.float32).reshape(-1, 4), np.array(classes, np.int64), SIZE)


def found(*boxes: tuple[float, ...], scores: list[float], classes: list[int]) -> Prediction:
    return Prediction(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes, np.int64)
    )


NOTHING = found(scores=[], classes=[])
BOX = (10.0, 20.0, 110.0, 120.0)


def test_a_perfect_detector_scores_one() -> None:
    assert coco_map([truth(BOX, classes=[1])], [found(BOX, scores=[0.3], classes=[1])], 3) == {
        "mAP50-95": pytest.approx(1.0),
        "mAP50": pytest.approx(1.0),
    }


def test_a_box_that_overlaps_by_seventy_percent_counts_at_five_of_ten_thresholds() -> None:
    # 100 × 100 against 100 × 70 inside it: IoU 0.7, which the official evaluation counts as a match at 0.70.
    shorter = (10.0, 20.0, 110.0, 90.0)
    score = coco_map([truth(BOX, classes=[0])], [found(shorter, scores=[0.9], classes=[0])], 1)
    assert score == {"mAP50-95": pytest.approx(0.5), "mAP50": pytest.approx(1.0)}


def test_the_wrong_class_is_no_match() -> None:
    assert coco_map([truth(BOX, classes=[0])], [found(BOX, scores=[0.9], classes=[1])], 2)["mAP50"] == 0.0


def test_a_class_without_labels_does_not_count() -> None:
    found_both = found(BOX, BOX, scores=[0.9, 0.8], classes=[0, 1])
    assert coco_map([truth(BOX, classes=[0])], [found_both], 2)["mAP50"] == pytest.approx(1.0)


def test_half_the_classes_found_is_half() -> None:
    other = (300.0, 200.0, 400.0, 300.0)
    labels = truth(BOX, other, classes=[0, 1])
    assert coco_map([labels], [found(BOX, scores=[0.9], classes=[0])], 2)["mAP50"] == pytest.approx(0.5)


def test_nothing_found_is_zero_and_nothing_to_find_is_not_a_number() -> None:
    assert coco_map([truth(BOX, classes=[0])], [NOTHING], 1) == {"mAP50-95": 0.0, "mAP50": 0.0}
    background = truth(classes=[])
    score = coco_map([background], [found(BOX, scores=[0.9], classes=[0])], 1)
    assert score == pytest.approx({"mAP50-95": math.nan, "mAP50": math.nan}, nan_ok=True)


def test_the_form_is_coco_s() -> None:
    """What other tools read: corners become x, y, width and height, every id counts from 1."""
    truths = [truth(BOX, (0.0, 0.0, 2.0, 3.0), classes=[1, 0]), truth(BOX, classes=[0])]
    predictions = [NOTHING, found((5.0, 6.0, 15.0, 36.0), scores=[0.5], classes=[1])]
    dataset, detections = to_coco(truths, predictions, 2)
    assert dataset == {
        "images": [{"id": 1, "width": 640, "height": 480}, {"id": 2, "width": 640, "height": 480}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 2, "bbox": [10, 20, 100, 100], "area": 1e4, "iscrowd": 0},
            {"id": 2, "image_id": 1, "category_id": 1, "bbox": [0, 0, 2, 3], "area": 6, "iscrowd": 0},
            {"id": 3, "image_id": 2, "category_id": 1, "bbox": [10, 20, 100, 100], "area": 1e4, "iscrowd": 0},
        ],
        "categories": [{"id": 1, "name": "0"}, {"id": 2, "name": "1"}],
    }
    assert detections == [{"image_id": 2, "category_id": 2, "bbox": [5, 6, 10, 30], "score": 0.5}]


@pytest.mark.parametrize(
    ("truths", "predictions"),
    [
        ([truth(BOX, classes=[0])] * 2, [NOTHING]),
        ([truth(BOX, classes=[0, 0])], [NOTHING]),
        ([truth(BOX, classes=[0])], [found(BOX, scores=[0.5, 0.4], classes=[0])]),
        ([truth(BOX, classes=[0])], [found(BOX, scores=[0.5], classes=[0, 0])]),
    ],
)
def test_what_does_not_belong_together_is_not_scored(
    truths: list[Truth], predictions: list[Prediction]
) -> None:
    with pytest.raises(ValueError, match="zip"):
        coco_map(truths, predictions, 1)


@pytest.mark.parametrize("decimals", [1, 7])
def test_what_coco_does_not_look_at_changes_nothing(decimals: int) -> None:
    """Several hundred of a class on an image, many with the same score, and good ones among the last."""
    rng = np.random.default_rng(decimals)
    corner = rng.uniform(0, 300, (40, 2))
    boxes = np.concatenate((corner, corner + rng.uniform(30, 150, corner.shape)), 1).astype(np.float32)
    classes = rng.integers(0, 2, 40)
    shaken = np.tile(boxes, (15, 1)) + rng.normal(0, 8, (600, 4)).astype(np.float32)
    scores = rng.random(600).round(decimals).astype(np.float32)
    whole = Prediction(shaken, scores, np.where(rng.random(600) < 0.1, 2, np.tile(classes, 15)))
    truths, size = [Truth(boxes, classes, SIZE)], 3
    assert max(np.bincount(whole.classes)) > 2 * metrics.COUNTED
    best = best_of(whole)
    assert np.bincount(best.classes).tolist() == np.minimum(np.bincount(whole.classes), 100).tolist()
    stats = run_coco(*to_coco(truths, [whole], size)).stats
    assert 0 < stats[0] < 1
    assert (run_coco(*to_coco(truths, [best], size)).stats == stats).all()
    assert coco_map(truths, [whole], size)["mAP50-95"] == stats[0]


@pytest.mark.parametrize("seed", range(5))
def test_the_same_detections_score_the_same_in_pycocotools(seed: int) -> None:
    rng = np.random.default_rng(seed)
    truths, predictions = [], []
    for _ in range(12):
        count = int(rng.integers(0, 9))
        corner, side = rng.uniform(0, 300, (count, 2)), rng.uniform(4, 150, (count, 2))
        boxes = np.concatenate((corner, corner + side), 1).astype(np.float32)
        classes = rng.integers(0, 4, count)
        truths.append(Truth(boxes, classes, SIZE))
        # Detections: the labels, shaken, some with another class, and some that are nothing.
        shaken = boxes + rng.normal(0, 6, boxes.shape).astype(np.float32)
        extra = rng.uniform(0, 200, (150 if seed == 4 else 6, 2))  # once more than 100 an image
        noise = np.concatenate((extra, extra + rng.uniform(5, 90, extra.shape)), 1)
        labels = np.concatenate(
            (np.where(rng.random(count) < 0.2, 3, classes), rng.integers(0, 4, len(extra)))
        )
        everything = np.concatenate((shaken, noise)).astype(np.float32)
        predictions.append(Prediction(everything, rng.random(len(everything)).astype(np.float32), labels))

    ours = coco_map(truths, predictions, 4)
    dataset, detections = to_coco(truths, predictions, 4)
    with contextlib.redirect_stdout(io.StringIO()):
        reference = COCO()
        reference.dataset = dataset
        reference.createIndex()
        evaluation = COCOeval(reference, reference.loadRes(detections), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    assert 0 < ours["mAP50-95"] < 1
    assert ours["mAP50-95"] == pytest.approx(evaluation.stats[0], abs=1e-9)
    assert ours["mAP50"] == pytest.approx(evaluation.stats[1], abs=1e-9)


def test_a_result_s_metrics_are_cocos_and_those_that_are_named(own_names: None) -> None:
    labels, predictions = [truth(BOX, classes=[0])], [found(BOX, scores=[0.9], classes=[0])]
    result = Result(labels, predictions, 2)
    assert list(METRICS) == ["mAP50-95", "mAP50"]
    assert evaluate_metrics(result) == coco_map(labels, predictions, 2)

    @register.metric("boxes_an_image", better="lower")
    def boxes_an_image(result: Result) -> float:
        return float(np.mean([len(prediction.boxes) for prediction in result.predictions]))

    values = evaluate_metrics(result, ["boxes_an_image", "mAP50"])
    assert list(values) == ["mAP50-95", "mAP50", "boxes_an_image"]
    assert values["boxes_an_image"] == 1.0


def test_coco_is_evaluated_once_for_its_two_metrics(monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(
        metrics, "coco_map", lambda *given: calls.append(given) or {"mAP50-95": 0, "mAP50": 0}
    )
    evaluate_metrics(Result([], [], 1))
    assert len(calls) == 1
