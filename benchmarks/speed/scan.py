"""A large data set: from the start of the process to the end of the first step, and `detector check`.

As many pictures as COCO has, but small ones, so that what is measured is what a set of so many costs beside
decoding its pixels. Cold: nothing is known of the set. Warm: it was read before. Files are in the disk cache
both times. On two cores.

    python benchmarks/speed/scan.py FOLDER IMAGES    # only makes the set, such as to profile with it
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from statistics import median

import cv2
import numpy as np

if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from benchmarks.speed.process import Taken, command, cores, environment, taken
from benchmarks.speed.row import Row

IMAGES, VAL = 118_000, 24  # one of so many is in val
CLASSES = 80
WARM_ROUNDS = 3
CORES = 2
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
    folder = folder.absolute()
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
    with tempfile.TemporaryDirectory() as temporary, cores(CORES) as used:
        folder = Path(temporary)
        data = make(folder / "set", images)
        time.sleep(5)  # what was written this moment may change in the next
        starts = []
        for round_ in range(1 + WARM_ROUNDS):
            out = folder / f"run{round_}"
            step = command("ours", data, out, *SETTINGS)
            starts.append(_run(step, out, STARTED=str(time.monotonic())))
        check = [sys.executable, "-m", "detector", "check", str(data)]
        checked = _run(check, folder / "check", good=(0, 1))
    seconds = {"cold": starts[:1], "warm": starts[1:]}
    what = f"{images:,} small images, {used} cores"
    return [
        *(
            Row(f"from process start to the end of the first step, {what}, {state}", "–", "s",
                [one.seconds for one in seconds[state]], [], target=target, absolute=True,
                note=f"{median(one.cpu for one in seconds[state]):.1f} s of CPU")
            for state, target in STEP_TARGETS.items()
        ),
        Row(f"peak memory of these, {what}", "–", "MB", [max(one.peak_mb for one in starts)], [],
            target=MEMORY_TARGET, absolute=True),
        Row(f"`detector check`, {what}", "–", "s", [checked.seconds], [], target=CHECK_TARGET, absolute=True,
            note=f"{checked.cpu:.1f} s of CPU, {checked.peak_mb:.0f} MB"),
    ]  # fmt: skip


def _run(arguments: list[str], out: Path, good: tuple[int, ...] = (0,), **others: str) -> Taken:
    """Run a command that knows of no data set but those of this folder."""
    around = environment(out.parent, XDG_CACHE_HOME=str(out.parent / "cache"), **others)
    return taken(arguments, Path(f"{out}.log"), good, env=around)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=make.__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, help="a new one")
    parser.add_argument("images", type=int, help="how many")
    print(make(**vars(parser.parse_args())))
