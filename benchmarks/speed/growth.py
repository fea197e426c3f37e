"""How the cost of a step and of recording it grows: with depth, image size, batch and the number of layers.

    python benchmarks/bench.py growth      # about eight minutes on one core, and 4 GB on the disk meanwhile

One dimension is varied at a time around the middle: this project's own detector with 41 trunk convolutions,
160 px, batch 4, every block recorded. Times are medians of steps with and without recording, in turns; memory
is the peak of a process of its own. Then what runs leave behind: see growth_files.py. Writes
benchmarks/growth.json and the tables in benchmarks/README.md.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import growth_files  # noqa: E402
from benchmarks.speed.network import training  # noqa: E402
from benchmarks.speed.row import Row, in_turns  # noqa: E402
from detector.config.schema import ModelConfig  # noqa: E402
from detector.gradients.recorder import GradientRecorder  # noqa: E402
from scripts.pages import write_between  # noqa: E402

ROUNDS = 15
PAGE, FIGURES = ROOT / "benchmarks" / "README.md", ROOT / "benchmarks" / "growth.json"


@dataclass(frozen=True)
class Case:
    """One network, its images and what is recorded."""

    convolutions: int = 41  # of the trunk: five that change the scale, and two a block
    size: int = 160
    batch: int = 4
    layers: int | None = None  # recorded, spread over the trunk; None: all

    @property
    def model(self) -> ModelConfig:
        """Blocks as the baseline spreads them: most of them at stride 8."""
        blocks = (self.convolutions - 5) // 2
        fourth, eighth = blocks * 4 // 18, blocks * 2 // 18 or 1
        return ModelConfig(depths=(eighth, blocks - fourth - 2 * eighth, fourth, eighth))


CASES = {
    "depth (trunk convolutions)": [Case(convolutions=n) for n in (21, 41, 81, 161)],
    "image size (pixels)": [Case(size=n) for n in (96, 160, 256, 320)],
    "batch": [Case(batch=n) for n in (1, 4, 8, 16)],
    "recorded layers": [Case(layers=n) for n in (1, 6, 12, None)],
}


def measure() -> list[Row]:
    """Measure every case and write the table of its own; there is nobody to compare with."""
    figures = {name: [asdict(case) | measured(case) for case in cases] for name, cases in CASES.items()}
    files = growth_files.measure()
    FIGURES.write_text(json.dumps(figures | files, indent=1) + "\n")
    text = f"{table(figures)}\n\n{growth_files.table(files)}"
    write_between(PAGE, "table: growth", text)
    print(text)
    return []


def measured(case: Case) -> dict[str, float]:
    """Times of both, from one process, and the peak memory of each, from two."""
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory() as folder:
        for record in (False, True):
            out = Path(folder) / "figures.json"
            command = [sys.executable, __file__, json.dumps(asdict(case)), str(record), str(out)]
            environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1")
            subprocess.run(command, check=True, cwd=ROOT, env=environment)
            one = json.loads(out.read_text())
            found |= {k: v for k, v in one.items() if k != "peak_mb"}
            found["peak_mb_recorded" if record else "peak_mb"] = one["peak_mb"]
    return found


def measure_here(case: Case, record: bool) -> dict[str, float]:
    """With `record` the times of both kinds of step; always the peak memory of this process."""
    torch.set_num_threads(1)
    network = training(case.model, case.size, case.batch, channels_last=True)
    points = network.state.model.backbone_layers()
    if case.layers is not None:
        step = max(1, len(points) // case.layers)
        points = dict(list(points.items())[::-1][::step][: case.layers][::-1])
        network.recorder = GradientRecorder(points)
    found: dict[str, float] = {"recorded": len(points)}
    if not record:
        network.steps(3)
    else:
        sides = {"plain": network.step, "recorded": lambda: network.step(record=True)}
        seconds = in_turns(sides, ROUNDS, warm_up=2)
        found["step_ms"] = 1000 * median(seconds["plain"])
        extra = [b - a for a, b in zip(seconds["plain"], seconds["recorded"], strict=True)]
        found["telemetry_ms"] = 1000 * median(extra)
    return found | {"peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024}


def table(figures: dict[str, list[dict[str, float]]]) -> str:
    """A line a case."""
    keys = {"depth (trunk convolutions)": "convolutions", "image size (pixels)": "size", "batch": "batch",
            "recorded layers": "recorded"}  # fmt: skip
    lines = [
        "| varied | value | layers recorded | step, ms | recording adds, ms | of the step "
        "| ms a layer | peak memory, MB | with recording |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, cases in figures.items():
        for one in cases:
            extra = one["telemetry_ms"]
            lines.append(
                f"| {name} | {one[keys[name]]:.0f} | {one['recorded']:.0f} | {one['step_ms']:.1f} "
                f"| {extra:.2f} | {extra / one['step_ms']:.1%} | {extra / one['recorded']:.3f} "
                f"| {one['peak_mb']:.0f} | {one['peak_mb_recorded']:.0f} |"
            )
    return "\n".join([*lines, "", f"Medians of {ROUNDS} rounds, one core, one thread, fp32."])


if __name__ == "__main__":
    Path(sys.argv[3]).write_text(
        json.dumps(measure_here(Case(**json.loads(sys.argv[1])), sys.argv[2] == "True"))
    )
