"""Starts the project's programs in processes forked from one that has PyTorch: a second a run, not five."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, BinaryIO

import pytest

from tests.support import ROOT, Run, environment

LIMIT = 120.0  # seconds a run may take: ten of them is what it takes on an idle core
Fault = Sequence[Any]  # the name of a function and its arguments


@dataclass
class Started:
    """A process that a `Starter` has forked, as `subprocess.Popen` would show it."""

    starter: Starter
    pid: int
    out: Path
    err: Path
    returncode: int | None = None

    def poll(self) -> int | None:
        """Its exit code, or None while it runs."""
        if self.returncode is None:
            self.returncode = self.starter.code_of(self.pid, 0.0)
        return self.returncode

    def wait(self, timeout: float = LIMIT) -> int:
        """Its exit code, within so many seconds."""
        if self.returncode is None:
            self.returncode = self.starter.code_of(self.pid, timeout)
            if self.returncode is None:
                raise subprocess.TimeoutExpired("a forked program", timeout)
        return self.returncode

    def communicate(self, timeout: float) -> tuple[str, str]:
        """What it wrote, once it has ended."""
        self.wait(timeout)
        return self.out.read_text(), self.err.read_text()

    def send_signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill_group(self) -> None:
        """The process and what it has started, unless it has ended."""
        if self.poll() is None:
            os.killpg(self.pid, signal.SIGKILL)


@dataclass
class Starter:
    """The process that all others are forked from."""

    folder: Path
    datasets: Path | None
    modules: Sequence[str] = ()  # what it imports; by default, everything that the project's programs do
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _answers: bytes = b""
    _pids: list[int] = field(default_factory=list)  # of those just begun
    _codes: dict[int, int] = field(default_factory=dict)  # of those that have ended, by pid
    _count: int = 0

    def close(self) -> None:
        """Let it end."""
        if self._process is not None:
            self._process.kill()
            self._process.communicate()
            self._process = None

    def start(
        self,
        arguments: Sequence[str],
        faults: Sequence[Fault] = (),
        module: str = "",
        cwd: Path | None = None,
        program: str = "train.py",
        **variables: str,
    ) -> Started:
        """Begin `train.py`, or a module such as `detector`.

        Args:
            arguments: of its command line.
            faults: functions of `module` that are called first.
            module: where they are.
            cwd: where it runs; by default, in this starter's folder.
            program: what it runs.
            variables: of its environment, beside the usual ones.
        """
        self._count += 1
        streams = self.folder / str(self._count)  # not beside the run's directory, which may have a full disk
        out, err = Path(f"{streams}.out"), Path(f"{streams}.err")
        return self.fork({
            "program": program,
            "arguments": list(arguments),
            "cwd": str(cwd or self.folder),
            "environment": environment(self.datasets) | variables,
            "stdout": str(out),
            "stderr": str(err),
            "module": module,
            "faults": [[name, list(rest)] for name, *rest in faults],
        })  # fmt: skip

    def fork(self, request: dict[str, Any]) -> Started:
        """Begin what `warm_start` is asked for."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("warm_start.py")), *self.modules],
                cwd=ROOT, env=environment(self.datasets), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        self._listen(lambda: bool(self._pids), 300)  # it may have to import PyTorch first, on a busy machine
        return Started(self, self._pids.pop(), Path(request["stdout"]), Path(request["stderr"]))

    def end(self, started: Started, directory: Path, limit: float = LIMIT) -> Run:
        """Wait for the run within the limit: a hang is a failure."""
        try:
            out, err = started.communicate(limit)
        except subprocess.TimeoutExpired:
            started.kill_group()
            raise AssertionError(f"the run hangs: it did not end within {limit:.0f} s") from None
        assert started.returncode is not None
        return Run(directory, started.returncode, out, err)

    def code_of(self, pid: int, seconds: float) -> int | None:
        """The exit code of a process, or None if it does not end within so many seconds."""
        self._listen(lambda: pid in self._codes, seconds)
        return self._codes.pop(pid, None)

    def _listen(self, until: Callable[[], bool], seconds: float) -> None:
        """Read what is said until this holds, or so many seconds have passed."""
        assert self._process is not None and self._process.stdout is not None
        deadline = time.monotonic() + seconds
        while not until():
            left = max(0.0, deadline - time.monotonic())
            if not select.select([self._process.stdout], [], [], left)[0]:
                return
            more = os.read(self._process.stdout.fileno(), 65536)
            assert more, "the process that runs are forked from ended"
            *lines, self._answers = (self._answers + more).split(b"\n")
            for said in map(json.loads, lines):
                if "code" in said:
                    self._codes[said["pid"]] = said["code"]
                else:
                    self._pids.append(said["pid"])


class Forked:
    """In place of `subprocess.Popen` in `detector.jobs.local`: cells are forked, not started anew."""

    def __init__(self, starter: Starter) -> None:
        self.starter = starter

    def __call__(
        self, command: Sequence[str], *, stdout: BinaryIO, env: dict[str, str], **_: object
    ) -> Started:
        python, *program = command
        assert python == sys.executable
        if program[0] == "-m":
            del program[0]
        log = os.path.abspath(stdout.name)
        return self.starter.fork({
            "program": program[0], "arguments": program[1:], "module": "", "faults": [],
            "cwd": os.getcwd(), "environment": dict(env), "stdout": log, "stderr": log,
        })  # fmt: skip


def fork_cells(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """From here on suites' processes are forked. A forked one does not inherit the claim to its cell."""
    subprocess = SimpleNamespace(Popen=Forked(starter), DEVNULL=None)
    monkeypatch.setattr("detector.jobs.local.subprocess", subprocess)
