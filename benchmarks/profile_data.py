"""Where the time of a training image goes before it reaches the network, here and in ultralytics' pipeline.

    DETECTOR_DATASETS=… python benchmarks/profile_data.py    # a minute; writes the table in README.md

BCCD, 320 px, mosaic, batches of 16, no loader processes, one core. Both sides take turns, and what is counted
is the process's own CPU time, so that others on the machine matter less. Each of the functions below is timed
without the time in others of them.
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from functools import wraps
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.data_pipeline import KEPT, contenders  # noqa: E402
from detector.data import augment_ultralytics, image_cache, loader, samples  # noqa: E402
from detector.data.sources import datasets_dir  # noqa: E402
from detector.runtime.ultralytics_import import import_ultralytics  # noqa: E402
from scripts.pages import write_between  # noqa: E402

PAGE = ROOT / "benchmarks" / "README.md"
SIZE, BATCH, BATCHES, ROUNDS = 320, 16, 8, 9
REST = "random numbers, boxes, the rest"


def parts() -> dict[str, list[tuple[Any, str]]]:
    """What a reader calls a part -> the functions that do it, of both sides."""
    theirs, base = import_ultralytics("data.augment"), import_ultralytics("data.base").BaseDataset
    ours = augment_ultralytics.YoloAugmentation
    collated = import_ultralytics("data.dataset").YOLODataset
    return {
        "image and labels": [
            (samples.LetterboxedImages, "__getitem__"),
            (samples.LetterboxedImages, "read_unpadded"),
            (base, "get_image_and_label"),
        ],
        "mosaic": [(ours, "_mosaic"), (theirs.Mosaic, "apply_image"), (theirs.Mosaic, "apply_instances")],
        "random perspective: pixels": [
            (augment_ultralytics, "resample"),
            (theirs.RandomPerspective, "apply_image"),
        ],
        "colours": [(ours, "_recoloured"), (theirs.RandomHSV, "apply_image")],
        "flip, layout, batch": [
            (cv2, "flip"),
            (loader, "collate"),
            (theirs.RandomFlip, "apply_image"),
            (theirs.Format, "apply_image"),
            (collated, "collate_fn"),
        ],
    }


class Clock:
    """CPU seconds by part; those of a function inside another one count for the inner one alone."""

    def __init__(self) -> None:
        self.seconds: Counter[str] = Counter()
        self._part, self._since = REST, time.process_time()

    def enter(self, part: str) -> str:
        """Time from now on counts for this part; which one it counted for."""
        now, before = time.process_time(), self._part
        self.seconds[before] += now - self._since
        self._part, self._since = part, now
        return before

    def wrap(self, place: Any, name: str, part: str) -> None:
        """Count a function's time for a part."""
        function: Callable[..., Any] = getattr(place, name)

        @wraps(function)
        def timed(*args: Any, **kwargs: Any) -> Any:
            before = self.enter(part)
            try:
                return function(*args, **kwargs)
            finally:
                self.enter(before)

        static = isinstance(place, type) and isinstance(vars(place).get(name), staticmethod)
        setattr(place, name, staticmethod(timed) if static else timed)


def main() -> None:
    """Measure, and write the table."""
    argparse.ArgumentParser(description=main.__doc__).parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as temporary:
        data = Path(temporary) / "data"
        shutil.copytree(datasets_dir() / "bccd", data)
        image_cache.FOLDER = Path(temporary) / "cache"
        clock, found = Clock(), parts()
        for part, places in found.items():
            for place, name in places:
                clock.wrap(place, name, part)
        sides = {key: start(0) for key, start in contenders(data / "data.yaml", SIZE, BATCH).items()}
        rounds: dict[tuple[str, str], list[Counter[str]]] = {key: [] for key in sides}
        for number in range(ROUNDS + 1):
            for key, side in sides.items():
                clock.enter(REST)
                clock.seconds.clear()
                images = sum(islice(side, BATCHES if number else 2 * BATCHES))
                clock.enter(REST)
                if number:  # the first one warms up
                    rounds[key].append(Counter({k: s / images * 1e6 for k, s in clock.seconds.items()}))
    text = table([*found, REST], rounds)
    write_between(PAGE, "table: data profile", text)
    print(text)


def table(names: list[str], rounds: dict[tuple[str, str], list[Counter[str]]]) -> str:
    """Markdown: microseconds an image, a line a part."""
    columns = [(whose, kept) for kept in KEPT for whose in ("ours", "theirs")]
    lines = ["| µs an image | " + " | ".join(f"{kept}: {whose}" for whose, kept in columns) + " |"]
    lines.append("|---|" + "--:|" * len(columns))
    for name in names:
        times = (median(one[name] for one in rounds[key]) for key in columns)
        lines.append(f"| {name} | " + " | ".join(f"{value:.0f}" for value in times) + " |")
    totals = {key: [sum(one.values()) for one in rounds[key]] for key in columns}
    shown = (f"{median(t):.0f} ({min(t):.0f} – {max(t):.0f})" for t in totals.values())
    lines.append("| together | " + " | ".join(shown) + " |")
    ratios = (
        median(b / a for a, b in zip(totals["ours", kept], totals["theirs", kept], strict=True))
        for kept in KEPT
    )
    lines.append("| theirs / ours | " + " | | ".join(f"{ratio:.2f}" for ratio in ratios) + " | |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
