"""Weights & Biases, kept at arm's length: it never asks, never blocks a step and never raises."""

from __future__ import annotations

import math
import os
import re
import secrets
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import say
from detector.loggers import curves, wandb_words
from detector.loggers.base import Logger, PredictionImage, Row
from detector.loggers.wandb_session import Start, open_run, set_aside_earlier
from detector.loggers.wandb_thread import WandbThread, how_to_sync
from detector.rows import Key

if TYPE_CHECKING:
    import wandb

_BEST = (Key.VAL_MAP, Key.TRAIN_MAP)
_EVALUATION = Key.VAL_MAP  # a row with this key is an evaluation
_PER_LAYER = (
    *curves.KINDS,
    Key.POINT_ACTIVATION_GRAD,
    Key.POINT_WEIGHT_GRAD,
    Key.DEAD_UNITS,
    Key.SATURATION,
)
_CURVES = ("train/*", "val/*", "gradient/*", "signal/*", "time/*")
# Drawn too, or hardly worth a chart: kept for tables, sweeps and the dashboard.
_HIDDEN = (Key.STEP, Key.EPOCH, *curves.SORTABLE)
_SLOW = 3.0  # seconds for a chart, which takes 8 ms


class WandbLogger(Logger):
    """Mirrors the run to W&B: online where a key is known, else offline for `wandb sync`.

    Every call only hands work to a `WandbThread`; the run is opened with the first row, not beside the
    imports and the first step.

    A run that was killed leaves W&B behind the local history, by all that was waiting to be written or
    sent. One that is resumed makes up for it: online with the rows that the server lacks, offline with all of
    them, so that the newest offline file is the whole run.
    """

    def __init__(
        self, start: Start, *, history: Sequence[Row] = (), report: Callable[[str], None] = say
    ) -> None:
        """Prepare the run.

        Args:
            start: what it is called and where it goes.
            history: the rows kept when a run is continued: they hold its beginning and its best, and
                those that W&B does not have are sent again.
            report: gets the lines a human should see, from another thread.
        """
        self._id = start.resume_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        self._name = start.name
        self._first: Row | None = None  # with activation gradients: what the charts compare with
        self._best: dict[str, float] = {}
        self._recorded = curves.Spread()  # of those rows
        self._next_map = 0  # the step from which on an evaluation is worth one
        expected: tuple[str, ...] = ("diverged",) if start.config.train.on_nonfinite == "record" else ()
        if not start.config.tracking.alerts:
            expected = wandb_words.ALARMING
        self._alarm = wandb_words.Alarm(start.name, expected=expected)
        self._defined: set[str] = set()
        self._slow = False
        for row in history:
            self._remember(row)
        self._earlier: Sequence[Row] = history if start.mode != "disabled" else ()
        self._thread: WandbThread | None = None
        if start.mode == "disabled":
            return
        self._thread = WandbThread(lambda: open_run(start, self._id, self._say), self._begin, report)
        if start.config.data.workers:
            # Loader processes are forked: one forked while another thread is inside an import can hang.
            with suppress(Exception):  # the thread will say what is wrong
                from detector.loggers.wandb_media import layer_map

                layer_map([])  # plotly imports its parts when they are first used

    @property
    def id(self) -> str:
        """What `Start.resume_id` takes to continue this run."""
        return self._id

    def wait_started(self, timeout: float) -> bool:
        """Start the run, and wait until that is done or given up; False if neither happened in time."""
        return self._thread is None or self._thread.wait_opened(timeout)

    def log(self, row: Row) -> None:
        """Send a row; at an evaluation also charts of gradients, and an alert if they go wrong."""
        alert = self._remember(row)
        kept = dict(row)
        self.send(lambda run: self._send_row(run, kept))
        if alert is not None:
            self._send_alert(alert)
        if _EVALUATION in row and row[Key.STEP] >= self._next_map:
            self._next_map = 2 * int(row[Key.STEP]) + 1  # so few of them that the last one counts
            self._send_map()

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """Send pictures with predicted and true boxes, as `predictions/<split>`."""
        splits = {one.split: [image for image in images if image.split == one.split] for one in images}

        def send(run: wandb.Run) -> None:
            from detector.loggers.wandb_media import pictures

            run.log({f"predictions/{split}": pictures(kept) for split, kept in splits.items()}, step=step)

        self.send(lambda run: self._unless_slow(lambda: send(run)))

    def send(self, job: Callable[[wandb.Run], None]) -> None:
        """Do something with the run, in its thread."""
        if self._thread is not None:
            self._thread.submit(job)

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Send the summary with the best mAPs, then the checkpoint as an artifact of type "model".

        The diagnosis goes into the run's notes, below those that it has.
        """
        best = self._best | curves.sortable(self._best)
        result: dict[str, object] = {f"best/{key}": value for key, value in best.items()}
        result |= dict(summary)
        result |= {name: summary[key] for key, name in curves.SORTABLE.items() if key in summary}
        self.send(lambda run: run.summary.update(result))
        self.send(lambda run: _send_notes(run, summary))
        if (alert := self._alarm.end(summary)) is not None:
            self._send_alert(alert)
        self._send_map()
        if checkpoint is not None:
            metadata = wandb_words.metadata(summary)
            self.send(lambda run: self._unless_slow(lambda: self._send_checkpoint(run, checkpoint, metadata)))

    def close(self, exit_code: int = 0) -> None:
        """End the run, waiting at most for W&B's time limits to start and to upload."""
        if self._thread is not None:
            self._thread.stop(exit_code)

    def _send_alert(self, alert: wandb_words.Alert) -> None:
        self.send(lambda run: run.alert(alert.title, alert.text, level="WARN"))

    def _send_map(self) -> None:
        """Send all layers over all steps so far."""
        rows = self._recorded.rows()

        def send(run: wandb.Run) -> None:
            from detector.loggers.wandb_media import layer_map

            charts = layer_map(rows)
            self._unless_slow(lambda: run.log(dict(charts), step=_step(rows[-1])))

        if rows:
            self.send(lambda run: None if self._slow else send(run))

    # Below: in the thread, but for `_remember`.

    def _begin(self, run: wandb.Run) -> None:
        self._id = run.id  # a sweep chooses it
        for glob in _CURVES:
            run.define_metric(glob, step_metric="step")
        for glob in (curves.GLANCE, curves.LAYERS):
            run.define_metric(f"{glob}*", step_metric="step", summary="none")
        for key in _HIDDEN:
            run.define_metric(key, hidden=True)
        self._say(f"W&B: offline. {how_to_sync(run)}" if run.offline else f"W&B: {run.url}")
        rows, self._earlier = self._earlier, ()
        if rows and (not run.offline or set_aside_earlier(run)):
            for row in rows:
                if (_step(row) or 0) >= run.starting_step:  # the first that W&B does not have
                    self._send_row(run, row)

    def _say(self, text: str) -> None:
        if self._thread is not None:
            self._thread.say(text)

    def _send_row(self, run: wandb.Run, row: Row) -> None:
        for key in row:
            # Layers stay out of the table of runs, where a column each would bury the rest, and out of the
            # charts that W&B makes by itself: their logarithms are there. One by one: W&B's globs do not
            # match the dots in our names, which it reads as nesting.
            if key.startswith(_PER_LAYER) and key not in self._defined:
                self._defined.add(key)
                name = key.replace(".", r"\.")
                run.define_metric(name, step_metric="step", summary="none", hidden=True)
        shown = curves.glance(row) | curves.sortable(row) | curves.layers(row)
        run.log(shown | dict(row), step=_step(row))
        if _EVALUATION in row:
            self._unless_slow(lambda: self._send_chart(run, row))

    def _send_chart(self, run: wandb.Run, row: Row) -> None:
        from detector.loggers.wandb_media import depth_chart

        chart = None if self._first is None else depth_chart(self._first, row)
        if chart is not None:
            run.log({"depth_profile/activation_grad": chart}, step=_step(row))

    def _send_checkpoint(self, run: wandb.Run, checkpoint: Path, metadata: dict[str, object]) -> None:
        import wandb

        name = re.sub(r"[^\w.-]", "-", f"{self._name}-{self._id}", flags=re.ASCII)[:128]
        artifact = wandb.Artifact(name, type="model", metadata=metadata)
        artifact.add_file(str(checkpoint), name=checkpoint.name)
        run.log_artifact(artifact, aliases=[checkpoint.stem])

    def _unless_slow(self, send: Callable[[], None]) -> None:
        """Send, unless something before took too long.

        Charts, pictures and checkpoints wait for the server, unlike rows: with a server that went away
        each would hold up the rows behind it through all of its retries.
        """
        if self._slow:
            return
        began = time.monotonic()
        send()
        if time.monotonic() - began > _SLOW:
            self._slow = True
            self._say("W&B takes too long: charts, pictures and checkpoints stay local from here on")

    def _remember(self, row: Row) -> wandb_words.Alert | None:
        if any(key.startswith(Key.ACTIVATION_GRAD) for key in row):
            self._first = self._first or dict(row)
            self._recorded.add(dict(row))
        for key in _BEST:
            value = row.get(key, math.nan)
            if math.isfinite(value):
                self._best[key] = max(value, self._best.get(key, value))
        return self._alarm.see(row)


def _send_notes(run: wandb.Run, summary: Mapping[str, object]) -> None:
    if (notes := wandb_words.notes(run.notes, summary)) is not None:
        run.notes = notes


def _step(row: Row) -> int | None:
    return int(row["step"]) if "step" in row else None
