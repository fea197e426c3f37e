"""A suite on the terminal: a live table, or plain lines where there is no terminal; then the result."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from statistics import fmean, stdev
from typing import TYPE_CHECKING, TextIO

from detector.loggers.console import clock
from detector.rundir import Key
from detector.tools.suites.runner import COMPLETE, Job

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_COLUMNS = {
    "V init": Key.VANISHING_INDEX + Key.INIT,
    "V late": Key.VANISHING_INDEX,
    "train mAP": Key.TRAIN_MAP,
    "val mAP": Key.VAL_MAP,
}
_STYLE = {"finished": "green", "diverged": "magenta", "failed": "bold red", "stopped": "yellow"}


class SuiteDisplay:
    """Shows ablations as rows and seeds as columns, on stderr, with the time left."""

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        """Show the suite `name`."""
        from rich.console import Console

        self._name = name
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._began = time.monotonic()
        self._known: dict[int, float] = {}  # what a job had done when it was first seen
        self._live: Live | None = None

    def __enter__(self) -> SuiteDisplay:
        """Take a part of the terminal."""
        if self._console.is_terminal:
            from rich.live import Live

            self._live = Live(console=self._console, auto_refresh=False)
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Leave the terminal as it was."""
        if self._live is not None:
            self._live.stop()

    def update(self, jobs: Sequence[Job]) -> None:
        """Draw the table anew."""
        left = self.left(jobs)
        if self._live is not None:
            self._live.update(self._table(jobs, left), refresh=True)

    def ended(self, job: Job, jobs: Sequence[Job]) -> None:
        """Print a line, which on a terminal is left to failures: the table shows the rest."""
        if self._live is not None and job.status != "failed":
            return
        over = sum(one.status not in ("waiting", "running") for one in jobs)
        left = self.left(jobs)
        line = f"[{over}/{len(jobs)}] {job.cell.name}: {job.status}"
        if job.status in COMPLETE:
            init, late = (job.summary.get(_COLUMNS[key]) for key in ("V init", "V late"))
            line += f" in {clock(job.seconds)}; V {_signed(init)} → {_signed(late)}"
            line += f", train mAP {_number(job.summary.get(_COLUMNS['train mAP']))}"
        elif job.problem:
            line += f": {job.problem} (see {job.directory})"
        if left is not None:
            line += f"  ({clock(left)} left)"
        # soft_wrap: a long path must stay one line that can be copied.
        self._console.print(line, markup=False, soft_wrap=True)

    def left(self, jobs: Sequence[Job]) -> float | None:
        """Seconds left, from the work done since the beginning; None as long as nothing is known."""
        done = remaining = 0.0
        for job in jobs:
            known = self._known.setdefault(id(job), job.progress)
            if job.status in ("waiting", "running"):
                remaining += (1 - job.progress) * job.cell.work
            # A run that is continued reports its old progress at first: count only what is new.
            if job.start == "resume" and known == 0 < job.progress:
                self._known[id(job)] = known = job.progress
            done += max(0.0, job.progress - known) * job.cell.work
        if not done or not remaining:
            return None
        return (time.monotonic() - self._began) / done * remaining

    def _table(self, jobs: Sequence[Job], left: float | None) -> Table:
        from rich.table import Table
        from rich.text import Text

        over = sum(job.status not in ("waiting", "running") for job in jobs)
        caption = f"{over} of {len(jobs)} runs, {clock(time.monotonic() - self._began)}"
        if left is not None:
            caption += f", {clock(left)} left"
        table = Table(
            title=Text(f"{self._name}: V late", style="bold"),
            caption=Text(f"{caption}\nCtrl-C stops; the same command resumes"),
            show_edge=False,
            pad_edge=False,
        )
        seeds = sorted({job.cell.seed for job in jobs})
        table.add_column("", no_wrap=True)
        for seed in seeds:
            table.add_column(f"seed {seed}", justify="right", no_wrap=True, min_width=7)
        rows: dict[str, dict[int, Job]] = {}
        for job in jobs:
            rows.setdefault(job.cell.ablation, {})[job.cell.seed] = job
        for name, row in rows.items():
            table.add_row(name, *(Text(_glance(row[s]), style=_STYLE.get(row[s].status, "")) for s in seeds))
        return table


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


def _glance(job: Job) -> str:
    """A job in seven columns: its V, or how far it is."""
    if job.status == "finished":
        return _signed(job.summary.get(_COLUMNS["V late"]))
    if job.status == "running":
        return f"{100 * job.progress:.0f} %"
    return "·" if job.status == "waiting" else job.status


def _signed(value: object) -> str:
    return f"{value:+.2f}" if isinstance(value, int | float) else "-"


def _number(value: object) -> str:
    return f"{value:.3f}" if isinstance(value, int | float) else "-"
