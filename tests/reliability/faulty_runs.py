"""Starts runs to which something happens, and compares what is left with a run to which nothing did."""

from __future__ import annotations

import json
import os
import select
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from tests.support import ROOT, Run, environment

LIMIT = 120.0  # seconds a run may take: ten of them is what it takes on an idle core
Fault = Sequence[Any]  # a function of tests/reliability/faults.py and its arguments

# Half a second of training: a network of a few thousand weights, six steps, an evaluation every second one.
TINY = (
    "data.image_size=64", "model.depths=[1,1,1,1]", "model.widths=[8,8,16,16,16]", "model.neck_width=16",
    "train.batch=2", "train.steps=6", "train.eval_every=2", "train.threads=1", "gradients.every=1",
    "gradients.ledger=false", "tracking.plots=false", "tracking.images=0",
)  # fmt: skip


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

    def start(self, arguments: Sequence[str], faults: Sequence[Fault], **variables: str) -> int:
        """Begin a run; its pid."""
        if self._process is None:
            self._process = subprocess.Popen(
                [sys.executable, str(Path(__file__).with_name("warm_start.py"))],
                cwd=ROOT, env=environment(self.datasets), stdin=subprocess.PIPE, stdout=subprocess.PIPE,
            )  # fmt: skip
        self._streams = self.folder / f"{sum(1 for _ in self.folder.glob('*.err'))}"
        request = {
            "arguments": list(arguments),
            "cwd": str(self.folder),
            "environment": environment(self.datasets) | {"HOME": str(self.folder)} | variables,
            "stdout": f"{self._streams}.out",
            "stderr": f"{self._streams}.err",
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


@dataclass
class Runs:
    """Runs on COCO8 in a folder of their own."""

    starter: Starter
    folder: Path
    wholes: dict[tuple[str, ...], Run]  # those that nothing happened to, by their settings

    def begin(
        self,
        *settings: str,
        faults: Sequence[Fault] = (),
        name: str = "run",
        wandb: str = "disabled",
        **variables: str,
    ) -> tuple[int, Path]:
        """Begin a run of six steps."""
        directory = self.folder / name  # or another place, where the name is a whole path
        arguments = (*TINY, f"tracking.wandb={wandb}", *settings, f"run.dir={directory}")
        return self.starter.start(arguments, faults, **variables), directory

    def __call__(self, *settings: str, faults: Sequence[Fault] = (), **others: str) -> Run:
        """The same, to its end."""
        pid, directory = self.begin(*settings, faults=faults, **others)
        return self.starter.end(pid, directory)

    def resume(self, run: Run, faults: Sequence[Fault] = ()) -> Run:
        """Go on with a run."""
        pid = self.starter.start(("--resume", str(run.directory)), faults)
        return self.starter.end(pid, run.directory)

    def whole(self, *settings: str) -> Run:
        """The run with these settings to which nothing happens; made once."""
        if settings not in self.wholes:
            name = str(self.starter.folder / f"whole{len(self.wholes)}")
            run = self(*settings, name=name)
            assert run.code == 0, run.err
            self.wholes[settings] = run
        return self.wholes[settings]


def numbers(run: Run) -> list[dict[str, Any]]:
    """The history without times."""
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in run.history]


def state(run: Run) -> dict[str, Any]:
    """What the last checkpoint holds."""
    return dict(torch.load(run.directory / "checkpoints/last.pt", weights_only=True))


RESULTS = (
    "status",
    "steps",
    "train/mAP50-95",
    "val/mAP50-95",
    "train/loss",
    "gradient/vanishing_index",
    "gradient/verdict",
)


def assert_same(run: Run, whole: Run) -> None:
    """Bit for bit: history, weights, optimiser, random generators, and the summary's results."""
    assert run.code == whole.code, run.err
    assert numbers(run) == numbers(whole)
    ours, theirs = state(run), state(whole)
    for part in ("model", "optimizer", "rng", "step", "best"):
        assert_equal(ours[part], theirs[part], part)
    assert {key: run.summary[key] for key in RESULTS} == {key: whole.summary[key] for key in RESULTS}
    best = [torch.load(r.directory / "checkpoints/best.pt", weights_only=True) for r in (run, whole)]
    assert_equal(best[0]["model"], best[1]["model"], "best.pt")


def assert_equal(one: Any, other: Any, where: str) -> None:
    if isinstance(one, torch.Tensor):
        assert torch.equal(one, other), where
    elif isinstance(one, dict):
        assert one.keys() == other.keys(), where
        for key in one:
            assert_equal(one[key], other[key], f"{where}.{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(other), where
        for index, (a, b) in enumerate(zip(one, other, strict=True)):
            assert_equal(a, b, f"{where}[{index}]")
    else:
        assert one == other, where


def assert_clear(run: Run, code: int, *words: str, resumable: bool = True) -> None:
    """It ended with this exit code and one message that names these things; no traceback."""
    assert run.code == code, (run.code, run.err)
    assert "Traceback" not in run.err, run.err
    assert "Exception ignored" not in run.err, run.err
    lines = run.err.replace(
        "\0", ""
    ).splitlines()  # PyTorch's handler of a bus error writes its string's end, too
    (first,) = [number for number, line in enumerate(lines) if line.startswith("error: ")]
    message = lines[first:]
    assert len(message) <= 2, run.err
    for word in words:
        assert word in message[0], (word, message)
    assert (f"train.py --resume {run.directory}" in message[-1]) == resumable, message
    assert resumable == (run.directory / "checkpoints/last.pt").exists()


def mounted(folder: Path, size: str) -> bool:
    """Mount a small file system, if that is possible."""
    folder.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], capture_output=True
    )
    return done.returncode == 0


def unmount_below(folder: Path) -> None:
    """Take away every file system that is left below a folder."""
    for line in reversed(Path("/proc/mounts").read_text().splitlines()):
        if (point := line.split()[1]).startswith(f"{folder}/"):
            subprocess.run(["umount", "-l", point], check=False)


Train = Callable[..., Run]
