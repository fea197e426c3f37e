"""Cells as processes of this machine."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from typing import BinaryIO

from detector.jobs.runner import LOG, End, Job, claim
from detector.registry import plugin_arguments
from detector.runtime.files import PROJECT
from detector.runtime.free_memory import SHARED_BY

_TAIL = 8192  # bytes of a log that are looked at for last words


def available_cores() -> int:
    """The cores this process may use, which in a container are fewer than the machine has."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class LocalProcesses:
    """Runs up to `slots` processes of `train.py`, each with its share of the cores.

    Every process has a session of its own, so that Ctrl-C reaches it only through `interrupt`: a terminal
    would send it to all at once, and a second one means "at once" to a run.
    """

    def __init__(self, slots: int, cores: int | None = None, program: Sequence[str] = ()) -> None:
        """Share `cores` (all there are) among `slots` processes of `program` (train.py)."""
        self.limit = slots
        self.threads = max(1, (cores or available_cores()) // slots)
        self._program = list(program) or [sys.executable, str(PROJECT / "train.py")]
        self._running: list[tuple[list[Job], subprocess.Popen[bytes]]] = []

    @property
    def slots(self) -> int:
        """How many cells can run at once."""
        return self.limit

    def start(self, job: Job) -> None:
        """Begin a cell; what it prints goes to `console.log` in its directory, which is its claim, too."""
        with claim(job) as log:
            if job.status == "waiting":
                self._spawn([job], [log], [*plugin_arguments(), *self._arguments(job)])

    def _arguments(self, job: Job) -> list[str]:
        """What `train.py` is called with."""
        if job.start == "new":
            return job.cell.arguments(job.directory, self.threads)
        return ["--resume", str(job.directory)]

    def _spawn(self, jobs: list[Job], logs: Sequence[BinaryIO], arguments: Sequence[str]) -> None:
        """Begin a process for these cells, which has their claims from then on."""
        threads = str(jobs[0].cell.config.train.threads or self.threads)
        shared = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS"), threads)
        shared[SHARED_BY] = str(self.limit)
        process = subprocess.Popen(
            [*self._program, *arguments],
            stdin=subprocess.DEVNULL,
            stdout=logs[0],
            stderr=logs[0],
            env=os.environ | shared | {"PYTHONUNBUFFERED": "1"},
            start_new_session=True,
            pass_fds=[log.fileno() for log in logs[1:]],
        )
        self._running.append((jobs, process))

    def poll(self) -> list[End]:
        """The cells whose processes ended since the last call."""
        ended = [pair for pair in self._running if pair[1].poll() is not None]
        self._running = [pair for pair in self._running if pair not in ended]
        return [
            End(job, process.returncode, _last_words(job, process.returncode))
            for jobs, process in ended
            for job in jobs
        ]

    def interrupt(self) -> None:
        """Send each process one Ctrl-C."""
        for _, process in self._running:
            process.send_signal(signal.SIGINT)

    def kill(self) -> None:
        """Kill the processes and whatever they started."""
        for _, process in self._running:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
        self._running = []

    def close(self) -> None:
        """Leave no process behind."""
        if self._running:
            self.interrupt()
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline and any(p.poll() is None for _, p in self._running):
                time.sleep(0.05)
            self.kill()


def _last_words(job: Job, code: int) -> str:
    """Why a process ended, as far as it said so."""
    if code < 0:
        names = {number.value: number.name for number in signal.Signals}
        hint = " (out of memory?)" if -code == 9 else ""
        return f"killed by {names.get(-code, f'signal {-code}')}{hint}"
    with (job.directory / LOG).open("rb") as log:
        log.seek(0, 2)
        log.seek(max(0, log.tell() - _TAIL))
        lines = [line.strip() for line in log.read().decode("utf-8", "replace").splitlines() if line.strip()]
    errors = [line for line in lines if re.match(r"error: |\w*(Error|Exception)\b", line)]
    words = (errors or lines or [f"exit code {code}"])[-1]
    return words if words.isprintable() else ascii(words)
