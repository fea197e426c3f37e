"""The run on the terminal: a progress bar, or plain lines where there is no terminal."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from detector.errors import for_terminal
from detector.gradients.indices import COLLAPSED, EXPLODING_RATE, SHALLOW, VANISHING_RATE, limits
from detector.loggers.base import Logger, PredictionImage, Row
from detector.rows import Key, own_metrics

if TYPE_CHECKING:
    from rich.console import Console
    from rich.progress import Progress
    from rich.table import Table

_LINES_A_RUN = 10
_VERDICT_STYLE = {"healthy": "green", "vanishing": "red", "exploding": "magenta"}
_BAD = "bold red"  # dead forward, collapsed, underflow, diverged


def verdict_word(index: float, layers: int) -> str:
    """What the vanishing index of so many layers alone says: vanishing, healthy, exploding or diverged."""
    if not math.isfinite(index):
        return "diverged"
    low, high = limits(layers)
    return "vanishing" if index < low else "exploding" if index > high else "healthy"


def _console(file: TextIO) -> Console:
    """A console to which a pipe that nobody reads (`| head`) is an error: rich's own ends the program."""
    from rich.console import Console

    class Lasting(Console):
        def on_broken_pipe(self) -> None:
            raise  # the BrokenPipeError that is being handled

    return Lasting(file=file, highlight=False)


class ConsoleLogger(Logger):
    """Shows progress on stderr and the result on stdout, so that either can be sent to a file."""

    def __init__(
        self,
        total_steps: int,
        *,
        start_step: int = 0,
        progress: TextIO | None = None,
        results: TextIO | None = None,
    ) -> None:
        """Show a run of `total_steps` steps that begins, or resumes, at `start_step`."""
        self._total = max(total_steps, 1)
        self._start_step = start_step
        self._began = time.monotonic()
        self._out = results or sys.stdout
        self._console = _console(progress or sys.stderr)
        self._seen: dict[str, float] = {}  # the newest value of each key: evaluations are rare
        self._next_line = start_step
        self._bar: Progress | None = _bar(self._console) if self._console.is_terminal else None
        if self._bar is not None:
            self._bar.add_task("", total=self._total, completed=start_step, facts="starting")
            self._bar.start()

    def log(self, row: Row) -> None:
        """Move the bar, or print a line: at each evaluation and about ten more times a run."""
        self._seen.update(row)
        step = int(row.get("step", 0))
        if self._bar is not None:
            task = self._bar.task_ids[0]
            self._bar.update(task, completed=min(step, self._total), facts=self._facts(step, styled=True))
            return
        evaluated = Key.TRAIN_MAP in row or Key.VAL_MAP in row
        if evaluated or step >= self._next_line or step >= self._total - 1:
            width = len(str(self._total))
            self._print(f"step {step:>{width}}/{self._total} {self._facts(step, styled=False)}")
            while self._next_line <= step:
                self._next_line += max(1, math.ceil(self._total / _LINES_A_RUN))

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """Pictures are not for a terminal."""

    def message(self, text: str) -> None:
        """Print a line; a bar stays below it."""
        self._print(for_terminal(text))

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Print the result as a table of key numbers with their meaning."""
        if self._bar is not None:
            self._bar.update(self._bar.task_ids[0], completed=self._total)
        self._stop()
        console = _console(self._out)
        console.print(_table(summary, self._layers()))
        if (diagnosis := summary.get(Key.DIAGNOSIS)) is not None:
            console.print(f"\n{diagnosis}\n", markup=False)
        if checkpoint is not None:
            console.print(f"Checkpoint: {checkpoint}", markup=False, soft_wrap=True)

    def close(self, exit_code: int = 0) -> None:
        """Leave the terminal as it was."""
        self._stop()

    def _facts(self, step: int, *, styled: bool) -> str:
        """The numbers worth a glance, on a bar in at most 64 columns."""
        seen = self._seen
        index = seen.get(Key.VANISHING_INDEX)
        verdict = "" if index is None else f"V {index:+.2f}"
        if index is not None and styled:
            verdict = f"[{_VERDICT_STYLE.get(verdict_word(index, self._layers()), _BAD)}]{verdict}[/]"
        elif index is not None:
            verdict = f"{verdict} {verdict_word(index, self._layers())}"
        parts = [
            f"loss {_short(seen.get(Key.LOSS))}",
            _pair("mAP", seen.get(Key.TRAIN_MAP), seen.get(Key.VAL_MAP)),
            # A bar has no room for more.
            *(
                _pair(name, seen.get(f"train/{name}"), seen[f"val/{name}"])
                for name in own_metrics(seen)
                if not styled
            ),
            verdict,
            self._left(step),
        ]
        return "  ".join(part for part in parts if part)

    def _layers(self) -> int:
        """How many the trunk has, as far as a row said."""
        return sum(key.startswith(Key.ACTIVATION_GRAD) for key in self._seen)

    def _left(self, step: int) -> str:
        done = step - self._start_step
        if done <= 0 or step >= self._total - 1:
            return ""
        seconds = (time.monotonic() - self._began) / done * (self._total - step)
        return f"{clock(seconds)} left"

    def _print(self, text: str) -> None:
        # soft_wrap: a long path must stay one line that can be copied.
        self._console.print(text, markup=False, soft_wrap=True)

    def _stop(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None


def _bar(console: Console) -> Progress:
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

    return Progress(
        BarColumn(bar_width=12),
        MofNCompleteColumn(),
        TextColumn("{task.fields[facts]}"),
        console=console,
        refresh_per_second=4,
    )


def _table(summary: Mapping[str, object], layers: int) -> Table:
    from rich.table import Table
    from rich.text import Text

    title = " · ".join(
        str(part)
        for part in (
            summary.get("ablation"),
            summary.get(Key.MODEL),
            f"seed {summary['seed']}" if "seed" in summary else None,
            summary.get("dataset"),
            f"{summary['steps']} steps" if "steps" in summary else None,
            f"{float(str(summary['seconds'])):.1f} s" if "seconds" in summary else None,
        )
        if part is not None
    )
    table = Table(title=Text(title, style="bold"), title_justify="left", show_edge=False, pad_edge=False)
    table.add_column("result", no_wrap=True)
    table.add_column("value", justify="right", no_wrap=True)
    table.add_column("what it means", ratio=1)
    for key, label, meaning in _meanings(summary, layers):
        if summary.get(key) is not None:
            value = summary[key]
            style = _VERDICT_STYLE.get(str(value), _BAD) if "verdict" in key else ""
            number = f"{value:+.2f}" if "index" in key and isinstance(value, float) else _number(value)
            if isinstance(value, float) and math.isnan(value):
                if key == Key.INPUT_DEPENDENCE:
                    continue  # of a batch of one image
                number = "no objects" if "mAP" in key else number
            table.add_row(label, Text(number, style=style), Text(meaning))
    return table


def _meanings(summary: Mapping[str, object], layers: int) -> list[tuple[str, str, str]]:
    """Key, label and meaning of what is worth reading, in reading order."""
    coco8 = "coco8" in str(summary.get("dataset", "")).lower()
    seen, unseen = "on the images trained on", "on unseen images"
    if coco8:
        seen = "memorisation: the 4 pictures of every step"
        unseen = "on 4 unseen images: about 0 is expected, 4 pictures teach no detector"
    warnings = summary.get("data/warnings")
    if isinstance(warnings, Mapping) and "same-images" in warnings:
        unseen = "memorisation: val holds the images of train"
    late = "so far: the run was stopped" if summary.get("status") == "stopped" else "late in training"
    rate = f"{VANISHING_RATE:+.2f} to {EXPLODING_RATE:+.2f} is healthy, from {SHALLOW} layers on"
    if 0 < layers < SHALLOW:
        low, high = limits(layers)
        rate = f"of {layers} layers V itself is judged: {low:+.1f} to {high:+.1f} is healthy"
    own, splits = own_metrics(summary), (("train", "on the images trained on"), ("val", "on unseen images"))
    return [
        (Key.TRAIN_MAP, "train mAP50-95", seen),
        (Key.VAL_MAP, "val mAP50-95", unseen),
        *((f"{split}/{name}", f"{split} {name}", what) for name in own for split, what in splits),
        (Key.LOSS, "final loss", "box + class + DFL, last step"),
        (Key.VANISHING_INDEX + Key.INIT, "V at init", "decades from the trunk's last third to its first"),
        (Key.VANISHING_INDEX, "V late", f"the same, {late}"),
        (Key.DECADES_PER_LAYER, "V late, a layer", rate),
        (Key.VERDICT + Key.INIT, "verdict at init", "before the first step"),
        (Key.VERDICT, "verdict", late),
        (Key.FIRST_BAD_LAYER, "first bad layer", "where the first NaN or infinity appeared"),
        (
            Key.INPUT_DEPENDENCE,
            "input dependence",
            f"below {COLLAPSED} all images look alike to the trunk",
        ),
        ("parameters", "parameters", "of the whole network"),
    ]


def _pair(name: str, train: float | None, val: float | None) -> str:
    """A metric on both splits."""
    return f"{name} train {_map(train)} val {_map(val)}"


def _map(value: float | None) -> str:
    """A mAP in at most five characters; that of a split without objects does not exist."""
    return "none" if value is not None and math.isnan(value) else _short(value)


def _short(value: float | None) -> str:
    """A number in at most five characters; a dash where it was not measured yet."""
    if value is None:
        return "-"
    if not math.isfinite(value):
        return str(value)
    size = abs(value)
    digits = ".3f" if size < 1 else ".2f" if size < 10 else ".1f" if size < 1000 else ".0e"
    return format(value, digits)


def _number(value: object) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.3f}" if abs(value) < 100 else f"{value:,.1f}"


def clock(seconds: float) -> str:
    """`1:02:03`, or `2:03` below an hour."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"
