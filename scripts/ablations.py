"""Measure every ablation over several seeds, and write their table and pictures from the runs.

    python scripts/ablations.py                 # trains what is missing, then writes
    python scripts/ablations.py --report-only   # only writes, from the runs that are there

A run that has finished is not run again, so an interrupted measurement goes on where it stopped.
Each run is one process of `train.py` on its share of the cores; 22 ablations on COCO8, 5 seeds each, take
about an hour on 2 cores. One run on shapes comes first: what it predicts is a picture.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

# Name -> what it strips, in the order of the table.
ABLATIONS = {
    "baseline": "nothing",
    "no_residual": "shortcut",
    "no_batchnorm": "batch norm",
    "plain_silu": "shortcut and batch norm",
    "plain_relu": "both, and SiLU → ReLU",
    "plain_sigmoid": "both, and SiLU → sigmoid",
    "no_residual_sigmoid": "shortcut, and SiLU → sigmoid",
    "no_batchnorm_sigmoid": "batch norm, and SiLU → sigmoid",
    "sigmoid": "SiLU → sigmoid",
    "tanh": "SiLU → tanh",
    "relu": "SiLU → ReLU",
    "leaky_relu": "SiLU → leaky ReLU",
    "gated": "shortcut → highway gate",
    "naive_init": "He init → N(0, 0.01²)",
    "default_init": "He init → torch's default",
    "xavier_init": "He init → Xavier",
    "no_clip": "gradient clipping",
    "no_batchnorm_no_clip": "batch norm and clipping",
    "frozen_backbone": "training of the trunk",
    "narrow_neck": "neck width 48 → 8",
    "deep": "41 → 81 trunk convolutions",
    "adamw": "SGD → AdamW",
}


@dataclass(frozen=True)
class Cell:
    """One run to be measured."""

    directory: Path
    arguments: list[str]  # of `train.py`


def cells(out: Path, seeds: int) -> Iterator[Cell]:
    """Every ablation on COCO8, over the seeds; and the shapes that are drawn in the documentation."""
    yield Cell(out.parent / "shapes", ["--config", str(ROOT / "configs" / "shapes.yaml")])
    for name in ABLATIONS:
        for seed in range(seeds):
            settings = [f"train.seed={seed}", "data.fallback=none", "tracking.plots=false"]
            yield Cell(out / f"coco8-{name}-s{seed}", ["--config", str(file_of(name)), *settings])


def file_of(ablation: str) -> Path:
    """The experiment's configuration."""
    return ROOT / ("configs/coco8.yaml" if ablation == "baseline" else f"ablations/{ablation}.yaml")


def run_cell(cell: Cell, threads: int) -> str:
    """Train one cell, unless it exists already; return a line about it."""
    directory = cell.directory
    if (directory / "summary.json").exists():
        return f"{directory.name}: was there"
    resume = (directory / "checkpoints" / "last.pt").exists()
    settings = [f"run.dir={directory}", f"train.threads={threads}", "tracking.wandb=disabled"]
    arguments = ["--resume", str(directory)] if resume else [*cell.arguments, *settings]
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *arguments],
        env=os.environ | {"OMP_NUM_THREADS": str(threads)},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    # Exit 3 is a run whose numbers broke: its summary is a result like any other.
    return f"{directory.name}: exit {done.returncode}" + (
        "" if done.returncode in (0, 3) else f"\n{done.stderr[-2000:]}"
    )


def load(folder: Path, pattern: str) -> list[dict[str, Any]]:
    """The summaries of finished runs in directories such as `coco8-tanh-s{seed}`, by seed."""
    found = (folder / pattern.format(seed=seed) / "summary.json" for seed in range(100))
    return [json.loads(path.read_text()) for path in found if path.exists()]


def spread(values: Iterable[float | str | None], digits: int, sign: str = "") -> str:
    """`mean ± deviation`; NaN and null are counted, not averaged."""
    numbers = [v for v in values if isinstance(v, int | float) and v == v]
    if not numbers:
        return "–"
    deviation = f" ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else ""
    return f"{fmean(numbers):{sign}.{digits}f}{deviation}".replace("-", "−")


def verdicts(summaries: list[dict[str, Any]], key: str) -> str:
    """The verdict, with counts where the seeds disagree."""
    values = [str(s[key]) for s in summaries]
    kinds = sorted(set(values), key=values.count, reverse=True)
    return kinds[0] if len(kinds) == 1 else ", ".join(f"{kind} {values.count(kind)}" for kind in kinds)


def table(measured: Mapping[str, list[dict[str, Any]]], metrics: Sequence[str]) -> str:
    """A Markdown table with a row an ablation, a column a metric, and under it what it was measured on."""
    columns = " | ".join(metric.replace("/", " ") for metric in metrics)
    lines = [
        f"| ablation | stripped or swapped | V at init | verdict | V late | verdict | {columns} | n |",
        "|---|---|--:|---|--:|---|" + "--:|" * (len(metrics) + 1),
    ]
    commits: set[str] = set()
    for name, runs in measured.items():
        if not runs:
            continue
        commits |= {str(run["commit"])[:7] + ("-dirty" if run["dirty"] else "") for run in runs}
        # A run whose numbers broke has no late V: only its verdict.
        sound = [run for run in runs if run["status"] == "finished"]
        row = (
            f"`{name}`",
            ABLATIONS[name],
            spread((r["gradient/vanishing_index_init"] for r in runs), 2, "+"),
            verdicts(runs, "gradient/verdict_init"),
            spread((r["gradient/vanishing_index"] for r in sound), 2, "+"),
            verdicts(runs, "gradient/verdict"),
            *(spread((r[metric] for r in runs), 2) for metric in metrics),
            str(len(runs)),
        )
        lines.append("| " + " | ".join(row) + " |")
    one = measured["baseline"][0]
    versions = one["versions"]
    lines.append(
        f"\nMean ± standard deviation over n seeds; commit {', '.join(sorted(commits))}; "
        f"torch {versions['torch']}, ultralytics {versions['ultralytics']}, {one['device']}."
    )
    return "\n".join(lines)


def expectation(runs: list[dict[str, Any]]) -> list[str]:
    """What an ablation's header says to expect: its measured results, in comment lines."""
    if all(run["status"] == "diverged" for run in runs):
        steps = sorted({run["steps"] for run in runs})
        text = f"the numbers stop being finite at step {' or '.join(map(str, steps))}: verdict diverged"
    else:
        at_init, late = "gradient/vanishing_index_init", "gradient/vanishing_index"
        text = (
            f"V {spread((r[at_init] for r in runs), 2, '+')} at initialisation "
            f"({verdicts(runs, 'gradient/verdict_init')}), {spread((r[late] for r in runs), 2, '+')} late "
            f"({verdicts(runs, 'gradient/verdict')}); "
            f"final loss {spread((r['train/loss'] for r in runs), 2)}, "
            f"train mAP50-95 {spread((r['train/mAP50-95'] for r in runs), 2)} (n = {len(runs)} seeds)"
        )
    whole = f"Expected: {text}.".replace(" ± ", "\xa0±\xa0")  # never broken at its middle
    lines = textwrap.wrap(whole, 100, subsequent_indent=" " * 10)
    return [f"# {line}".replace("\xa0", " ").replace("−", "-") for line in lines]


def write_header(file: Path, runs: list[dict[str, Any]]) -> None:
    """Put the measured expectation into an experiment's comment header; nothing if there is none measured."""
    lines = file.read_text(encoding="utf-8").splitlines()
    start = next((i for i, line in enumerate(lines) if line.startswith("# Expected:")), None)
    if start is None or not runs:
        return
    end = start + 1
    while lines[end].startswith("#  "):
        end += 1
    lines[start:end] = expectation(runs)
    file.write_text("\n".join(lines) + "\n", encoding="utf-8")


def update_effects(runs: Path, ablations: Path) -> None:
    """Give the diagnosis the effects that were measured: by this script, and by the suites' in `runs`."""
    from detector.analysis.evidence import collect, write_effects

    folders = ablations, runs / "factorial", runs / "factorial_shapes", runs / "cures"
    runs_found = sorted(run for folder in folders if folder.is_dir() for run in folder.iterdir())
    write_effects(collect(runs_found))


def main() -> int:
    """Measure, then write."""
    parser = argparse.ArgumentParser(
        description="Measure every ablation; write the table and the pictures of docs/findings.md."
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "runs" / "ablations", help="where the runs are kept"
    )
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args()

    if not options.report_only:
        threads = max(1, (os.cpu_count() or 1) // options.jobs)
        with ThreadPoolExecutor(options.jobs) as pool:
            for line in pool.map(lambda cell: run_cell(cell, threads), cells(options.out, options.seeds)):
                print(line, flush=True)

    from scripts.pages import write_between
    from scripts.pictures import draw, photograph

    update_effects(options.out.parent, options.out)
    measured = {name: load(options.out, f"coco8-{name}-s{{seed}}") for name in ABLATIONS}
    metrics = "train/loss", "train/mAP50-95", "val/mAP50-95"
    write_between(ROOT / "docs" / "findings.md", "table: coco8", table(measured, metrics))
    for name, runs in measured.items():
        write_header(file_of(name), runs)
    for path in draw(options.out, ROOT / "docs"):
        print(path)
    photograph(options.out.parent / "shapes", ROOT / "docs" / "shapes_predictions.jpg")
    return 0


if __name__ == "__main__":
    sys.exit(main())
