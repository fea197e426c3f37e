"""Run the suite of cures on COCO8, and write the README's table of what repairs what.

    python scripts/cures.py                 # runs what is missing (about 40 minutes on 2 cores)
    python scripts/cures.py --report-only   # only writes, from the runs that are there

The diagnosis quotes the cures from then on: they are in the file of evidence, with n.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SUITE = ROOT / "ablations" / "suites" / "cures.yaml"
COLUMNS = {
    "V at init": ("gradient/vanishing_index_init", 2, "+"),
    "V late": ("gradient/vanishing_index", 2, "+"),
    "train loss": ("train/loss", 2, ""),
    "train mAP50-95": ("train/mAP50-95", 2, ""),
}


def table(suite: Any, runs: Path) -> str:
    """A Markdown table with a row a cell; a cell without a finished run has none."""
    from detector.rundir import RunDir
    from scripts.ablations import spread

    lines = [f"| cell | changes | {' | '.join(COLUMNS)} | n |", "|---|---|" + "--:|" * (len(COLUMNS) + 1)]
    commits: set[str] = set()
    for name, delta in suite.cells.items():
        summaries = [RunDir(run).scan_summary()[0] for run in sorted(runs.glob(f"{name}-s*"))]
        sound = [summary for summary in summaries if summary.get("status") == "finished"]
        commits |= {str(summary["commit"])[:7] + ("-dirty" if summary["dirty"] else "") for summary in sound}
        broken = sum(summary.get("status") == "diverged" for summary in summaries)
        changes = " ".join(f"`{key.split('.')[-1]}={value.value}`" for key, value in delta.items()) or "–"
        cells = [spread((s[key] for s in sound), digits, sign) for key, digits, sign in COLUMNS.values()]
        if sound or broken:
            n = str(len(sound)) + (f" ({broken} diverged)" if broken else "")
            lines.append(f"| `{name}` | {changes} | {' | '.join(cells)} | {n} |")
    return (
        "\n".join(lines) + f"\n\nMean ± standard deviation over n seeds; commit {', '.join(sorted(commits))}."
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, then write."""
    from detector.tools.suites.suite import load_suite
    from scripts.ablations import update_effects
    from scripts.factorial import detector
    from scripts.pages import write_between

    parser = argparse.ArgumentParser(description="Run the suite of cures and write what came of it.")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the suites' runs are kept")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    runs = options.out / "cures"
    if not options.report_only and (
        status := detector("ablate", str(SUITE), f"--jobs={options.jobs}", f"--out={runs}")
    ):
        return status
    if not runs.is_dir():
        print(f"{runs}: no runs yet", file=sys.stderr)
        return 2
    write_between(ROOT / "README.md", "table: cures", table(load_suite(SUITE), runs))
    update_effects(options.out, options.out / "ablations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
