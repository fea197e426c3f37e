"""A row as charts want it: what is drawn on a linear axis, sorted by name.

Boards such as W&B's and TensorBoard's draw one linear chart a key, in sections by the part of the name before
the first slash, in the alphabet's order; W&B sorts and filters only by names of letters, digits and
underscores. `history.jsonl` keeps its keys: only the boards see these.
"""

from __future__ import annotations

import math
import re

from detector.gradients.indices import FLOOR
from detector.rows import Key, Row

GLANCE = "at_a_glance/"  # before all other sections in the alphabet
LAYERS = "layers_log10/"  # of every layer's norms and update ratios
KINDS = Key.ACTIVATION_GRAD, Key.WEIGHT_GRAD, Key.UPDATE_RATIO, Key.RAW_ACTIVATION_GRAD, Key.RAW_WEIGHT_GRAD
SORTABLE = {key: key.replace("-", "_") for key in (Key.TRAIN_MAP, Key.VAL_MAP)}  # beside the old ones

_GLANCE = {
    Key.TRAIN_MAP: "mAP50_95_train",
    Key.VAL_MAP: "mAP50_95_val",
    Key.LOSS: "train_loss",
    Key.VANISHING_INDEX: "vanishing_index",
}


def glance(row: Row) -> dict[str, float]:
    """What a run is judged by, in a section of its own: mAP, loss and V."""
    return {GLANCE + name: row[key] for key, name in _GLANCE.items() if key in row}


def sortable(row: Row) -> dict[str, float]:
    """The mAPs under names that can be sorted by: `val/mAP50_95` for `val/mAP50-95`."""
    return {name: row[key] for key, name in SORTABLE.items() if key in row}


def layers(row: Row) -> dict[str, float]:
    """log10 of every number that belongs to a layer, such as `layers_log10/activation_grad_07_p3_4`.

    0 is at the floor of the vanishing index, -40; what is not finite stays as it is.
    """
    return {
        LAYERS + re.sub(r"\W", "_", key, flags=re.ASCII): log10(value)
        for key, value in row.items()
        if key.startswith(KINDS)
    }


class Spread:
    """Some of a run's rows: evenly spread, however many there will be, with the first and the last."""

    def __init__(self, most: int = 100) -> None:
        self._most, self._every, self._seen = most, 1, 0
        self._kept: list[Row] = []
        self._last: list[Row] = []

    def add(self, row: Row) -> None:
        """Take the next row."""
        self._last = [row]
        if self._seen % self._every == 0:
            self._kept.append(row)
            self._last = []
        if len(self._kept) > self._most:
            self._kept, self._every = self._kept[::2], 2 * self._every
        self._seen += 1

    def rows(self) -> list[Row]:
        """Half as many as `most` to one more than it, once there were so many."""
        return self._kept + self._last


def log10(norm: float) -> float:
    """Of a norm, from `FLOOR` on; NaN and Infinity stay what they are."""
    return math.log10(max(norm, FLOOR)) if math.isfinite(norm) else norm
