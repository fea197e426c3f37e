"""Many small runs: a suite whose cells train their seeds together (`detector ablate --stack`), or do not.

On a CUDA GPU the factorial of 8 cells and 5 seeds on the built-in shapes, at the budget of `detector why`,
from the command to the last summary, on all cores. On a CPU one cell of it, shorter, and what is counted is
the processors' time, children included: what stacking saves there is the start of a process a run.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from benchmarks.speed.process import ROOT, environment
from benchmarks.speed.row import Row

CELLS = {
    "baseline": "{}",
    **{
        name: str(ROOT / "ablations" / f"{name}.yaml")
        for name in (
            "sigmoid", "no_batchnorm", "no_batchnorm_sigmoid", "no_residual", "no_residual_sigmoid",
            "plain_silu", "plain_sigmoid",
        )
    },
}  # fmt: skip
SEEDS, STEPS = 5, 20
ROUNDS = 3


def measure() -> list[Row]:
    """Seconds with and without `--stack`."""
    cuda = torch.cuda.is_available()
    seconds: dict[bool, list[float]] = {True: [], False: []}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        if cuda:
            os.sched_setaffinity(0, range(os.cpu_count() or 1))  # several processes feed the GPU
            suite = write_suite(folder, tuple(CELLS))
            for stacked in (True, False):
                seconds[stacked].append(run(suite, folder / f"{stacked}", stacked)[0])
        else:
            print("stack: no CUDA GPU here, only a CPU's time is measured")
            suite = write_suite(folder, ("no_residual",))
            for round_ in range(ROUNDS):
                for stacked in (True, False):
                    out = folder / f"{stacked}{round_}"
                    seconds[stacked].append(run(suite, out, stacked, f"train.steps={STEPS}")[1])
    what = (
        f"the factorial on shapes, 8 cells × {SEEDS} seeds, `--stack`, {torch.cuda.get_device_name()}"
        if cuda
        else f"CPU time of a cell of {SEEDS} seeds, {STEPS} steps, on shapes: `--stack`"
    )
    peer = "the same without `--stack`"
    return [Row(what, peer, "s", seconds[True], seconds[False], target=120 if cuda else 1.0, absolute=cuda)]


def write_suite(folder: Path, names: tuple[str, ...]) -> Path:
    """A suite of some of the factorial's cells, on shapes."""
    path = folder / "stacked.yaml"
    cells = "".join(f"  {name}: {CELLS[name]}\n" for name in names)
    path.write_text(f"base: {ROOT / 'configs/why_shapes.yaml'}\nseeds: {SEEDS}\ncells:\n{cells}")
    return path


def run(suite: Path, out: Path, stacked: bool, *overrides: str) -> tuple[float, float]:
    """The command; its seconds, and its processors' seconds."""
    option = ("--stack",) if stacked else ()
    command = [sys.executable, "-m", "detector", "ablate", str(suite), *overrides, *option, "--out", str(out)]
    started, before = time.perf_counter(), used()
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env=environment(out.parent))
    return time.perf_counter() - started, used() - before


def used() -> float:
    """User and system seconds of all children that have ended."""
    found = resource.getrusage(resource.RUSAGE_CHILDREN)
    return found.ru_utime + found.ru_stime
