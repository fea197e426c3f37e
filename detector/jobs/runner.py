"""Running cells: what is done already, what is resumed, what failed, and a polite stop.

Where a cell runs is a `Backend`'s business: `detector.jobs.local` has processes of this machine,
`detector.tools.suites.ray_runner` a cluster.
"""

from __future__ import annotations

import shutil
import time
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol

from detector.config.experiment import experiment
from detector.config.schema import Config
from detector.config.section import COMPARED_OTHERWISE, MEASUREMENT
from detector.errors import UserError
from detector.jobs.cell import Cell
from detector.rundir import RunDir

Status = Literal["waiting", "running", "finished", "diverged", "failed", "stopped"]

LOG = "console.log"  # in a run's directory: what train.py printed
COMPLETE = ("finished", "diverged")
_LOOK_EVERY = 0.2  # seconds


@dataclass(eq=False)
class Job:
    """A cell on its way."""

    cell: Cell
    directory: Path
    after: tuple[Job, ...] = ()  # need to have finished first
    start: Literal["new", "resume"] = "new"
    status: Status = "waiting"
    was_there: bool = False  # complete before this command
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
        """Begin a cell. Raises OSError where it cannot be started, which is that cell's failure only."""

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


def plan(cells: Iterable[Cell], out: Path) -> list[Job]:
    """Find out for each cell whether it is complete, can be resumed, or begins.

    Raises:
        UserError: a directory holds something else than this cell, so nothing is started.
    """
    return [_plan_one(cell, out / cell.name) for cell in cells]


def _plan_one(cell: Cell, directory: Path) -> Job:
    job, files = Job(cell, directory), RunDir(directory)
    if not files.history_file.exists():
        # It never took a step. Whatever else lies there must be our own, or it is not ours to write to.
        own = {files.config_file, files.checkpoints, files.plots, files.wandb, directory / LOG}
        strange = sorted(p.name for p in directory.iterdir() if p not in own) if directory.exists() else []
        if strange:
            raise UserError(f"{directory}: is not a run ({strange[0]} lies in it); choose another --out")
        return job
    try:
        found = files.read_config().config
    except UserError as error:
        raise UserError(
            f"{error}\n{directory}: not a run that can be resumed; remove it, or choose another --out"
        ) from None
    changed = differences(found, cell.config)
    if changed:
        more = f" and {len(changed) - 1} more" if len(changed) > 1 else ""
        raise UserError(
            f"{directory}: holds a run with another configuration: {changed[0]}{more};\n"
            "choose another --out, or remove it"
        )
    summary, _ = files.scan_summary()
    if summary.get("status") in COMPLETE:
        job.status, job.summary, job.was_there = summary["status"], summary, True
    elif files.last.exists():
        job.start = "resume"
    return job


def differences(found: Config, wanted: Config) -> list[str]:
    """What distinguishes two runs, one line such as `train.steps is 60, not 100` a key.

    Where and how a run is computed and watched does not. How often it is measured does: a run that goes on
    would have a history of two rhythms.
    """
    there, here = (experiment(config, MEASUREMENT, COMPARED_OTHERWISE) for config in (found, wanted))
    return [f"{key} is {there[key]}, not {value}" for key, value in here.items() if there[key] != value]


def prepare(job: Job) -> None:
    """Make a cell's directory ready: empty for one that begins anew, as it is for one that goes on."""
    job.directory.mkdir(parents=True, exist_ok=True)
    if job.start == "new":  # killed before its first checkpoint: nothing in it can be used
        for path in job.directory.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path.name != LOG:
                path.unlink()


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
                job.status = "running"
                began[id(job)] = time.monotonic()
                try:
                    backend.start(job)
                except OSError as error:
                    del began[id(job)]
                    job.status, job.problem = "failed", f"could not be started: {error}"
                    display.ended(job, jobs)
            for end in backend.poll():
                end.job.seconds = time.monotonic() - began.pop(id(end.job))
                _judge(end, stopping)
                display.ended(end.job, jobs)
            for job in jobs:
                if job.status == "running":
                    job.row = RunDir(job.directory).last_row() or job.row
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
        if all(one.status not in ("waiting", "running") for one in job.after):
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
