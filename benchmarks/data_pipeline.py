"""Images per second of the training data pipeline, side by side with ultralytics'.

    DETECTOR_DATASETS=… python benchmarks/data_pipeline.py           # BCCD at 320 px, mosaic 1.0
    python benchmarks/data_pipeline.py mydata/data.yaml --size 640

Both read the same copy of the data, since ultralytics writes files beside it, and augment with the settings
of configs/finetune.yaml. The contenders take turns; what counts is the median over the rounds. Everything
runs on one thread a process, without a GPU; decoding is part of it where images are not kept in memory.
"""

from __future__ import annotations

import argparse
import os
import platform
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from functools import partial
from itertools import islice
from pathlib import Path
from statistics import median
from typing import Any

import cv2
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from detector.config.loading import load_config  # noqa: E402
from detector.config.schema import YOLO_KEYS, DataConfig  # noqa: E402
from detector.data import image_cache  # noqa: E402
from detector.data.data_yaml import read_data_yaml  # noqa: E402
from detector.data.dataset import read_dataset  # noqa: E402
from detector.data.loader import Loader  # noqa: E402
from detector.data.sources import datasets_dir  # noqa: E402
from detector.runtime.ultralytics_import import import_ultralytics  # noqa: E402

WARM_UP = 12  # batches: more than the workers of either prepare ahead
WORKERS = 2, 0
KEPT: dict[str, tuple[Any, Any]] = {  # data.cache, their cache
    "in memory": (True, "ram"),
    "decoded once, kept on disk": ("disk", "disk"),
    "read from disk": (False, False),
}

Start = Callable[
    [int], Iterator[int]
]  # number of workers -> sizes of the batches, as they arrive, without end


def ours(loader: Loader, batch: int, workers: int) -> Iterator[int]:
    """Our batches."""
    for made in loader.train_batches(batch=batch, seed=0, workers=workers):
        yield len(made.indices)


def theirs(dataset: Any, batch: int, workers: int) -> Iterator[int]:
    """Batches of ultralytics' own data loader, built as its trainer builds it."""
    loader = import_ultralytics("data.build").build_dataloader(dataset, batch, workers, shuffle=True)
    try:
        while True:
            for made in loader:
                yield len(made["img"])
    finally:
        loader.close()


def rate(start: Start, workers: int, batches: int) -> float:
    """Images per second once it runs: starting processes and reading images into memory do not count."""
    with closing(start(workers)) as source:  # type: ignore[type-var]
        for _ in islice(source, WARM_UP):
            pass
        started = time.perf_counter()
        images = sum(islice(source, batches))
        return images / (time.perf_counter() - started)


def contenders(data: Path, size: int, batch: int) -> dict[tuple[str, str], Start]:
    """(whose, where images are kept) -> what to time."""
    gains = load_config(ROOT / "configs" / "finetune.yaml").config.data
    keys = (*YOLO_KEYS, "fliplr", "translate", "scale")
    settings = {key: getattr(gains, key) for key in keys}
    dataset = read_dataset(data, "skip")
    (folder,) = read_data_yaml(data).sources("train", [])
    found: dict[tuple[str, str], Start] = {}
    for kept, (cache, their_cache) in KEPT.items():
        config = DataConfig(image_size=size, cache=cache, **settings)
        loader = Loader(dataset.splits["train"], config)
        found["ours", kept] = partial(ours, loader, batch)
        if cache == "disk":  # ours is filled by the first epoch, theirs before it
            sum(islice(ours(loader, batch, 0), loader.batches_per_epoch(batch)))
        cfg = import_ultralytics("cfg").get_cfg(overrides={"imgsz": size, "cache": their_cache, **settings})
        described = {"names": dict(enumerate(dataset.names)), "channels": 3}
        build = import_ultralytics("data.build").build_yolo_dataset
        found["theirs", kept] = partial(theirs, build(cfg, str(folder), batch, described), batch)
    return found


def measured(
    data: Path, size: int = 320, batch: int = 16, batches: int = 60, rounds: int = 5
) -> tuple[dict[tuple[str, str, int], list[float]], list[float]]:
    """Images per second by (whose, where images are kept, workers), a number a round; the machine's load."""
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    rates: dict[tuple[str, str, int], list[float]] = {}
    loads = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary) / "data"
        shutil.copytree(data.parent, folder)
        image_cache.FOLDER = Path(temporary) / "cache"  # theirs lies beside the copied images
        starts = contenders(folder / data.name, size, batch)
        for number in range(rounds):
            for workers in WORKERS:
                for (whose, kept), start in starts.items():
                    rates.setdefault((whose, kept, workers), []).append(rate(start, workers, batches))
            loads.append(os.getloadavg()[0])
            print(f"round {number + 1} of {rounds}, load {loads[-1]:.1f}", file=sys.stderr)
    return rates, loads


def main() -> int:
    """Measure, and print Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="?", type=Path, default=datasets_dir() / "bccd" / "data.yaml")
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--batches", type=int, default=60, help="timed in a round")
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    rates, loads = measured(options.data, options.size, options.batch, options.batches, options.rounds)
    print("| images | workers | ours, images/s | ultralytics, images/s | ratio |\n|---|--:|--:|--:|--:|")
    compared = {kept: (kept, kept) for kept in KEPT}
    compared["each one's default"] = ("in memory", "read from disk")
    compared["the same, where a quarter of the memory is too small"] = (
        "decoded once, kept on disk", "read from disk",
    )  # fmt: skip
    for workers in WORKERS:
        for row, (mine, other) in compared.items():
            a, b = rates["ours", mine, workers], rates["theirs", other, workers]
            ratio = median(x / y for x, y in zip(a, b, strict=True))
            print(f"| {row} | {workers} | {shown(a)} | {shown(b)} | {ratio:.2f} |")
    import ultralytics

    rounds = f"median (lowest to highest) of {options.rounds} rounds of {options.batches} batches"
    machine = f"{os.cpu_count()} CPU cores, load {min(loads):.1f} to {max(loads):.1f}"
    versions = f"Python {platform.python_version()}, torch {torch.__version__}, OpenCV {cv2.__version__}"
    print(
        f"\n{options.data.parent.name}, {options.size} px, batches of {options.batch}; {rounds}; {machine}."
    )
    print(f"{versions}, ultralytics {ultralytics.__version__}.")
    print("By default our images are in memory or kept on disk; theirs read from disk, the last ones kept.")
    return 0


def shown(rates: list[float]) -> str:
    """Median and range."""
    return f"{median(rates):.0f} ({min(rates):.0f} to {max(rates):.0f})"


if __name__ == "__main__":
    sys.exit(main())
