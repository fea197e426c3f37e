"""Strip trunk, neck and head apart and together, and write the table of what each costs.

python scripts/scope.py                 # runs what is missing (about 15 minutes on 2 cores)
python scripts/scope.py --report-only   # only writes, from the runs that are there
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

ABLATIONS = ("sigmoid", "no_batchnorm", "plain_silu", "plain_sigmoid")
SUITE = ROOT / "ablations" / "suites" / "scope.yaml"
PAGE = ROOT / "README.md"


def losses(runs: Path, cell: str) -> dict[int, float]:
    """The final training loss of a cell's finished runs, by seed."""
    from detector.rundir import Key, RunDir

    found = {run.name.rpartition("-s")[2]: RunDir(run).scan_summary()[0] for run in runs.glob(f"{cell}-s*")}
    return {int(seed): s[Key.LOSS] for seed, s in found.items() if s.get("status") == "finished"}


def comparison(baseline: Mapping[int, float], trunk: Mapping[int, float], rest: Mapping[int, float],
               both: Mapping[int, float]) -> list[Any]:  # fmt: skip
    """What is lost in the trunk, in neck and head, and by both together beyond the sum.

    Returns:
        Three estimates over the seeds that all four have: trunk - baseline, rest - baseline, and
        both - trunk - rest + baseline.
    """
    from detector.analysis.statistics import estimate

    seeds = sorted(baseline.keys() & trunk.keys() & rest.keys() & both.keys())
    return [
        estimate([trunk[s] - baseline[s] for s in seeds]),
        estimate([rest[s] - baseline[s] for s in seeds]),
        estimate([both[s] - trunk[s] - rest[s] + baseline[s] for s in seeds]),
    ]


def table(runs: Path) -> str:
    """A row an ablation, and below it what it was measured on."""
    from detector.rundir import RunDir
    from scripts.why import interval

    lines = ["| ablation | of the trunk | of neck and head | together, more than the sum | n |",
             "|---|--:|--:|--:|--:|"]  # fmt: skip
    baseline = losses(runs, "baseline")
    for name in ABLATIONS:
        found = comparison(
            baseline, *(losses(runs, f"{name}{end}") for end in ("", "_neck_and_head", "_all"))
        )
        lines.append(f"| `{name}` | {' | '.join(interval(asdict(e)) for e in found)} | {found[0].n} |")
    summaries = [RunDir(run).scan_summary()[0] for run in sorted(runs.glob("*-s*"))]
    commits = {str(s["commit"])[:7] + ("-dirty" if s["dirty"] else "") for s in summaries if s}
    mean = sum(baseline.values()) / max(1, len(baseline))
    return "\n".join([
        *lines, "", f"What stripping adds to the final training loss (the baseline's is {mean:.2f}); 95 % t "
        f"intervals over n paired seeds; commit {', '.join(sorted(commits))}.",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Run, then write."""
    from scripts.factorial import detector
    from scripts.pages import write_between

    parser = argparse.ArgumentParser(description="Strip trunk, neck and head apart and together.")
    parser.add_argument("--out", type=Path, default=ROOT / "runs", help="where the suites' runs are kept")
    parser.add_argument("--jobs", default="2")
    parser.add_argument("--report-only", action="store_true", help="train nothing")
    options = parser.parse_args(arguments)
    runs = options.out / SUITE.stem
    if not options.report_only and (
        status := detector("ablate", str(SUITE), f"--jobs={options.jobs}", f"--out={runs}")
    ):
        return status
    if not runs.is_dir():
        print(f"{runs}: no runs yet", file=sys.stderr)
        return 2
    write_between(PAGE, "table: scope", table(runs))
    return 0


if __name__ == "__main__":
    sys.exit(main())
