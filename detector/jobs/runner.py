"""Running cells: what is done already, what is resumed, what failed, and a polite stop.

Where a cell runs is a `Backend`'s business: `detector.jobs.local` has processes of this machine,
`detector.tools.suites.ray_runner` a cluster.
"""

from __future__ import annotations

import itertools
import os
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO, Literal, Protocol

from detector.config.experiment import experiment
from detector.config.schema import Config
from detector.config.section import COMPARED_OTHERWISE, MEASUREMENT
from detector.errors import UserError
from detector.jobs.cell import Cell
from detector.rundir import RunDir
from detector.runtime.lock import lock_file

Status = Literal["waiting", "running", "finished", "diverged", "failed", "stopped"]

LOG = "console.log"  # in a run's directory: what train.py printed
COMPLETE = ("finished", "diverged")
_LOOK_EVERY = 0.2  # seconds
_ASK_AGAIN = 1.0  # whether a cell that another command had is free now


@dataclass(eq=False)
class Job:
    """A cell on its way."""

    cell: Cell
    directory: Path
    after: tuple[Job, ...] = ()  # need to have finished first
    start: Literal["new", "resume"] = "new"
    status: Status = "waiting"
    was_there: bool = False  # completed by another command
    elsewhere: bool = False  # another command is training it
    not_before: float = 0.0  # when to try again to start it, by the monotonic clock
    seconds: float = 0.0  # of this attempt
    problem: str = ""  # why it failed
    row: dict[str, Any] = field(default_factory=dict)  # the newest of its history
    summary: dict[str, Any] = field(default_factory=dict)

    @property
    def progress(self) -> float:
        """How much of it is trained: 0 to 1."""
        if self.status in COMPLETE:
            return 1.0
        train = self.cell.config.train
        if not self.row:
            return 0.0
        done = (
            (self.row["step"] + 1) / train.steps if train.steps else self.row["epoch"] / (train.epochs or 1)
        )
        return float(min(1.0, done))


@dataclass(frozen=True)
class End:
    """A process that ended."""

    job: Job
    code: int
    said: str = ""  # its last words, for a human


class Backend(Protocol):
    """Runs cells somewhere. It ends with `close`, whatever happened."""

    @property
    def slots(self) -> int:
        """How many cells can run at once."""

    def start(self, job: Job) -> None:
        """Claim a cell and begin it, unless it is complete by now, which its status then says.

        Raises:
            CellTakenError: another command is training it.
            OSError, UserError: it cannot be started, which is that cell's failure only.
        """

    def poll(self) -> list[End]:
        """The cells that ended since the last call; their directories are complete."""

    def interrupt(self) -> None:
        """Ask all running cells to finish their step, write a checkpoint and end."""

    def kill(self) -> None:
        """End all running cells at once."""

    def close(self) -> None:
        """Give everything back."""


class Display(Protocol):
    """Shows how far a suite is."""

    def update(self, jobs: Sequence[Job]) -> None:
        """Called several times a second."""

    def ended(self, job: Job, jobs: Sequence[Job]) -> None:
        """A cell ended, well or not."""


class CellTakenError(Exception):
    """Another command is training this cell."""


def plan(cells: Iterable[Cell], out: Path) -> list[Job]:
    """Find out for each cell whether it is complete, can be resumed, or begins.

    Raises:
        UserError: a directory holds something else than this cell, so nothing is started.
    """
    jobs = [Job(cell, out / cell.name) for cell in cells]
    for job in jobs:
        _look(job)
    return jobs


def _look(job: Job) -> None:
    """Find out how far a cell is. Raises UserError if its directory holds something else."""
    directory, files = job.directory, RunDir(job.directory)
    if not os.path.lexists(files.config_file) and not os.path.lexists(files.history_file):
        found = sorted(path.name for path in directory.iterdir()) if directory.exists() else []
        if found and LOG not in found:  # it is nobody's attempt, and so not ours to write to
            raise UserError(f"{directory}: is not a run ({found[0]} lies in it); choose another --out")
        return
    try:
        there = files.read_config().config
    except UserError as error:
        raise UserError(
            f"{error}\n{directory}: not a run that can be resumed; remove it, or choose another --out"
        ) from None
    changed = differences(there, job.cell.config)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{directory}: holds a run with another configuration: {changed[0]}{more};\n"
            "choose another --out, or remove it"
        )
    summary, _ = files.scan_summary()
    if summary.get("status") in COMPLETE:
        job.status, job.summary, job.was_there = summary["status"], summary, True
    else:
        job.start = "resume" if files.last.exists() else "new"


def differences(found: Config, wanted: Config) -> list[str]:
    """What distinguishes two runs, one line such as `train.steps is 60, not 100` a key.

    Where and how a run is computed and watched does not. How often it is measured does: a run that goes on
    would have a history of two rhythms.
    """
    there, here = (experiment(config, MEASUREMENT, COMPARED_OTHERWISE) for config in (found, wanted))
    return [f"{key} is {there[key]}, not {value}" for key, value in here.items() if there[key] != value]


def claim(job: Job) -> BinaryIO:
    """Take a cell for this command, see how far it is by now, and make its directory ready.

    Returns:
        Its log, to be written to. The cell is claimed for as long as a process has this file open: a
        command that was killed leaves its claim to the process that it started.

    Raises:
        CellTakenError: another command has it.
        UserError: its directory holds something that training would destroy.
        OSError: it cannot be made.
    """
    job.directory.mkdir(parents=True, exist_ok=True)
    log = (job.directory / LOG).open("ab")
    try:
        if not lock_file(log):
            raise CellTakenError
        _look(job)
        if job.status == "waiting" and job.start == "new":
            _set_aside(job.directory)
    except BaseException:
        log.close()
        raise
    return log


def _set_aside(directory: Path) -> None:
    """Make room for a cell that begins: what an attempt left that did not come to its first step goes aside.

    Nothing is removed, and what is not the attempt's stays where it is.

    Raises:
        UserError: it did come further, but has no checkpoint to go on from.
    """
    files = RunDir(directory)
    if files.history_file.exists() and files.history_file.stat().st_size:
        raise UserError(
            f"{directory}: has a history but no {files.last.relative_to(directory)} to go on from; "
            "move that directory away to train the cell anew"
        )
    left = [path for path in files.written if os.path.lexists(path)]
    if left:
        number = next(n for n in itertools.count(1) if not (directory / f"attempt-{n}").exists())
        aside = directory / f"attempt-{number}"
        aside.mkdir()
        for path in left:
            path.rename(aside / path.name)


def run(jobs: Sequence[Job], backend: Backend, display: Display, stop: Callable[[], bool]) -> None:
    """Run every job that is not complete, and record in each how it ended.

    A cell that fails keeps no other from running. `stop` is asked all the time: once it says so, nothing
    new is started and the running cells are asked to end; a KeyboardInterrupt from then on kills them.
    """
    waiting = deque(job for job in jobs if job.status == "waiting")
    began: dict[int, float] = {}  # by id: running jobs
    stopping = False
    try:
        while waiting or began:
            if stop() and not stopping:
                stopping = True
                while waiting:
                    waiting.popleft().status = "stopped"
                backend.interrupt()
            while len(began) < backend.slots and (job := _next(waiting)) is not None:
                if unmet := next((one for one in job.after if one.status != "finished"), None):
                    job.status, job.problem = "failed", f"{unmet.cell.name} did not finish: {unmet.status}"
                    display.ended(job, jobs)
                    continue
                try:
                    backend.start(job)
                except CellTakenError:
                    job.elsewhere, job.not_before = True, time.monotonic() + _ASK_AGAIN
                    waiting.append(job)
                    continue
                except (OSError, UserError) as error:
                    job.status, job.problem = "failed", f"could not be started: {error}"
                job.elsewhere = False
                if job.status == "waiting":
                    job.status = "running"
                    began[id(job)] = time.monotonic()
                else:  # it failed, or another command completed it
                    display.ended(job, jobs)
            for end in backend.poll():
                end.job.seconds = time.monotonic() - began.pop(id(end.job))
                _judge(end, stopping)
                display.ended(end.job, jobs)
            for job in jobs:
                if job.status == "running" or job.elsewhere:
                    job.row = RunDir(job.directory).last_row() or job.row
                if job.status == "running":
                    job.seconds = time.monotonic() - began[id(job)]
            display.update(jobs)
            if waiting or began:
                time.sleep(_LOOK_EVERY)
    except KeyboardInterrupt:
        backend.kill()
        for job in jobs:
            if job.status in ("waiting", "running"):
                job.status = "stopped"
        raise
    finally:
        backend.close()


def _next(waiting: deque[Job]) -> Job | None:
    """Take the first job that need not wait for another one to end; None if there is none."""
    for job in waiting:
        ended = all(one.status not in ("waiting", "running") for one in job.after)
        if ended and job.not_before <= time.monotonic():
            waiting.remove(job)
            return job
    return None


def _judge(end: End, stopping: bool) -> None:
    """Say from its exit code and its summary how a cell ended."""
    job = end.job
    job.summary, _ = RunDir(job.directory).scan_summary()
    status = job.summary.get("status")
    if end.code in (0, 3) and status in COMPLETE:
        job.status = "finished" if status == "finished" else "diverged"
    elif stopping:
        job.status = "stopped"
    else:
        job.status = "failed"
        job.problem = end.said or f"exit code {end.code}"
