"""A suite on the terminal: V of each cell as it is known, then the result."""

from __future__ import annotations

import math
from collections.abc import Iterable
from statistics import fmean, stdev

from detector.jobs.display import JobDisplay
from detector.jobs.runner import COMPLETE, Job
from detector.rows import Key

_COLUMNS = {
    "V init": Key.VANISHING_INDEX + Key.INIT,
    "V late": Key.VANISHING_INDEX,
    "train mAP": Key.TRAIN_MAP,
    "val mAP": Key.VAL_MAP,
}


class SuiteDisplay(JobDisplay):
    """Shows V late of every cell."""

    what = "V late"

    def glance(self, job: Job) -> str:
        """V late, in seven columns."""
        return _signed(job.summary.get(Key.VANISHING_INDEX))

    def outcome(self, job: Job) -> str:
        """V at both ends, and how much was memorised."""
        init, late = (job.summary.get(_COLUMNS[key]) for key in ("V init", "V late"))
        memorised = job.summary.get(Key.TRAIN_MAP)
        return f"V {_signed(init)} → {_signed(late)}, train mAP {_number(memorised)}"


def result_table(jobs: Iterable[Job]) -> str:
    """The suite's result: a line an ablation, `mean ± standard deviation` over its seeds.

    n counts the complete runs. One whose numbers broke counts in n and is named; of its values, those
    that were measured before are averaged, and V late is left out.
    """
    rows: dict[str, list[Job]] = {}
    for job in jobs:
        rows.setdefault(job.cell.ablation, []).append(job)
    table = [["", "n", *_COLUMNS, ""]]
    for name, row in rows.items():
        complete = [job for job in row if job.status in COMPLETE]
        finished = [job for job in complete if job.status == "finished"]
        spreads = [
            _spread((job.summary.get(key) for job in (finished if title == "V late" else complete)), title)
            for title, key in _COLUMNS.items()
        ]
        notes = []
        if broken := len(complete) - len(finished):
            notes.append(f"{broken} diverged")
        if missing := len(row) - len(complete):
            notes.append(f"{missing} missing")
        table.append([name, str(len(complete)), *spreads, ", ".join(notes)])
    widths = [max(len(line[column]) for line in table) for column in range(len(table[0]))]
    lines = [
        "  ".join([line[0].ljust(widths[0]), *map(str.rjust, line[1:-1], widths[1:-1]), line[-1]]).rstrip()
        for line in table
    ]
    return "\n".join(lines)


def _spread(values: Iterable[object], title: str) -> str:
    numbers = [float(v) for v in values if isinstance(v, int | float) and math.isfinite(v)]
    if not numbers:
        return "-"
    sign, digits = ("+", 2) if title.startswith("V") else ("", 3)
    mean = format(fmean(numbers), f"{sign}.{digits}f")
    return f"{mean} ± {stdev(numbers):.{digits}f}" if len(numbers) > 1 else mean


def _signed(value: object) -> str:
    return f"{value:+.2f}" if isinstance(value, int | float) else "-"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"
