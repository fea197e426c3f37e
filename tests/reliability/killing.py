"""Real runs of train.py that are killed and go on, and what must be the same afterwards."""

from __future__ import annotations

import json
import math
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import torch

from detector.rows import Key
from detector.training.provenance import provenance
from tests.reliability.paused import PLACES
from tests.starter import Started, Starter
from tests.support import Run

STEPS, EVERY = 24, 5  # evaluated, and so saved, after 5, 10, 15, 20 and 24 steps
TINY = ("model.depths=[1,1,1,1]", "model.widths=[8,8,8,8,8]", "model.neck_width=8")
COMMON = (
    "data.image_size=64", "data.fliplr=0.5", "data.scale=0.4", f"train.steps={STEPS}",
    f"train.eval_every={EVERY}", "gradients.every=1", "tracking.plots=false", "train.threads=1",
)  # fmt: skip
VARIANTS = {
    "together": (*TINY, "data.workers=2", "data.cache=false", "train.batch=3", "train.accumulate=2",
                 "train.ema=0.9", "train.precision=bf16", "train.optimizer=adamw", "train.lr=0.001",
                 "data.mosaic=1.0", "data.mixup=0.5", "data.hsv_s=0.7", "data.close_mosaic=6"),
    "plain": TINY,
    "workers": (*TINY, "data.workers=2", "train.batch=2"),
    "accumulation": (*TINY, "train.batch=3", "train.accumulate=3"),
    "ema": (*TINY, "train.ema=0.9"),
    "bf16": (*TINY, "train.precision=bf16"),
    "mosaic": (*TINY, "data.mosaic=1.0", "data.mixup=0.5", "data.hsv_s=0.7", "data.close_mosaic=6",
               "data.workers=1"),
    "ultralytics": ("model.pretrained=yolov8n.yaml", "train.ema=0.9"),
}  # fmt: skip
WAIT = 240.0  # seconds until a run that does not get on is given up, whatever else the machine does


@dataclass(frozen=True)
class Moment:
    """When a run is killed: at a place in the code, or anywhere in time."""

    variant: str
    place: str
    seed: int

    def __str__(self) -> str:
        return f"{self.seed:02d}-{self.variant}-{self.place}"


def moments(count: int) -> list[Moment]:
    """The first so many moments: each variant is killed at a place and at a random time."""
    variants, places, found = list(VARIANTS), list(PLACES), []
    for number in range(count):
        pair = number // 2
        place = places[(pair + pair // len(variants)) % len(places)]  # other pairs in the second round
        found.append(Moment(variants[pair % len(variants)], "anywhere" if number % 2 else place, number))
    return found


def start(
    starter: Starter, arguments: tuple[str, ...], place: tuple[str, int, Path] | None = None, **env: str
) -> Started:
    """Begin a run in a process group of its own; with `place`, one that waits there."""
    faults = [("pause_at", *map(str, place))] if place is not None else []
    return starter.start(arguments, faults, "tests.reliability.paused", **env)


def finish(process: Started, directory: Path) -> Run:
    """Wait for the end of a run."""
    out, err = process.communicate(WAIT)
    assert process.returncode is not None
    return Run(directory, process.returncode, out + err, out + err)


def kill(process: Started) -> list[psutil.Process]:
    """Kill a run's whole process group; what is not in it, and must end by itself."""
    family = psutil.Process(process.pid).children(recursive=True)
    os.killpg(process.pid, signal.SIGKILL)
    process.communicate(timeout=WAIT)
    assert process.returncode == -signal.SIGKILL
    return family


def until(condition: Callable[[], bool], process: Started) -> bool:
    """Wait for a condition; False if the run ended before."""
    deadline = time.monotonic() + WAIT
    while not condition():
        if process.poll() is not None:
            return False
        assert time.monotonic() < deadline, "the run never got that far"
        time.sleep(0.002)
    return True


def gone(processes: list[psutil.Process]) -> bool:
    """Whether all of these have ended, once they had the time to notice that they are alone."""
    _, alive = psutil.wait_procs(processes, timeout=60)
    return all(process.status() == psutil.STATUS_ZOMBIE for process in alive)


class Killer:
    """Kills one run, perhaps several times, until nothing is left but to let it finish."""

    def __init__(self, moment: Moment, directory: Path, starter: Starter, seconds: float) -> None:
        """`seconds` is about how long the run trains."""
        self.rng = random.Random(moment.seed)
        self.moment, self.directory, self.starter, self.seconds = moment, directory, starter, seconds
        self.history = directory / "history.jsonl"
        self.orphans: list[psutil.Process] = []
        self.kills: list[str] = []

    def run(self) -> Run:
        """Begin, kill, go on, until the end."""
        begin = (*COMMON, *VARIANTS[self.moment.variant], "tracking.wandb=disabled")
        arguments, resume = (*begin, f"run.dir={self.directory}"), ("--resume", str(self.directory))
        if self.moment.place == "anywhere":
            self.first(arguments)
            for _ in range(self.rng.randint(0, 2)):
                if not self.anywhere(resume):
                    break
        else:
            if self.moment.place == "history-being-cut":
                self.first(arguments)
                arguments = resume
            self.at_place(arguments)
        return finish(start(self.starter, resume), self.directory)

    def at_place(self, arguments: tuple[str, ...]) -> None:
        place, flag = self.moment.place, self.directory.with_name("flag")
        # The first checkpoint holds the run's beginning; of the ten later writes (best.pt and last.pt, at
        # most) and the five evaluations of two splits, some of the first ones. A result is written once.
        once = place in ("history-being-cut", "result-without-name")
        count = 0 if once else self.rng.randrange(1, 5)
        process = start(self.starter, arguments, (place, count, flag))
        if not until(flag.exists, process):
            raise AssertionError(finish(process, self.directory).out)
        self.orphans += kill(process)
        self.kills.append(f"{place} {count}")

    def first(self, arguments: tuple[str, ...]) -> None:
        """Kill a run that begins: try again where the machine was quicker than the clock thought."""
        for _ in range(5):
            if self.anywhere(arguments):
                return
            shutil.rmtree(self.directory)
            self.seconds /= 2
        raise AssertionError("the run was always over before it could be killed")

    def anywhere(self, arguments: tuple[str, ...]) -> bool:
        """Kill at a time drawn evenly from the training and a little after; False: it was over before."""
        before = self.inode()
        delay = self.rng.uniform(0, self.seconds)
        process = start(self.starter, arguments)
        # Going on replaces the history. One that begins counts from its first checkpoint: see
        # `test_before_the_first_checkpoint_there_is_nothing_to_go_on_from`.
        first = self.directory / "checkpoints/last.pt"
        if not until(lambda: self.inode() not in (None, before) and first.exists(), process):
            raise AssertionError(finish(process, self.directory).out)
        try:
            process.wait(delay)
        except subprocess.TimeoutExpired:
            self.orphans += kill(process)
            self.kills.append(f"after {delay:.2f} s")
            return True
        assert process.returncode == 0, finish(process, self.directory).out
        return False

    def inode(self) -> int | None:
        return self.history.stat().st_ino if self.history.exists() else None


def timeless(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Rows of a history without the times that steps took."""
    return [{key: value for key, value in row.items() if not key.startswith("time/")} for row in rows]


def same(one: Any, other: Any) -> bool:
    """Whether two nested values are equal to the bit; NaN is equal to itself."""
    if isinstance(one, torch.Tensor):
        alike = one.dtype == other.dtype and one.shape == other.shape
        return alike and bool((bits(one) == bits(other)).all())
    if isinstance(one, dict):
        return list(one) == list(other) and all(same(one[key], other[key]) for key in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    if isinstance(one, float) and math.isnan(one):
        return isinstance(other, float) and math.isnan(other)
    return type(one) is type(other) and bool(one == other)


def bits(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.detach().contiguous().reshape(-1).view(torch.uint8) if tensor.numel() else torch.empty(0)


def checkpoint(run: Run, name: str) -> dict[str, Any]:
    """A checkpoint, less what differs between any two runs: how long it took, and what it is called."""
    state = dict(torch.load(run.directory / "checkpoints" / name, weights_only=True))
    facts = state["extra"]
    assert state.pop("seconds") > 0
    assert facts.pop("wandb_id")
    assert facts["config"]["run"].pop("dir") == str(run.directory)
    return state


def differences(one: Run, other: Run) -> list[str]:
    """What two finished runs differ in, to the bit; times left out."""
    found = [] if same(timeless(one.history), timeless(other.history)) else ["history.jsonl"]
    for name in ("last.pt", "best.pt"):
        states = checkpoint(one, name), checkpoint(other, name)
        assert states[0].keys() == states[1].keys() >= {"model", "ema", "optimizer", "rng", "step", "best"}
        found += [f"{name}: {key}" for key in states[0] if not same(states[0][key], states[1][key])]
    ledgers = [json.loads((run.directory / "ledger.json").read_text()) for run in (one, other)]
    if not same(*ledgers):
        found.append("ledger.json")
    meant = {"seconds", Key.IMAGE_MS, *provenance()}  # the last: how a run was started
    summaries = [{k: v for k, v in run.summary.items() if k not in meant} for run in (one, other)]
    found += [f"summary.json: {key}" for key in summaries[0] if summaries[0][key] != summaries[1].get(key)]
    return found
