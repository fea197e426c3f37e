"""What holds for mAP whatever the scene: against the definition of AP, written out, and by symmetries."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.training.metrics import Prediction, Truth, coco_map

SIZE = (640, 640)
CELLS = 64  # boxes stand in the cells of an 8 x 8 grid, 80 pixels wide: no two overlap

# An image: which cell holds a label of which class, and which cell a detection of which class.
labels = st.dictionaries(st.integers(0, CELLS - 1), st.integers(0, 2), max_size=6)
images = st.lists(st.tuples(labels, labels), min_size=1, max_size=4)


def box(cell: int, shift: float = 0.0) -> list[float]:
    """(4,) corners of a box of 40 x 60 pixels in its cell."""
    x, y = 80.0 * (cell % 8) + shift, 80.0 * (cell // 8)
    return [x, y, x + 40, y + 60]


def truth(cells: dict[int, int]) -> Truth:
    boxes = np.array([box(cell) for cell in cells], np.float32).reshape(-1, 4)
    return Truth(boxes, np.array(list(cells.values()), np.int64), SIZE)


def prediction(cells: Sequence[tuple[int, int, float]], shift: float = 0.0) -> Prediction:
    """Detections from (cell, class, score)."""
    boxes = np.array([box(cell, shift) for cell, _, _ in cells], np.float32).reshape(-1, 4)
    return Prediction(
        boxes,
        np.array([score for *_, score in cells], np.float32),
        np.array([label for _, label, _ in cells], np.int64),
    )


def scene(drawn: list[tuple[dict[int, int], dict[int, int]]]) -> tuple[list[Truth], list[Prediction]]:
    """Every detection with a score of its own: the order of equal scores is anybody's."""
    truths, predictions = [], []
    scores = iter(np.random.default_rng(0).permutation(1000) / 1000)
    for there, found in drawn:
        truths.append(truth(there))
        predictions.append(prediction([(c, k, float(next(scores))) for c, k in found.items()]))
    return truths, predictions


def joined(one: Prediction, two: Prediction) -> Prediction:
    return Prediction(*(np.concatenate(pair) for pair in zip(one, two, strict=True)))


def average_precision(hits: Sequence[bool], count: int) -> float:
    """AP of a ranked list by its definition: the best precision at or beyond each of 101 recalls."""
    precisions = [sum(hits[: n + 1]) / (n + 1) for n in range(len(hits))]
    recalls = [sum(hits[: n + 1]) / count for n in range(len(hits))]
    best = [
        max((p for p, r in zip(precisions, recalls, strict=True) if r >= recall), default=0.0)
        for recall in np.linspace(0, 1, 101)
    ]
    return sum(best) / 101


@pytest.mark.slow
@given(st.integers(1, 12), st.lists(st.booleans(), min_size=1, max_size=30))
def test_it_is_the_definition_s(count: int, wanted: list[bool]) -> None:
    hits = [hit and sum(wanted[:n]) < count for n, hit in enumerate(wanted)]
    objects, elsewhere = iter(range(count)), iter(range(count, CELLS))
    ranked = [
        (next(objects if hit else elsewhere), 0, 0.9 - 0.01 * position) for position, hit in enumerate(hits)
    ]
    score = coco_map([truth(dict.fromkeys(range(count), 0))], [prediction(ranked)], 1)
    expected = average_precision(hits, count)
    assert score == {"mAP50-95": pytest.approx(expected), "mAP50": pytest.approx(expected)}


@pytest.mark.slow
@given(images)
def test_it_is_between_zero_and_one(drawn: list[tuple[dict[int, int], dict[int, int]]]) -> None:
    score = coco_map(*scene(drawn), 3)
    if any(there for there, _ in drawn):
        assert 0 <= score["mAP50-95"] <= score["mAP50"] + 1e-9 <= 1 + 2e-9  # two sums of the same numbers
    else:
        assert np.isnan(list(score.values())).all()


@pytest.mark.slow
@given(images, st.randoms(use_true_random=False))
def test_no_order_matters(drawn: list[tuple[dict[int, int], dict[int, int]]], random) -> None:  # type: ignore[no-untyped-def]
    """Neither of the images nor of the boxes in them nor of the classes' numbers."""
    truths, predictions = scene(drawn)
    order = random.sample(range(len(drawn)), len(drawn))
    renumber = np.array(random.sample(range(3), 3))
    shuffled_truths, shuffled_predictions = [], []
    for index in order:
        t, p = truths[index], predictions[index]
        of_t, of_p = (np.array(random.sample(range(len(x)), len(x)), int) for x in (t.boxes, p.boxes))
        shuffled_truths.append(Truth(t.boxes[of_t], renumber[t.classes[of_t]], t.size))
        shuffled_predictions.append(Prediction(p.boxes[of_p], p.scores[of_p], renumber[p.classes[of_p]]))
    expected = coco_map(truths, predictions, 3)
    assert coco_map(shuffled_truths, shuffled_predictions, 3) == pytest.approx(expected, nan_ok=True)


@pytest.mark.slow
@given(st.lists(labels.filter(bool), min_size=1, max_size=4))
def test_perfect_is_one_whatever_the_scores(drawn: list[dict[int, int]]) -> None:
    score = coco_map(*scene([(there, there) for there in drawn]), 3)
    assert score == {"mAP50-95": pytest.approx(1.0), "mAP50": pytest.approx(1.0)}


@pytest.mark.slow
@given(images.filter(lambda drawn: any(there for there, _ in drawn)), st.floats(0, 30))
def test_finding_everything_twice_never_helps(
    drawn: list[tuple[dict[int, int], dict[int, int]]], shift: float
) -> None:
    truths, once = scene(drawn)
    shifted = [p._replace(boxes=p.boxes + np.float32(shift) * np.array([1, 0, 1, 0])) for p in once]
    again = [p._replace(scores=p.scores - np.float32(0.0005)) for p in shifted]
    before = coco_map(truths, shifted, 3)
    after = coco_map(truths, [joined(*pair) for pair in zip(shifted, again, strict=True)], 3)
    for name in before:
        assert after[name] <= before[name] + 1e-9


def test_finding_everything_twice_costs_what_it_should() -> None:
    """Ranked hit, double, hit, double: precision 1 up to half of the recall, then 2/3."""
    twice = prediction([(0, 0, 0.9), (0, 0, 0.8), (1, 0, 0.7), (1, 0, 0.6)])
    score = coco_map([truth({0: 0, 1: 0})], [twice], 1)["mAP50"]
    assert score == pytest.approx((51 * 1 + 50 * 2 / 3) / 101)


@pytest.mark.slow
@given(images.filter(lambda drawn: any(there for there, _ in drawn)), st.integers(0, 2))
def test_a_false_alarm_costs_by_its_rank(
    drawn: list[tuple[dict[int, int], dict[int, int]]], label: int
) -> None:
    truths, predictions = scene(drawn)
    before = coco_map(truths, predictions, 3)
    nowhere = Truth(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), SIZE)  # an image without labels

    def with_alarm(score: float) -> dict[str, float]:
        return coco_map([*truths, nowhere], [*predictions, prediction([(0, label, score)])], 3)

    assert with_alarm(-0.5) == pytest.approx(before)  # below everything else: nothing
    at_the_top, found_first = with_alarm(2.0), _alone(truths, predictions, label)
    assert at_the_top["mAP50"] <= before["mAP50"] + 1e-9
    if found_first > 0:
        assert at_the_top["mAP50"] < before["mAP50"]


def _alone(truths: list[Truth], predictions: list[Prediction], label: int) -> float:
    """mAP50 of one class by itself; 0 if nothing of it is labelled."""
    only_t = [Truth(t.boxes[t.classes == label], t.classes[t.classes == label], t.size) for t in truths]
    only_p = [Prediction(*(part[p.classes == label] for part in p)) for p in predictions]
    return float(np.nan_to_num(coco_map(only_t, only_p, 3)["mAP50"]))


@pytest.mark.slow
@given(images.filter(lambda drawn: any(there for there, _ in drawn)))
def test_it_is_the_mean_of_its_classes(drawn: list[tuple[dict[int, int], dict[int, int]]]) -> None:
    truths, predictions = scene(drawn)
    labelled = sorted({label for there, _ in drawn for label in there.values()})
    alone = [_alone(truths, predictions, label) for label in labelled]
    assert coco_map(truths, predictions, 3)["mAP50"] == pytest.approx(np.mean(alone))
