"""The seeds of a cell in one process, where they train together: see `detector.training.stack`."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable
from typing import BinaryIO

from detector.config.schema import Config
from detector.errors import UserError
from detector.jobs.cell import Cell
from detector.jobs.local import LocalProcesses
from detector.jobs.runner import COMPLETE, End, Job, claim
from detector.registry import plugins
from detector.rundir import RunDir

PROGRAM = sys.executable, "-m", "detector.jobs.stack_process"


def check_stackable(cells: Iterable[Cell]) -> None:
    """Raise UserError for the first cell that a stack would not train as it trains alone."""
    if sys.platform == "win32":
        raise UserError("--stack: works on Linux and macOS alone")
    for cell in cells:
        if unfit := why_not(cell.config):
            raise UserError(f"{cell.ablation}: {unfit[0]}: add {unfit[1]}")


def why_not(config: Config) -> tuple[str, str] | None:
    """Why a stack would not train a run as it trains alone, and the setting with which it would."""
    train, data = config.train, config.data
    if train.precision != "fp32":
        return f"train.precision={train.precision}: a stack computes in fp32 alone", "train.precision=fp32"
    if data.workers:
        return f"data.workers={data.workers}: the runs of a stack load in their own process", "data.workers=0"
    return None


class StackedProcesses(LocalProcesses):
    """Runs up to `limit` processes, each for those runs of a cell that are not complete.

    The runs of a cell are to follow each other. They are gathered until the last of them has been claimed;
    one that another command is training now comes later, by itself.
    """

    def __init__(self, limit: int, jobs: Iterable[Job], cores: int | None = None) -> None:
        super().__init__(limit, cores, PROGRAM)
        self._awaited: dict[str, set[Job]] = {}
        for job in jobs:
            self._awaited.setdefault(job.cell.ablation, set()).add(job)
        self._gathered: list[tuple[Job, BinaryIO]] = []
        self._failed: list[End] = []

    @property
    def slots(self) -> int:
        """No limit to the runs of a cell that is being gathered."""
        return sys.maxsize if self._gathered or len(self._running) < self.limit else 0

    def start(self, job: Job) -> None:
        """Claim a run, and begin its cell's process if it was the last."""
        awaited = self._awaited[job.cell.ablation]
        awaited.discard(job)
        try:
            log = claim(job)
            if job.status == "waiting":
                self._gathered.append((job, log))
            else:
                log.close()
        finally:
            if not awaited:
                self._begin()

    def poll(self) -> list[End]:
        """The runs that ended; each is judged by what it left, not by how the others fared."""
        self._begin()  # what is still awaited is another command's
        failed, self._failed = self._failed, []
        return failed + [
            End(end.job, 0 if _is_complete(end.job) else end.code or 1, end.said) for end in super().poll()
        ]

    def close(self) -> None:
        """Leave no process behind."""
        for _, log in self._gathered:
            log.close()
        super().close()

    def _begin(self) -> None:
        gathered, self._gathered = self._gathered, []
        if not gathered:
            return
        jobs, logs = [job for job, _ in gathered], [log for _, log in gathered]
        orders = [json.dumps([str(job.directory), *self._arguments(job)]) for job in jobs]
        try:
            self._spawn(jobs, logs, [json.dumps([str(plugin.path) for plugin in plugins.values()]), *orders])
        except OSError as error:
            self._failed += [End(job, 1, f"could not be started: {error}") for job in jobs]
        finally:
            for log in logs:
                log.close()


def _is_complete(job: Job) -> bool:
    return RunDir(job.directory).scan_summary()[0].get("status") in COMPLETE
