"""A run's curves, read whole and thinned out: what a picture can show of 2,000 recorded steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.rows import Key, Row, layers_in, lost_between
from detector.rundir.history import Rows

Array = NDArray[np.float64]

MAX_LAYERS = 5000  # of a profile; more is no trunk
MAX_ROWS = 100  # gradient profiles a run keeps; a screen shows no more
MAX_POINTS = 250  # points of a scalar curve
SERIES = (Key.LOSS, Key.VANISHING_INDEX, Key.TRAIN_MAP, Key.VAL_MAP, Key.CLIP_FACTOR)
MOST_PROBES = 20  # levels that were probed; a pyramid has three


@dataclass(frozen=True)
class Curves:
    """What a run recorded, thinned out evenly; the first and the last row are always kept."""

    layers: tuple[str, ...] = ()  # from the image to the head
    steps: tuple[int, ...] = ()  # of the profiles
    profiles: Mapping[str, Array] = field(default_factory=dict)  # kind -> (steps, layers), NaN where absent
    inside: Curves | None = None  # the same of what `gradients.points` added; no series
    series: Mapping[str, tuple[tuple[int, ...], Array]] = field(default_factory=dict)


def thin(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced, with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})


def curves(rows: Rows, summary: Mapping[str, Any]) -> Curves:
    """Thin the rows out to what is drawn; where the summary says that rows are lost, there is a gap."""
    recorded = rows.having(lambda key: key.startswith(Key.ACTIVATION_GRAD)).tolist()
    kept = [rows[recorded[at]] for at in thin(len(recorded), MAX_ROWS)]
    kept += [{Key.STEP: step} for step in lost_between([row[Key.STEP] for row in kept], summary)]
    kept.sort(key=lambda row: row[Key.STEP])
    series = {}
    ends = {key: None for row in (*rows[:1], *rows[-1:]) for key in row if key.startswith(Key.PROBE_AUC)}
    # Clipped by part, it is the trunk's factor that tells what the trunk learns from.
    other = {Key.CLIP_FACTOR: Key.CLIP_FACTOR + Key.TRUNK}
    there = set(rows.keys())
    _, at_step = rows.column(Key.STEP)  # every row has one
    for key in (*SERIES, *list(ends)[:MOST_PROBES]):
        numbers, found = rows.column(key if key in there else other.get(key, key))
        chosen = [(int(at_step[numbers[at]]), found[at]) for at in thin(len(numbers), MAX_POINTS)]
        if chosen:
            chosen += [(step, math.nan) for step in lost_between([step for step, _ in chosen], summary)]
            chosen.sort(key=lambda point: point[0])
            steps, values = zip(*chosen, strict=True)
            series[key] = (steps, np.array(values, np.float64))
    layers, profiles = _profiles(kept, Key.ACTIVATION_GRAD, Key.WEIGHT_GRAD)
    steps = tuple(int(row[Key.STEP]) for row in kept)
    names, more = _profiles(kept, Key.POINT_ACTIVATION_GRAD, Key.POINT_WEIGHT_GRAD)
    inside = Curves(names, steps, more) if names else None
    return Curves(layers, steps, profiles, inside, series)


def _profiles(rows: Sequence[Row], activation: str, weight: str) -> tuple[tuple[str, ...], dict[str, Array]]:
    """The names behind a kind of key, and both kinds' norms by step and name."""
    names = tuple(layers_in(rows, activation)[:MAX_LAYERS])
    kinds = {"activation_grad": activation, "weight_grad": weight}
    return names, {
        kind: np.array([[row.get(key + name, math.nan) for name in names] for row in rows])
        for kind, key in kinds.items()
    }


def nonfinite_note(rows: Rows) -> str | None:
    """Where the numbers first stop being finite, in words; the mAP of a split without objects is none."""
    broken = rows.not_finite(lambda key: "/mAP" not in key)
    if not len(broken):
        return None
    first = rows[broken[0]][Key.STEP]
    return f"{len(broken)} row(s) of its history hold numbers that are not finite, from step {first}"
