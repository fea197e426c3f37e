"""The factorial on shapes, 8 cells by 5 seeds at the budget of `detector why`: seconds on two cores."""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

from benchmarks.speed.process import cores, taken
from benchmarks.speed.row import Row

SUITE, CELLS, SEEDS, CORES = "ablations/suites/factorial_shapes.yaml", 8, 5, 2


def measure(seeds: int = SEEDS, *overrides: str) -> list[Row]:
    """Seconds from the command to its table, as it comes."""
    with tempfile.TemporaryDirectory() as name, cores(CORES) as used:
        folder = Path(name)
        arguments = ["ablate", SUITE, f"--seeds={seeds}", f"--jobs={used}", f"--out={folder / 'runs'}"]
        found = taken([sys.executable, "-m", "detector", *arguments, *overrides], folder / "log")
        runs = sum((run / "summary.json").is_file() for run in (folder / "runs").iterdir())
    if runs != CELLS * seeds:
        raise SystemExit(f"{runs} of {CELLS * seeds} runs left a summary")
    what = f"`detector ablate {SUITE}`, {CELLS} cells × {seeds} seeds on {used} cores"
    return [Row(what, "–", "s", [found.seconds], [], target=900, absolute=True,
                note=f"{found.cpu:.0f} s of CPU, {found.cpu / runs:.1f} a run")]  # fmt: skip
