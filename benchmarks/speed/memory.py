"""The peak memory of a whole run: training, validation after every epoch, checkpoints.

What the kernel notes as the largest resident set of the process or of anything it waited for. Both sides
validate after each of five epochs, draw no plots and have W&B switched off.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from benchmarks.speed.process import EPOCHS, WHAT, coco8, run
from benchmarks.speed.row import Row

ROUNDS = 3
QUIET = "tracking.wandb=disabled", "tracking.plots=false", "train.eval_every=1"
SIDES = {
    "fp32": ("ours", *QUIET, "train.precision=fp32"),
    "auto": ("ours", *QUIET, "train.precision=auto"),
    "theirs": ("theirs",),
}


def measure() -> list[Row]:
    """Megabytes."""
    peaks: dict[str, list[float]] = {side: [] for side in SIDES}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = coco8(folder)
        for round_ in range(ROUNDS):
            for name, (side, *overrides) in SIDES.items():
                peaks[name].append(run(side, data, folder / f"{name}{round_}", *overrides)[1])
    what = f"peak memory, {WHAT}, {EPOCHS} epochs"
    return [
        Row(f"{what}, fp32 on both sides", "ultralytics", "MB", peaks["fp32"], peaks["theirs"], target=0.8),
        Row(f"{what}, ours in `precision: auto`", "ultralytics", "MB", peaks["auto"], peaks["theirs"],
            target=0.8, note="auto is bf16 where the CPU multiplies in it"),
    ]  # fmt: skip
