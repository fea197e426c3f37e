"""Training images a second before they reach the network: see `benchmarks/data_pipeline.py`."""

from __future__ import annotations

import os

from benchmarks import data_pipeline
from benchmarks.speed.row import Row


def measure() -> list[Row]:
    """With and without loader processes, which get the machine's other cores too."""
    from detector.data.sources import datasets_dir

    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    rates, _ = data_pipeline.measured(datasets_dir() / "bccd" / "data.yaml")
    return [
        Row(
            f"training images, BCCD at 320 px, mosaic, batches of 16, {workers} loader processes: {kept}",
            "ultralytics", "images/s", rates["ours", kept, workers], rates["theirs", kept, workers],
            target=1.2, at_least=True,
        )
        for workers in data_pipeline.WORKERS
        for kept in data_pipeline.KEPT
    ]  # fmt: skip
