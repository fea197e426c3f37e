"""How the cost of what runs leave behind grows: rows of a history, runs in a comparison, cells of a suite.

The runs are made up from a real short one, so that a row has its keys and its size: about 4 kB.
"""

from __future__ import annotations

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median

import numpy as np
import orjson
import yaml

from benchmarks.speed.process import ROOT, Taken, taken
from detector.rundir import RunDir

ROWS = 1000, 10_000, 100_000, 1_000_000  # of one run
RUNS, ROWS_EACH, SEEDS = (10, 100, 300), 200, 5  # a run of 1,000 steps, recorded one in five
CELLS = 1, 4, 8
ALONE = 3  # runs of `train.py` by itself
EVERY = 5
CHUNK = 1000  # rows made at once
TINY = ["data.image_size=64", "train.steps=10", "train.device=cpu", "train.threads=1",
        "tracking.wandb=disabled", "tracking.plots=false"]  # fmt: skip
Case = dict[str, float]


def measure(
    rows: Sequence[int] = ROWS, runs: Sequence[int] = RUNS, cells: Sequence[int] = CELLS
) -> dict[str, list[Case]]:
    """Seconds and megabytes of each case, by what is varied."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = short_run(folder / "model")
        return {
            "rows in a history": [compared(count, folder, _rows(model, count)) for count in rows],
            "runs compared": [compared(count, folder, _runs(model, count)) for count in runs],
            "cells": suites(cells, folder),
        }


def short_run(out: Path) -> RunDir:
    """A real run of three recorded rows."""
    command = [sys.executable, "train.py", *TINY, f"run.dir={out}"]
    taken(command, out.with_suffix(".log"))
    return RunDir(out)


def write_run(model: RunDir, out: Path, rows: int, ablation: int = 0, seed: int = 0) -> None:
    """A run of so many rows like those of `model`: random walks, since what they are takes no time.

    Ablations differ in their learning rate; the first is the baseline.
    """
    rng = np.random.default_rng([ablation, seed])
    first, row, last = model.read_history()
    norms = {key: value for key, value in row.items() if key not in ("step", "epoch")}
    name = f"ablation_{ablation}" if ablation else "baseline"
    shutil.copytree(model.path, out, ignore=shutil.ignore_patterns("checkpoints", "plots", "history.jsonl"))
    walk = np.zeros(len(norms))
    with RunDir(out).history_file.open("wb") as file:
        for begin in range(0, rows, CHUNK):
            numbers = range(begin, min(begin + CHUNK, rows))
            walks = walk + np.cumsum(rng.normal(0, 0.02, (len(numbers), len(norms))), 0)
            walk = 0.5 * walks[-1]
            values = (np.fromiter(norms.values(), float) * np.exp(walks)).tolist()
            for number, found in zip(numbers, values, strict=True):
                place = {"step": number * EVERY, "epoch": number * EVERY}
                made = row | dict(zip(norms, found, strict=True)) | place
                whole = first | made if number == 0 else last | made if number == rows - 1 else made
                file.write(orjson.dumps(whole) + b"\n")
    config = yaml.safe_load(model.config_file.read_text(encoding="utf-8"))
    config["train"] |= {"seed": seed, "steps": rows * EVERY, "lr": 0.02 + ablation / 1000}
    config["run"] = {"dir": str(out), "name": name}
    RunDir(out).config_file.write_text(yaml.safe_dump(config), encoding="utf-8")
    RunDir(out).write_summary(model.read_summary() | {"ablation": name, "seed": seed, "steps": rows * EVERY})


def _rows(model: RunDir, count: int) -> Callable[[Path], None]:
    return lambda folder: write_run(model, folder / "run", count)


def _runs(model: RunDir, count: int) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        for number in range(count):
            write_run(model, folder / f"{number:03d}", ROWS_EACH, *divmod(number, SEEDS))

    return write


def compared(count: int, folder: Path, write: Callable[[Path], None]) -> Case:
    """`detector compare` of the runs that `write` leaves in a folder, which is deleted: table, and page."""
    runs, log = folder / "runs", folder / "log"
    runs.mkdir()
    try:
        write(runs)
        size = sum(file.stat().st_size for file in runs.rglob("history.jsonl")) / 1e6
        command = [sys.executable, "-m", "detector", "compare", str(runs)]
        table, page = (taken([*command, *more], log) for more in ([], ["--html", str(folder / "page.html")]))
    finally:
        shutil.rmtree(runs)
    return {"value": count, "files_mb": size, **_told("table", table), **_told("page", page)}


def _told(what: str, found: Taken) -> Case:
    return {f"{what}_s": found.seconds, f"{what}_mb": found.peak_mb}


def suites(cells: Sequence[int], folder: Path) -> list[Case]:
    """`detector ablate` beside as many runs of `train.py` by themselves, one at a time."""
    log = folder / "log"
    alone = median(
        taken([sys.executable, "train.py", *TINY, f"run.dir={folder / f'alone-{number}'}"], log).seconds
        for number in range(ALONE)
    )
    found = []
    for count in cells:
        suite, out = folder / f"suite{count}.yaml", folder / f"cells{count}"
        different = {f"cell_{number}": {"train": {"lr": 0.02 + number / 1000}} for number in range(count)}
        suite.write_text(yaml.safe_dump({"base": str(ROOT / "configs" / "coco8.yaml"), "cells": different}))
        command = [sys.executable, "-m", "detector", "ablate", str(suite), "--jobs=1", f"--out={out}", *TINY]
        seconds = taken(command, log).seconds
        summaries = [json.loads(file.read_text()) for file in out.glob("*/summary.json")]
        training = sum(summary["seconds"] for summary in summaries) / count
        found.append({"value": count, "cell_s": seconds / count, "training_s": training, "alone_s": alone})
    return found


def table(figures: dict[str, list[Case]]) -> str:
    """Two tables: what is compared, and what is trained."""
    lines = [
        "| varied | value | histories, MB | `compare`, s | peak, MB | with `--html`, s | peak, MB |",
        "|---|--:|--:|--:|--:|--:|--:|",
    ]
    for name in ("rows in a history", "runs compared"):
        lines += [
            f"| {name} | {one['value']:,.0f} | {one['files_mb']:.0f} | {one['table_s']:.1f} "
            f"| {one['table_mb']:.0f} | {one['page_s']:.1f} | {one['page_mb']:.0f} |"
            for one in figures[name]
        ]
    lines += [
        "",
        f"A run compared with others has {ROWS_EACH} rows; of a row, about 4 kB, all keys are a real run's.",
        "",
        "| cells | seconds a cell | of these training | `train.py` by itself, s | `ablate` adds a cell, s |",
        "|--:|--:|--:|--:|--:|",
    ]
    lines += [
        f"| {one['value']:.0f} | {one['cell_s']:.2f} | {one['training_s']:.2f} | {one['alone_s']:.2f} "
        f"| {one['cell_s'] - one['alone_s']:+.2f} |"
        for one in figures["cells"]
    ]
    return "\n".join([*lines, "", "One at a time, ten steps each: what a cell costs beside its training."])
