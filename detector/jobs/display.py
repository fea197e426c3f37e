"""Many runs on the terminal: a live table, or plain lines where there is no terminal."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Self, TextIO

from detector.jobs.runner import COMPLETE, Job
from detector.loggers.console import clock

if TYPE_CHECKING:
    from rich.live import Live
    from rich.table import Table

_STYLE = {"finished": "green", "diverged": "magenta", "failed": "bold red", "stopped": "yellow"}


class JobDisplay:
    """Shows ablations as rows and seeds as columns, on stderr, with the time left.

    What a finished run shows is said by `what`, `glance` and `outcome`.
    """

    what = ""  # the table shows, for its title

    def __init__(self, name: str, stream: TextIO | None = None) -> None:
        """Show runs under the title `name`."""
        from rich.console import Console

        self._name = name
        self._console = Console(file=stream or sys.stderr, highlight=False)
        self._began = time.monotonic()
        self._known: dict[int, float] = {}  # what a job had done when it was first seen
        self._elsewhere: set[int] = set()
        self._live: Live | None = None

    def __enter__(self) -> Self:
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

    def glance(self, job: Job) -> str:
        """A finished run in seven columns."""
        return job.status

    def outcome(self, job: Job) -> str:
        """A complete run in a few words."""
        return job.status

    def update(self, jobs: Sequence[Job]) -> None:
        """Draw the table anew."""
        left = self.left(jobs)
        if self._live is not None:
            self._live.update(self._table(jobs, left), refresh=True)
            return
        for job in jobs:
            if job.elsewhere and id(job) not in self._elsewhere:
                self._elsewhere.add(id(job))
                self._console.print(f"{job.cell.name}: another command is training it", markup=False)

    def ended(self, job: Job, jobs: Sequence[Job]) -> None:
        """Print a line, which on a terminal is left to failures: the table shows the rest."""
        if self._live is not None and job.status != "failed":
            return
        over = _over(jobs)
        left = self.left(jobs)
        line = f"[{over}/{len(jobs)}] {job.cell.name}: {job.status}"
        if job.status in COMPLETE:
            line += f" in {clock(job.seconds)}; {self.outcome(job)}"
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

        over = _over(jobs)
        caption = f"{over} of {len(jobs)} runs, {clock(time.monotonic() - self._began)}"
        if left is not None:
            caption += f", {clock(left)} left"
        table = Table(
            title=Text(f"{self._name}: {self.what}", style="bold"),
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
            table.add_row(
                name, *(Text(self._state(row[s]), style=_STYLE.get(row[s].status, "")) for s in seeds)
            )
        return table

    def _state(self, job: Job) -> str:
        if job.status == "finished":
            return self.glance(job)
        if job.status == "running":
            return f"{100 * job.progress:.0f} %"
        if job.status == "waiting":
            return f"({100 * job.progress:.0f} %)" if job.elsewhere else "·"
        return job.status


def _over(jobs: Sequence[Job]) -> int:
    return sum(job.status not in ("waiting", "running") for job in jobs)
