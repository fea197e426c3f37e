"""What a finished run is to a test, and an environment that reaches nobody's W&B account."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from detector import registry
from detector.config import names
from detector.rundir import RunDir

ROOT = Path(__file__).resolve().parents[1]


# A network and a run as small as they come: about a second, whatever is tried out with it.
TINY = (
    "model.depths=[1, 1, 1, 1]", "model.widths=[8, 8, 8, 8, 8]", "model.neck_width=8", "data.image_size=32",
    "train.threads=1", "tracking.wandb=disabled", "tracking.plots=false",
)  # fmt: skip


@dataclass
class Run:
    """One finished `train.py`."""

    directory: Path
    code: int
    out: str
    err: str

    @property
    def summary(self) -> dict[str, Any]:
        return dict(json.loads((self.directory / "summary.json").read_text()))

    @property
    def history(self) -> list[dict[str, Any]]:
        return RunDir(self.directory).read_history()


def environment(datasets: Path | None = None) -> dict[str, str]:
    """This process's environment without anything that would reach a W&B account."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("WANDB_")}
    kept |= {"OMP_NUM_THREADS": "1", "NETRC": os.devnull}
    return kept | ({"DETECTOR_DATASETS": str(datasets)} if datasets else {})


class Polled(Protocol):
    """A process, however it was started."""

    def poll(self) -> int | None: ...


def wait_for(condition: Callable[[], bool], process: Polled) -> None:
    deadline = time.monotonic() + 120
    while not condition():
        assert process.poll() is None, "the run ended before it could be interrupted"
        assert time.monotonic() < deadline, "the run never got that far"
        time.sleep(0.01)


@contextmanager
def forgetting_names() -> Iterator[None]:
    """What is registered inside is forgotten afterwards, and the plugins loaded inside may be loaded anew."""
    parts = {kind: dict(own) for kind, own in registry._own.items()}
    added = {kind: list(own) for kind, own in names.added.items()}
    loaded = dict(registry.plugins)
    try:
        yield
    finally:
        for kind in parts:
            registry._own[kind], names.added[kind] = parts[kind], added[kind]
        for name in registry.plugins.keys() - loaded.keys():
            del registry.plugins[name], sys.modules[name]
