"""How well does what is measured at initialisation sort the cells of an experiment by what they learn?

    python -m scripts.predict runs/ablations runs/cures runs/factorial_shapes     # finished runs of any suite
    python -m scripts.predict runs/ablations … --write                            # into docs/findings.md

For each index, on each data set: the rank correlation (Spearman's ρ) between its mean over a cell's seeds and
the outcome, with a 95 % interval from resampling the cells. Judge an index only by runs on which it was not
chosen: by other seeds and depths.
"""

from __future__ import annotations

import argparse
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np

from detector.rows import Key
from detector.rundir import RunDir
from scripts.pages import write_between

RESAMPLES = 2000
FEWEST = 5  # cells: of fewer, no order says anything
ROOT = Path(__file__).resolve().parents[1]
MARKER = "table: predict"
SIZE_OF_V = "size of V at init"  # vanishing and exploding count alike
# Index -> its key in the summary.
INDICES = {
    "V at init": Key.VANISHING_INDEX + Key.INIT,
    SIZE_OF_V: Key.VANISHING_INDEX + Key.INIT,
    "V a layer": Key.DECADES_PER_LAYER + Key.INIT,
    "W at init": Key.WEIGHT_INDEX + Key.INIT,
    "RMS of P3": f"{Key.RMS}_p3{Key.INIT}",
    "RMS of P5": f"{Key.RMS}_p5{Key.INIT}",
    "probe on P3": f"{Key.PROBE_AUC}_p3{Key.INIT}",
    "probe on P4": f"{Key.PROBE_AUC}_p4{Key.INIT}",
    "probe on P5": f"{Key.PROBE_AUC}_p5{Key.INIT}",
    "gradient's autocorrelation": Key.AUTOCORRELATION + Key.INIT,
}


def ranks(values: Sequence[float]) -> np.ndarray[Any, Any]:
    """From 1; of equal values the middle of their ranks."""
    array = np.asarray(values, dtype=float)
    return np.array([(array < v).sum() + ((array == v).sum() + 1) / 2 for v in array])


def rank_correlation(a: Sequence[float], b: Sequence[float]) -> float:
    """Spearman's ρ: Pearson's correlation of the ranks; NaN where one of the two does not vary."""
    x, y = ranks(a), ranks(b)
    x, y = x - x.mean(), y - y.mean()
    scale = math.sqrt(float((x * x).sum() * (y * y).sum()))
    return float((x * y).sum()) / scale if scale else math.nan


def interval(a: Sequence[float], b: Sequence[float], seed: int = 0) -> tuple[float, float]:
    """The 2.5 and 97.5 percentiles of ρ over resampled cells."""
    rng, pairs = np.random.default_rng(seed), np.stack([a, b], 1)
    found = [rank_correlation(*pairs[rng.integers(0, len(pairs), len(pairs))].T) for _ in range(RESAMPLES)]
    low, high = np.nanpercentile(found, [2.5, 97.5])
    return float(low), float(high)


def cells(runs: Sequence[Mapping[str, Any]], key: str, outcome: str) -> list[tuple[float, float]]:
    """One pair a cell: means of index and outcome over the seeds that have both."""
    by_cell: dict[str, list[tuple[float, float]]] = {}
    for run in runs:
        pair = run.get(key), run.get(outcome)
        if all(isinstance(v, int | float) and math.isfinite(v) for v in pair):
            by_cell.setdefault(f"{run['ablation']} on {run['dataset']}", []).append(pair)  # type: ignore[arg-type]
    return [(fmean(a for a, _ in found), fmean(b for _, b in found)) for found in by_cell.values()]


def table(runs: Sequence[Mapping[str, Any]], outcome: str) -> str:
    """A row an index, and of each data set its correlation with the outcome."""
    datasets = sorted({str(run["dataset"]) for run in runs})
    heads = "".join(f" on {dataset} | 95 % interval | cells |" for dataset in datasets)
    lines = [f"| ρ with {outcome} of |{heads}", "|---|" + "--:|--:|--:|" * len(datasets)]
    for name, key in INDICES.items():
        row = f"| {name} |"
        for dataset in datasets:
            pairs = cells([run for run in runs if run["dataset"] == dataset], key, outcome)
            if len(pairs) < FEWEST:
                row += f" – | fewer than {FEWEST} | {len(pairs)} |"
                continue
            a, b = zip(*pairs, strict=True)
            if name == SIZE_OF_V:
                a = tuple(map(abs, a))
            low, high = interval(a, b)
            row += f" {rank_correlation(a, b):+.2f} | \\[{low:+.2f}, {high:+.2f}\\] | {len(pairs)} |"
        lines.append(row.replace("-0.", "−0.").replace("-1.", "−1."))
    commits = sorted({str(run.get("commit"))[:7] for run in runs})
    seeds = sorted(
        {len({r["seed"] for r in runs if r["ablation"] == a}) for a in {r["ablation"] for r in runs}}
    )
    n = "–".join(map(str, sorted({seeds[0], seeds[-1]})))
    return "\n".join([*lines, "", f"Means over n = {n} seeds a cell; commit {', '.join(commits)}."])


def main(arguments: Sequence[str] | None = None) -> int:
    """Read, and print or write."""
    parser = argparse.ArgumentParser(description="What is measured at initialisation against an outcome.")
    parser.add_argument("folders", nargs="+", type=Path, help="with run directories inside")
    parser.add_argument("--outcome", default=Key.LOSS, help="a key of summary.json")
    parser.add_argument("--write", action="store_true", help="into docs/findings.md")
    options = parser.parse_args(arguments)
    files = sorted({file.parent for folder in options.folders for file in folder.rglob("summary.json")})
    summaries = [RunDir(file).scan_summary()[0] for file in files]
    runs = [run for run in summaries if run.get("status") == "finished"]
    if not runs:
        parser.error(f"{', '.join(map(str, options.folders))}: no finished run")
    text = table(runs, options.outcome)
    print(text)
    if options.write:
        write_between(ROOT / "docs" / "findings.md", MARKER, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
