"""Starts runs to which something happens, and compares what is left with a run to which nothing did."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from tests.starter import Fault, Started, Starter
from tests.support import Run

FAULTS = "tests.reliability.faults"
ALWAYS = ("checkpoint_at_each_evaluation",)

# Half a second of training: a network of a few thousand weights, six steps, an evaluation every second one.
TINY = (
    "data.image_size=64", "model.depths=[1,1,1,1]", "model.widths=[8,8,16,16,16]", "model.neck_width=16",
    "train.batch=2", "train.steps=6", "train.eval_every=2", "train.threads=1", "gradients.every=1",
    "gradients.ledger=false", "gradients.probe=false", "tracking.plots=false", "tracking.images=0",
)  # fmt: skip


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
    ) -> tuple[Started, Path]:
        """Begin a run of six steps."""
        directory = self.folder / name  # or another place, where the name is a whole path
        arguments = (*TINY, f"tracking.wandb={wandb}", *settings, f"run.dir={directory}")
        return self._start(arguments, faults, **variables), directory

    def __call__(self, *settings: str, faults: Sequence[Fault] = (), **others: str) -> Run:
        """The same, to its end."""
        started, directory = self.begin(*settings, faults=faults, **others)
        return self.starter.end(started, directory)

    def resume(self, run: Run, faults: Sequence[Fault] = ()) -> Run:
        """Go on with a run."""
        started = self._start(("--resume", str(run.directory)), faults)
        return self.starter.end(started, run.directory)

    def _start(self, arguments: Sequence[str], faults: Sequence[Fault], **variables: str) -> Started:
        variables = {"HOME": str(self.starter.folder)} | variables
        return self.starter.start(arguments, (ALWAYS, *faults), FAULTS, **variables)

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
