"""The peak memory of a whole run: training, validation after every epoch, checkpoints.

What the kernel notes as the largest resident set of the process or of anything it waited for. Both sides
validate after each of five epochs, draw no plots and have W&B switched off.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.speed.process import EPOCHS, WHAT, coco8, run
from benchmarks.speed.row import Row
from benchmarks.speed.step import has_bf16

ROUNDS = 3
QUIET = "tracking.wandb=disabled", "tracking.plots=false", "train.eval_every=1"
SIDES = {
    "fp32": ("ours", *QUIET, "train.precision=fp32"),
    "auto": ("ours", *QUIET, "train.precision=auto"),
    "theirs": ("theirs",),
}


def measure() -> list[Row]:
    """Megabytes; of `precision: auto` only on a CPU where that is bf16."""
    sides = {name: side for name, side in SIDES.items() if name != "auto" or has_bf16()}
    peaks: dict[str, list[float]] = {side: [] for side in sides}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = coco8(folder)
        for round_ in range(ROUNDS):
            for name, (side, *overrides) in sides.items():
                peaks[name].append(run(side, data, folder / f"{name}{round_}", *overrides)[1])
    what = f"peak memory, {WHAT}, {EPOCHS} epochs"
    labels = {"fp32": "fp32 on both sides", "auto": "ours in `precision: auto`, which is bf16"}
    return [
        Row(f"{what}, {label}", "ultralytics", "MB", peaks[name], peaks["theirs"], target=0.65)
        for name, label in labels.items()
        if name in peaks
    ]
