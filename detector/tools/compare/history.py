"""A run's curves, read whole and thinned out: what a picture can show of 2,000 recorded steps."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import orjson
from numpy.typing import NDArray

from detector.runtime.files import read_bytes

Array = NDArray[np.float64]
Row = dict[str, Any]

MAX_HISTORY = 2_000_000_000  # bytes; a row has about 8 kB
MAX_LAYERS = 5000  # of a profile; more is no trunk
MAX_ROWS = 100  # gradient profiles a run keeps; a screen shows no more
MAX_POINTS = 250  # points of a scalar curve
GRADIENTS = ("activation_grad", "weight_grad")
SERIES = ("train/loss", "gradient/vanishing_index", "train/mAP50-95", "val/mAP50-95")

_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


@dataclass(frozen=True)
class Curves:
    """What a run recorded, thinned out evenly; the first and the last row are always kept."""

    layers: tuple[str, ...] = ()  # from the image to the head
    steps: tuple[int, ...] = ()  # of the profiles
    profiles: Mapping[str, Array] = field(default_factory=dict)  # prefix -> (steps, layers), NaN where absent
    series: Mapping[str, tuple[tuple[int, ...], Array]] = field(default_factory=dict)


def read_rows(path: Path) -> tuple[list[Row], list[str]]:
    """Every row of a history that can be read, in order of steps, and what was wrong with the others.

    Unlike `detector.loggers.jsonl.read_history`, which guards a run that goes on, this reads what is there.

    Raises:
        OSError: the file cannot be read.
    """
    rows: list[Row] = []
    bad: list[int] = []
    lines = read_bytes(path, MAX_HISTORY).split(b"\n")
    torn = lines.pop()
    for number, line in enumerate(lines, start=1):
        row = _parse(line)
        if row is None or (rows and row["step"] <= rows[-1]["step"]):
            bad.append(number)
        else:
            rows.append(row)
    notes = []
    if torn:
        notes.append("the last row of its history is torn and left out")
    if bad:
        which = ", ".join(map(str, bad[:3])) + (", …" if len(bad) > 3 else "")
        notes.append(f"{len(bad)} line(s) of its history are not rows in order, and left out: {which}")
    return rows, notes


def _parse(line: bytes) -> Row | None:
    """One row with numbers for values, or None. A key whose value is no number becomes NaN."""
    row: Any
    kinds: set[type] = {float, int}
    try:
        row = orjson.loads(line)
    except ValueError:
        kinds = {float}  # an integer may have thousands of digits
        try:
            row = json.loads(line)  # knows a bare NaN, which other writers leave in their files
        except (ValueError, RecursionError):
            return None
    if not isinstance(row, dict):
        return None
    step = row.get("step")
    if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 10**12:
        return None
    if not set(map(type, row.values())) <= kinds:
        return {key: number(value) for key, value in row.items()} | {"step": step}
    checked: Row = row
    return checked


def number(value: object) -> float:
    """A float from what a file holds; NaN if it holds no number."""
    if isinstance(value, str):
        return _NONFINITE.get(value, math.nan)
    if isinstance(value, bool) or not isinstance(value, int | float):
        return math.nan
    try:
        return float(value)
    except OverflowError:
        return math.nan


def thin(count: int, most: int) -> list[int]:
    """At most `most` indices below `count`, evenly spaced, with both ends."""
    if count <= most:
        return list(range(count))
    return sorted({round(at * (count - 1) / (most - 1)) for at in range(most)})


def curves(rows: Sequence[Row]) -> Curves:
    """Thin the rows out to what is drawn."""
    prefix = GRADIENTS[0] + "/"
    recorded = [row for row in rows if any(key.startswith(prefix) for key in row)]
    kept = [recorded[at] for at in thin(len(recorded), MAX_ROWS)]
    names = {key.split("/", 1)[1] for row in kept for key in row if key.startswith(prefix)}
    layers = tuple(sorted(names, key=lambda name: (depth_of(name), name))[:MAX_LAYERS])
    profiles = {
        kind: np.array([[row.get(f"{kind}/{name}", math.nan) for name in layers] for row in kept], np.float64)
        for kind in GRADIENTS
    }
    series = {}
    for key in SERIES:
        points = [(row["step"], row[key]) for row in rows if key in row]
        points = [points[at] for at in thin(len(points), MAX_POINTS)]
        if points:
            steps, values = zip(*points, strict=True)
            series[key] = (steps, np.array(values, np.float64))
    return Curves(layers, tuple(row["step"] for row in kept), profiles, series)


def depth_of(name: str) -> int:
    """Architectural depth from a name like 07_p3.4; names without one come last."""
    digits = name.split("_", 1)[0]
    return int(digits) if digits.isascii() and digits.isdigit() and len(digits) < 6 else 10**6


def nonfinite_note(rows: Sequence[Row]) -> str | None:
    """Where the numbers first stop being finite, in words."""
    broken = [row["step"] for row in rows if not math.isfinite(sum(row.values()))]
    if not broken:
        return None
    return f"{len(broken)} row(s) of its history hold numbers that are not finite, from step {broken[0]}"
