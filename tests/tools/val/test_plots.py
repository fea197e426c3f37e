"""The pictures of an evaluation are written whatever the classes are, and leave no state behind."""

import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.tools.val.evaluation import report
from detector.tools.val.plots import write_evaluation_plots
from detector.training.metrics import Prediction, Truth

NAMES = ("confusion_matrix.png", "pr_curve.png", "f1_curve.png")


def split(classes: int) -> tuple[list[Truth], list[Prediction]]:
    rng = np.random.default_rng(0)
    corner = rng.uniform(0, 400, (2 * classes, 2)).astype(np.float32)
    boxes, labels = np.concatenate((corner, corner + 40), 1), np.arange(2 * classes) % max(classes, 1)
    scores = rng.random(2 * classes).astype(np.float32)
    return [Truth(boxes, labels, (640, 480))], [Prediction(boxes, scores, np.roll(labels, 1))]


@pytest.mark.slow
@pytest.mark.parametrize(
    "names",
    [["one"], ["$x$", "_hidden", "a" * 300, "猫"], [f"class {i}" for i in range(12)], [*map(str, range(80))]],
    ids=["one", "odd", "twelve", "eighty"],
)
def test_any_classes(tmp_path: Path, names: list[str]) -> None:
    written = write_evaluation_plots(report(*split(len(names)), names), "a $run_of$ mine", tmp_path)
    assert tuple(path.name for path in written) == NAMES
    for path in written:
        picture = cv2.imread(str(path))
        assert picture.shape[0] > 400
        assert picture.std() > 5  # something is drawn


@pytest.mark.slow
def test_nothing_found_and_nothing_to_find(tmp_path: Path) -> None:
    empty = Truth(np.empty((0, 4), np.float32), np.empty(0, np.int64), (640, 480))
    nothing = Prediction(np.empty((0, 4), np.float32), np.empty(0, np.float32), np.empty(0, np.int64))
    assert len(write_evaluation_plots(report([empty], [nothing], ["a", "b"]), "t", tmp_path)) == 3


@pytest.mark.slow
def test_no_global_figure(tmp_path: Path) -> None:
    before = "matplotlib.pyplot" in sys.modules
    write_evaluation_plots(report(*split(2), ["a", "b"]), "t", tmp_path)
    assert ("matplotlib.pyplot" in sys.modules) == before
