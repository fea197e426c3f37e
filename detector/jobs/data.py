"""The data of many runs, made ready once."""

from __future__ import annotations

from collections.abc import Iterable

from detector.config.schema import Config
from detector.data.dataset import Dataset
from detector.data.own import read_registered
from detector.data.sources import load_dataset, options_of


def fetch(configs: Iterable[Config]) -> list[Dataset]:
    """Download, render and check the data once, before several processes would do so at the same time.

    Returns:
        Each dataset that these configurations read, in their order.

    Raises:
        UserError: one is missing or broken; `DatasetUnavailable` where it cannot be downloaded.
    """
    distinct = {}
    for config in configs:
        options = options_of(config.data, config.train.seed)
        key = config.data.format, config.data.path, config.data.on_error, *options.values()
        distinct[key] = config.data, options
    return [
        load_dataset(data.path, data.on_error, **options) if data.format == "yolo" else read_registered(data)
        for data, options in distinct.values()
    ]
