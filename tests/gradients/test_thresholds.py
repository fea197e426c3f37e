"""The verdict's thresholds are those of the stored calibration, which holds what is measured today."""

from __future__ import annotations

import json
from typing import Any

import pytest

from detector.gradients.indices import (
    COLLAPSED,
    DEAD,
    EXPLODING_RATE,
    SHALLOW,
    VANISHING_RATE,
    between_thirds,
    verdict,
)
from scripts.thresholds import CELLS, OUT, TRUNKS, calibrate, measure

STORED: dict[str, Any] = json.loads(OUT.read_text(encoding="utf-8"))
ROWS: list[dict[str, Any]] = STORED["rows"]
REPORTED = {21, 41, 81}, {96, 192, 256}  # convolutions and pixels of the documentation's tables


def test_what_is_shipped_is_what_was_calibrated() -> None:
    rates = {"vanishing_rate": VANISHING_RATE, "exploding_rate": EXPLODING_RATE}
    shipped = {**rates, "collapsed": COLLAPSED, "dead": DEAD}
    assert calibrate(ROWS) == STORED["thresholds"] == shipped


def test_on_other_depths_and_sizes_than_those_reported_on() -> None:
    assert {row["cell"] for row in ROWS} == set(CELLS)
    assert not {row["convolutions"] for row in ROWS} & REPORTED[0]
    assert not {row["pixels"] for row in ROWS} & REPORTED[1]


def test_the_groups_are_apart() -> None:
    """Every trunk that is deep enough gets the verdict that was expected of it."""
    for row in ROWS:
        if row["layers"] < SHALLOW:
            continue
        cell = CELLS[row["cell"]]
        index = row["decades_per_layer"] * between_thirds(row["layers"])
        found = verdict([1.0] * row["layers"], index, row["input_dependence"], row["smallest_rms"])
        by_gradient = {"explodes": "exploding", "vanishes": "vanishing"}.get(cell.gradient)
        by_signal = {"collapses": "collapsed"}.get(cell.signal, "healthy")
        assert found == ("dead forward" if cell.signal == "dies" else by_gradient or by_signal), row


def test_in_a_shallow_trunk_they_are_not() -> None:
    """The reason for `SHALLOW`: there a healthy trunk gains as much a layer as one without a shortcut."""
    shallow = [row for row in ROWS if row["layers"] < SHALLOW]
    passes = [r["decades_per_layer"] for r in shallow if CELLS[r["cell"]].gradient == "passes"]
    assert max(passes) > min(r["decades_per_layer"] for r in shallow if r["cell"] == "no_residual")


@pytest.mark.usefixtures("coco8")
@pytest.mark.parametrize("cell", ["baseline", "plain_sigmoid"])
def test_what_is_stored_is_what_is_measured_today(cell: str) -> None:
    depths, pixels = TRUNKS[0]
    today = measure(cell, depths, pixels, seed=0)
    (stored,) = (row for row in ROWS if {k: row[k] for k in ("cell", "convolutions", "seed")}
                 == {"cell": cell, "convolutions": 15, "seed": 0})  # fmt: skip
    for key in ("vanishing_index", "smallest_rms"):  # a dependence of 4e-8 is rounding noise
        assert today[key] == pytest.approx(stored[key], rel=0.01), key
