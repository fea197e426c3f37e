"""What the table of strangers' files counts: boxes that are apart."""

from __future__ import annotations

import numpy as np

from detector.training.metrics import Prediction
from scripts.strangers import Apart, apart


def found(*boxes: tuple[float, float, float, float], classes: list[int], scores: list[float]) -> Prediction:
    return Prediction(
        np.array(boxes, np.float32).reshape(-1, 4), np.array(scores, np.float32), np.array(classes)
    )


def test_by_hand() -> None:
    """On the first image one box is a quarter of a pixel off, and one is of another class; on the second,
    nothing is found, and one box too many here."""
    theirs = [found((1, 2, 3, 4), (5, 6, 7, 8), classes=[0, 1], scores=[0.5, 0.25]),
              found(classes=[], scores=[])]  # fmt: skip
    ours = [found((5, 6, 7, 8), (1, 2, 3, 4.25), classes=[0, 0], scores=[0.25, 0.75]),
            found((1, 1, 2, 2), classes=[0], scores=[0.1])]  # fmt: skip
    measured = apart(theirs, ours)
    assert measured == Apart(2, 3, 1, 0.25, 0.25)
    assert str(measured) == "2 and 3 boxes, 1 alone: 0.2500 px, 2e-01 in score"


def test_the_same_is_the_same() -> None:
    one = [found((1, 2, 3, 4), classes=[0], scores=[0.5])]
    assert str(apart(one, one)) == "1 boxes: 0.0000 px, 0e+00 in score"
