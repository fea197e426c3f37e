"""From the start of the process to the end of the first optimiser step, and what `--help` takes.

The clock starts before the process does and stops in a hook that PyTorch calls after any optimiser's step,
so that both sides stop at the same place. Files are in the disk cache: a first round is not counted.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.speed.process import ROOT, WHAT, coco8, environment, run
from benchmarks.speed.row import Row

ROUNDS = 5
SIDES: dict[str, tuple[str, ...]] = {
    "same": ("ours", "tracking.wandb=offline"),
    "theirs": ("theirs",),
    "torch": ("torch",),
}


def measure() -> list[Row]:
    """Both, in seconds."""
    seconds: dict[str, list[float]] = {side: [] for side in (*SIDES, "help")}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        data = coco8(folder)
        for round_ in range(-1, ROUNDS):
            for name, (side, *overrides) in SIDES.items():
                done, _ = run(
                    side, data, folder / f"{name}{round_}", *overrides, STARTED=str(time.monotonic())
                )
                if round_ >= 0:
                    seconds[name].append(float(done.stdout.split()[-1]))
            if round_ >= 0:
                seconds["help"].append(help_seconds(folder))
    alone = median(seconds["torch"])
    note = f"importing torch alone: {alone:.1f} s; ours records its gradients and logs to W&B, offline"
    return [
        Row(f"from process start to the end of the first step, {WHAT}", "ultralytics", "s",
            seconds["same"], seconds["theirs"], target=0.5, note=note),
        Row("`python -m detector --help`", "–", "s", seconds["help"], [], target=0.3, absolute=True),
    ]  # fmt: skip


def help_seconds(folder: Path) -> float:
    """How long the list of commands takes."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-m", "detector", "--help"], cwd=ROOT, check=True, capture_output=True,
                   env=environment(folder))  # fmt: skip
    return time.perf_counter() - started
