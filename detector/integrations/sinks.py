"""Where the rows of a watched loop go: a run's directory, W&B, TensorBoard, or any function."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from detector.errors import UserError, say, shorten
from detector.loggers.base import Logger, LoggerList, Row
from detector.loggers.jsonl import JsonlLogger
from detector.rows import Key
from detector.rundir import RunDir

PER_LAYER = (Key.ACTIVATION_GRAD, Key.WEIGHT_GRAD, Key.UPDATE_RATIO)
OURS = (*PER_LAYER, "gradient/", "signal/", Key.STEP, Key.GRAD_NORM, Key.LOSS)


class ToFunction(Logger):
    """Calls a function with each row. Its errors are the user's own, and reach them."""

    essential = True

    def __init__(self, function: Callable[[Row], object]) -> None:
        self.function = function

    def log(self, row: Row) -> None:
        """Call it."""
        self.function(row)


class ToWandb(Logger):
    """Logs into a W&B run that somebody else opened, and will close.

    Without `step=`: that would make W&B drop what the run's owner logs at a lower one. The curves have `step`
    for their axis instead.
    """

    def __init__(self, run: Any) -> None:
        self.run = run
        self._defined: set[str] = set()
        run.define_metric(Key.STEP, hidden=True)

    def log(self, row: Row) -> None:
        """Send a row's curves; what else is in it, such as mAP, the run's owner logs."""
        kept = {key: value for key, value in row.items() if key.startswith(OURS)}
        for key in kept.keys() - self._defined - {Key.STEP}:
            self._defined.add(key)
            # W&B reads a dot as nesting. Layers would bury the rest in the table of runs.
            summary = "none" if key.startswith(PER_LAYER) else None
            self.run.define_metric(key.replace(".", r"\."), step_metric=Key.STEP, summary=summary)
        if len(kept) > 1:
            self.run.log(kept)

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Put V and the verdict into the run's summary."""
        self.run.summary.update({k: v for k, v in summary.items() if k.startswith(("gradient/", "signal/"))})


class ToTensorBoard(Logger):
    """Writes scalars with a `SummaryWriter` that somebody else closes."""

    def __init__(self, writer: Any) -> None:
        self.writer = writer

    def log(self, row: Row) -> None:
        """Write a row's curves. V is signed, and norms span decades: these are written as their log10."""
        for key, value in row.items():
            if key.startswith(PER_LAYER):
                self.writer.add_scalar(
                    f"log10_{key}", math.log10(value) if value > 0 else math.nan, row[Key.STEP]
                )
            elif key not in (Key.STEP, Key.EPOCH):
                self.writer.add_scalar(key, value, row[Key.STEP])

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Write the verdict as text."""
        self.writer.add_text(Key.VERDICT, str(summary.get(Key.VERDICT)))
        self.writer.flush()


class _ToTerminal(Logger):
    """Says what another sink could not do."""

    def message(self, text: str) -> None:
        """Say it."""
        say(text)


def loggers_for(to: tuple[object, ...], settings: Mapping[str, Any]) -> tuple[Logger, list[RunDir]]:
    """The sinks that `watch` was given, as one, and the run directories among them.

    Raises:
        UserError: one is none, or the directory holds a run already.
    """
    found: list[Logger] = []
    runs: list[RunDir] = []
    for sink in to:
        if isinstance(sink, str | os.PathLike):
            runs.append(RunDir.create_watched(Path(sink), settings))
            found.append(JsonlLogger(runs[-1]))
        elif hasattr(sink, "add_scalar"):
            found.append(ToTensorBoard(sink))
        elif hasattr(sink, "define_metric"):
            found.append(ToWandb(sink))
        elif isinstance(sink, Logger):
            found.append(sink)
        elif callable(sink):
            found.append(ToFunction(sink))
        else:
            raise UserError(
                f"watch: {shorten(repr(sink))} takes no rows; give a run's directory, a W&B run, a "
                "TensorBoard SummaryWriter, or a function"
            )
    return LoggerList([*found, _ToTerminal()]), runs
