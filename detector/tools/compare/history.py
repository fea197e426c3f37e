"""A run's curves, read whole and thinned out: what a picture can show of 2,000 recorded steps."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from detector.rundir import Key, Row, layers_in

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
    series: Mapping[str, tuple[tuple[int, ...], Array]] = field(default_factory=dict)


def thin(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced, with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})


def curves(rows: Sequence[Row]) -> Curves:
    """Thin the rows out to what is drawn."""
    recorded = [row for row in rows if any(key.startswith(Key.ACTIVATION_GRAD) for key in row)]
    kept = [recorded[at] for at in thin(len(recorded), MAX_ROWS)]
    layers = tuple(layers_in(kept, Key.ACTIVATION_GRAD)[:MAX_LAYERS])
    profiles = {
        kind.rstrip("/"): np.array([[row.get(kind + name, math.nan) for name in layers] for row in kept])
        for kind in (Key.ACTIVATION_GRAD, Key.WEIGHT_GRAD)
    }
    series = {}
    ends = {key: None for row in (*rows[:1], *rows[-1:]) for key in row if key.startswith(Key.PROBE_AUC)}
    # Clipped by part, it is the trunk's factor that tells what the trunk learns from.
    other = {Key.CLIP_FACTOR: Key.CLIP_FACTOR + Key.TRUNK}
    for key in (*SERIES, *list(ends)[:MOST_PROBES]):
        found = key if any(key in row for row in rows) else other.get(key, key)
        points = [(int(row[Key.STEP]), row[found]) for row in rows if found in row]
        points = [points[at] for at in thin(len(points), MAX_POINTS)]
        if points:
            steps, values = zip(*points, strict=True)
            series[key] = (steps, np.array(values, np.float64))
    return Curves(layers, tuple(int(row[Key.STEP]) for row in kept), profiles, series)


def nonfinite_note(rows: Sequence[Row]) -> str | None:
    """Where the numbers first stop being finite, in words; the mAP of a split without objects is none."""
    broken = [
        row[Key.STEP]
        for row in rows
        if not math.isfinite(sum(value for key, value in row.items() if "/mAP" not in key))
    ]
    if not broken:
        return None
    return f"{len(broken)} row(s) of its history hold numbers that are not finite, from step {broken[0]}"
