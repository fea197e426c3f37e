"""Before a run: its data, and its directory."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from detector.config import Config
from detector.errors import UserError
from detector.loading import LoadedConfig, save
from detector.ranks import Ranks

if TYPE_CHECKING:
    from detector.data.yolo import Dataset


def load_data(
    loaded: LoadedConfig, fall_back: Callable[[], LoadedConfig], ranks: Ranks
) -> tuple[Dataset, LoadedConfig]:
    """Read the dataset; where COCO8 cannot be had, say so and go on with the built-in shapes."""
    from detector.data.coco8 import DatasetUnavailable
    from detector.data.sources import load_dataset

    data = loaded.config.data
    try:
        return load_dataset(data.path, data.on_error), loaded
    except DatasetUnavailable as error:
        if data.fallback == "none":
            raise
        banner = (
            f"\n*** COCO8 IS NOT HERE. {error}\n"
            "*** Training on the built-in `shapes` set instead, under that name and with its own schedule.\n"
            "*** (data.fallback=none turns this into an error.)\n"
        )
    if ranks.first:
        print(banner, file=sys.stderr)
    data = (loaded := fall_back()).config.data
    return load_dataset(data.path, data.on_error), loaded


def new_directory(config: Config, label: str, ranks: Ranks) -> Path:
    """Make `run.dir`, or a new folder in runs/, with config.yaml; never one that holds a run already.

    Raises:
        UserError: it holds a run.
    """
    time_of_day = time.strftime("%Y%m%d-%H%M%S")
    directory = Path(config.run.dir or f"runs/{label}-s{config.train.seed}-{time_of_day}")
    if not ranks.first:
        return directory  # the first process makes it, and says what it is called
    history = directory / "history.jsonl"
    if history.exists() and history.stat().st_size:
        raise UserError(f"run.dir={directory} holds a run already; --resume {directory} goes on with it")
    directory.mkdir(parents=True, exist_ok=True)
    save(config, directory / "config.yaml")
    return directory
