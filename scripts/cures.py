"""Run the suite of cures on COCO8, and write the table of what repairs what.

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
# What the README shows of it: what is stripped, and the cells that repair it without putting it back.
REPAIRS = {
    "no_residual": ("no_residual_adamw", "gated"),
    "no_batchnorm": ("no_batchnorm_skipinit", "no_batchnorm_fixup"),
    "plain_silu": ("plain_delta_leaky", "plain_tailored_tanh"),
}
COLUMNS = {
    "V at init": ("gradient/vanishing_index_init", 2, "+"),
    "V late": ("gradient/vanishing_index", 2, "+"),
    "train loss": ("train/loss", 2, ""),
    "train mAP50-95": ("train/mAP50-95", 2, ""),
}


def summaries_of(runs: Path, cell: str) -> list[dict[str, Any]]:
    """The summary of each of a cell's runs."""
    from detector.rundir import RunDir

    return [RunDir(run).scan_summary()[0] for run in sorted(runs.glob(f"{cell}-s*"))]


def row(summaries: Sequence[dict[str, Any]]) -> str:
    """The columns of a cell, from its finished runs, as a part of a Markdown row."""
    from scripts.ablations import spread

    sound = [summary for summary in summaries if summary.get("status") == "finished"]
    broken = sum(summary.get("status") == "diverged" for summary in summaries)
    cells = [spread((s[key] for s in sound), digits, sign) for key, digits, sign in COLUMNS.values()]
    return " | ".join([*cells, str(len(sound)) + (f" ({broken} diverged)" if broken else "")])


def changes(delta: dict[str, Any]) -> str:
    """What a cell sets, as code."""
    return " ".join(f"`{key.split('.')[-1]}={value.value}`" for key, value in delta.items()) or "–"


def short(suite: Any, runs: Path) -> str:
    """The README's table: what is stripped, and below it what repairs it."""
    lines = [f"| network | {' | '.join(COLUMNS)} | n |", "|---|" + "--:|" * (len(COLUMNS) + 1)]
    for stripped, repaired in REPAIRS.items():
        lines.append(f"| **`{stripped}`** | {row(summaries_of(runs, stripped))} |")
        for cell in repaired:
            inherited = {key: value.value for key, value in suite.cells[stripped].items()}
            added = {k: v for k, v in suite.cells[cell].items() if v.value != inherited.get(k, ...)}
            lines.append(f"| with {changes(added)} | {row(summaries_of(runs, cell))} |")
    return "\n".join(lines)


def table(suite: Any, runs: Path) -> str:
    """A Markdown table with a row a cell; a cell without a finished run has none."""
    lines = [f"| cell | changes | {' | '.join(COLUMNS)} | n |", "|---|---|" + "--:|" * (len(COLUMNS) + 1)]
    commits: set[str] = set()
    for name, delta in suite.cells.items():
        summaries = summaries_of(runs, name)
        sound = [summary for summary in summaries if summary.get("status") == "finished"]
        commits |= {str(summary["commit"])[:7] + ("-dirty" if summary["dirty"] else "") for summary in sound}
        if any(summary.get("status") in ("finished", "diverged") for summary in summaries):
            lines.append(f"| `{name}` | {changes(delta)} | {row(summaries)} |")
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
    suite = load_suite(SUITE)
    write_between(ROOT / "docs" / "findings.md", "table: cures", table(suite, runs))
    write_between(ROOT / "README.md", "table: repairs", short(suite, runs))
    update_effects(options.out, options.out / "ablations")
    return 0


if __name__ == "__main__":
    sys.exit(main())
