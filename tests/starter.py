"""Starts `train.py` in processes forked from one that has PyTorch: a second a run instead of five."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.support import ROOT, Run, environment

LIMIT = 120.0  # seconds a run may take: ten of them is what it takes on an idle core
Fault = Sequence[Any]  # the name of a function and its arguments


@dataclass
class Starter:
    """The process that all runs are forked from."""

    folder: Path
    datasets: Path
    limit: float = LIMIT
    _process: subprocess.Popen[bytes] | None = field(default=None, repr=False)
    _answers: bytes = b""
    _streams: Path = Path()  # of the run in progress; not beside its directory, which may have a full disk

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
        **variables: str,
    ) -> int:
        """Begin a run, in which these faults, functions of `module`, are called first; its pid."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("warm_start.py"))],
                cwd=ROOT, env=environment(self.datasets), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        self._streams = self.folder / f"{sum(1 for _ in self.folder.glob('*.err'))}"
        request = {
            "arguments": list(arguments),
            "cwd": str(cwd or self.folder),
            "environment": environment(self.datasets) | variables,
            "stdout": f"{self._streams}.out",
            "stderr": f"{self._streams}.err",
            "module": module,
            "faults": [[name, list(rest)] for name, *rest in faults],
        }
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request).encode() + b"\n")
        self._process.stdin.flush()
        return int(self._answer(None)["pid"])

    def end(self, pid: int, directory: Path) -> Run:
        """Wait for the run within the limit: a hang is a failure."""
        code = int(self._answer(pid)["code"])
        texts = [Path(f"{self._streams}.{stream}").read_text() for stream in ("out", "err")]
        return Run(directory, code, *texts)

    def _answer(self, pid: int | None) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        while b"\n" not in self._answers:
            if not select.select([self._process.stdout], [], [], self.limit)[0]:
                if pid is not None:
                    os.killpg(pid, signal.SIGKILL)
                self.close()
                raise AssertionError(f"the run hangs: it did not end within {self.limit:.0f} s")
            more = os.read(self._process.stdout.fileno(), 65536)
            assert more, "the process that runs are forked from ended"
            self._answers += more
        line, _, self._answers = self._answers.partition(b"\n")
        return dict(json.loads(line))
