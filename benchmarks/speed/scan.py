"""A large data set: from the start of the process to the end of the first step, and `detector check`.

As many pictures as COCO has, but small ones, so that what is measured is what a set of so many costs beside
decoding its pixels. Cold: nothing is known of the set. Warm: it was read before. Files are in the disk cache
both times. These use all cores.

    python benchmarks/speed/scan.py FOLDER IMAGES    # only makes the set, such as to profile with it
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import cv2
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.process import ROOT, command, environment
from benchmarks.speed.row import Row

IMAGES, VAL = 118_000, 24  # one of so many is in val
CLASSES = 80
WARM_ROUNDS = 3
SETTINGS = "data.image_size=320", "train.batch=4", "tracking.wandb=offline"
STEP_TARGETS = {"cold": 90.0, "warm": 6.0}  # seconds
CHECK_TARGET, MEMORY_TARGET = 600.0, 1500.0  # seconds; MB


def make(folder: Path, images: int) -> Path:
    """Write a data set in the YOLO format; the same one each time.

    Args:
        folder: a new one.
        images: how many, of about 64 x 48 pixels, with 1 to 7 boxes each.

    Returns:
        The data YAML.
    """
    for kind in ("images", "labels"):
        for split in ("train", "val"):
            (folder / kind / split).mkdir(parents=True)
    parts = [range(first, min(first + 1000, images)) for first in range(0, images, 1000)]
    with ProcessPoolExecutor() as pool:
        list(pool.map(_write, [folder] * len(parts), parts))
    data = folder / "data.yaml"
    names = ", ".join(f"class_{number}" for number in range(CLASSES))
    data.write_text(f"path: {folder}\ntrain: images/train\nval: images/val\nnames: [{names}]\n")
    return data


def _write(folder: Path, numbers: range) -> None:
    for number in numbers:
        rng = np.random.default_rng([118, number])
        split, name = "train" if number % VAL else "val", f"{number:012d}"
        width, height = (int(side) for side in rng.integers((56, 40), (73, 57)))
        small = rng.integers(0, 256, (6, 8, 3), dtype=np.uint8)
        picture = cv2.resize(small, (width, height), interpolation=cv2.INTER_CUBIC)
        (folder / f"images/{split}/{name}.jpg").write_bytes(cv2.imencode(".jpg", picture)[1].tobytes())
        sides = rng.uniform(0.1, 0.5, (int(rng.integers(1, 8)), 2))
        centres = rng.uniform(sides / 2, 1 - sides / 2)
        classes = rng.integers(0, CLASSES, len(sides))
        lines = (f"{index} {cx:.6f} {cy:.6f} {w:.6f} {h:.6f}\n"
                 for index, (cx, cy), (w, h) in zip(classes, centres, sides, strict=True))  # fmt: skip
        (folder / f"labels/{split}/{name}.txt").write_text("".join(lines))


def measure(images: int = IMAGES) -> list[Row]:
    """Seconds and megabytes."""
    with tempfile.TemporaryDirectory() as temporary, all_cores():
        folder = Path(temporary)
        data = make(folder / "set", images)
        time.sleep(5)  # what was written this moment may change in the next
        seconds: dict[str, list[float]] = {"cold": [], "warm": []}
        peaks, notes = [0.0], {}
        for round_ in range(1 + WARM_ROUNDS):
            state = "warm" if round_ else "cold"
            taken, peak, cpu = _first_step(data, folder / f"run{round_}")
            seconds[state].append(taken)
            peaks[0] = max(peaks[0], peak)
            notes[state] = f"{cpu:.1f} s of CPU"
        check, check_peak, cpu = _run(
            [sys.executable, "-m", "detector", "check", str(data)], folder / "check", good=(0, 1)
        )
        notes["check"] = f"{cpu:.1f} s of CPU, {check_peak:.0f} MB"
    what = f"{images:,} small images"
    return [
        *(
            Row(f"from process start to the end of the first step, {what}, {state}", "–", "s", seconds[state],
                [], target=target, absolute=True, note=notes[state])
            for state, target in STEP_TARGETS.items()
        ),
        Row(f"peak memory of these, {what}", "–", "MB", peaks, [], target=MEMORY_TARGET, absolute=True),
        Row(f"`detector check`, {what}", "–", "s", [check], [], target=CHECK_TARGET, absolute=True,
            note=notes["check"]),
    ]  # fmt: skip


@contextmanager
def all_cores() -> Iterator[None]:
    """Let this process and those that it starts use them, wherever it was pinned to."""
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    try:
        yield
    finally:
        os.sched_setaffinity(0, pinned)


def _first_step(data: Path, out: Path) -> tuple[float, float, float]:
    return _run(command("ours", data, out, *SETTINGS), out, STARTED=str(time.monotonic()))


def _run(
    arguments: list[str], out: Path, good: tuple[int, ...] = (0,), **others: str
) -> tuple[float, float, float]:
    """Run a command that knows of no data set but those of this folder: seconds, peak MB, seconds of CPU.

    Raises:
        SystemExit: it failed.
    """
    around = environment(out.parent, XDG_CACHE_HOME=str(out.parent / "cache"), **others)
    started = time.perf_counter()
    with open(f"{out}.log", "w+") as log:
        process = subprocess.Popen(arguments, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, env=around)
        _, status, usage = os.wait4(process.pid, 0)
        taken = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        if process.returncode not in good:
            raise SystemExit(f"{' '.join(arguments)} failed:\n{log.read()[-2000:]}")
    return taken, usage.ru_maxrss / 1024, usage.ru_utime + usage.ru_stime


if __name__ == "__main__":
    print(make(Path(sys.argv[1]).absolute(), int(sys.argv[2])))
