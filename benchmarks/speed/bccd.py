"""BCCD from scratch, the same yolov8n on both sides: mAP beside core seconds. About 40 minutes on two cores.

benchmarks/bccd.py trains and scores, and writes its own table in docs/speed.md; here its runs become rows.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.bccd import EPOCHS, SIZE
from benchmarks.speed.process import ROOT, cores, taken
from benchmarks.speed.row import Row

SEEDS = 3


def measure() -> list[Row]:
    """Train both sides anew, on two cores, and read what they came to."""
    with tempfile.TemporaryDirectory() as name, cores(2):
        folder = Path(name)
        command = [sys.executable, "benchmarks/bccd.py", f"--seeds={SEEDS}", f"--out={folder / 'runs'}"]
        taken(command, folder / "log")
    return rows(json.loads((ROOT / "docs" / "bccd.json").read_text(encoding="utf-8"))["runs"])


def rows(runs: Sequence[dict[str, Any]]) -> list[Row]:
    """Points of mAP50-95 above theirs, paired by seed, and the share of their core seconds."""
    of = {side: sorted((one for one in runs if one["side"] == side), key=lambda one: one["seed"])
          for side in EPOCHS}  # fmt: skip
    theirs = of["ultralytics"]
    peer = f"ultralytics' defaults, {EPOCHS['ultralytics']} epochs"
    found = []
    for side in ("ours", "ours, longer"):
        what = f"BCCD from scratch, the same yolov8n, {SIZE} px, {EPOCHS[side]} epochs"
        points = [100 * (mine["mAP50-95"] - other["mAP50-95"])
                  for mine, other in zip(of[side], theirs, strict=True)]  # fmt: skip
        seconds = [[one["cpu"] for one in runs_] for runs_ in (of[side], theirs)]
        target = 0.35 if side == "ours" else 1.0
        found += [
            Row(f"{what}: val mAP50-95 above theirs", peer, "points", points, [], 16, absolute=True,
                at_least=True),
            Row(f"{what}: core seconds", peer, "s", *seconds, target),
        ]  # fmt: skip
    return found
