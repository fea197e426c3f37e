"""The run's own record on disk: history.jsonl, summary.json and pictures of the predictions."""

from __future__ import annotations

import errno
import json
import logging
import math
import operator
import os
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, SupportsFloat, SupportsIndex

from detector.errors import UserError
from detector.loggers.base import PredictionImage, Row, Tracker, describe
from detector.runtime.files import naming, read_bytes, write_bytes, write_text

_log = logging.getLogger(__name__)

MAX_HISTORY = 2_000_000_000  # bytes; a row has about 8 kB
MOST_STEPS = 10**12
_EVALUATION = "val/mAP50-95"  # a row with this key is followed by a checkpoint
_FIRST = ("step", "epoch")  # the rest of a row keeps its order: the network's
_NONFINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}


class LocalTracker(Tracker):
    """Writes what happened where nothing but the disk can fail.

    `history.jsonl` gets one JSON object a row, in the file as soon as `log` returns and, so that a power
    cut leaves no checkpoint that is ahead of it, on the disk at each evaluation. JSON has no NaN, so
    non-finite numbers are the strings "NaN", "Infinity" and "-Infinity"; `read_history` turns them back.
    Finite numbers are written with `repr`, so that reading them back gives the same bits.
    """

    essential = True

    def __init__(
        self,
        directory: Path,
        *,
        keep_before_step: int | None = None,
        report: Callable[[str], None] = _log.warning,
    ) -> None:
        """Open the history in `directory`, which is created.

        `keep_before_step` continues a run: rows at that step or later are dropped first, since they
        will be logged again. `report` gets a line where something optional, a picture, fails.

        Raises:
            UserError: the directory holds a history already and no `keep_before_step` is given.
            OSError: the directory or the file cannot be written.
        """
        self.directory = Path(directory)
        self.path = self.directory / "history.jsonl"
        self._report = report
        self._pictures: dict[str, list[PredictionImage]] = {}
        self.directory.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(self.path) and not self.path.is_file():  # a pipe would block, a device swallow it
            raise UserError(f"{self.path}: is not a file; remove it")
        if keep_before_step is not None:
            _truncate(self.path, keep_before_step)
        elif self.path.exists() and self.path.stat().st_size:
            raise UserError(
                f"{self.path}: holds another run's history. Choose another run.dir, or continue that run "
                f"with --resume {self.directory}."
            )
        self._file = self.path.open("ab", buffering=0)

    def log(self, row: Row) -> None:
        """Append one row.

        Raises:
            OSError: the row could not be written whole; the file is as it was before.
        """
        ordered = {key: row[key] for key in _FIRST if key in row} | dict(row)
        data = (json.dumps(_plain(ordered), allow_nan=False) + "\n").encode()
        before = os.fstat(self._file.fileno())
        if not before.st_nlink:  # the system would go on writing to it, and nobody ever find it
            raise FileNotFoundError(
                errno.ENOENT, "it was deleted while the run was writing to it", str(self.path)
            )
        with naming(self.path):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with suppress(OSError):  # what went wrong first is what counts
                    os.ftruncate(self._file.fileno(), before.st_size)  # a disk that filled up within a row
                raise
            if _EVALUATION in row:
                os.fsync(self._file.fileno())

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """Keep the newest pictures of each split; they are drawn at the end."""
        for split in {image.split for image in images}:
            self._pictures[split] = [image for image in images if image.split == split]

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Write summary.json atomically, then draw the pictures.

        Raises:
            OSError: the summary could not be written.
        """
        text = json.dumps(_plain(summary), indent=2, allow_nan=False) + "\n"
        write_text(self.directory / "summary.json", text)
        for split, images in self._pictures.items():
            target = self.directory / "plots" / f"predictions_{split}.png"
            try:
                from detector.loggers.images import save_grid

                save_grid(images, target)
            except Exception as error:  # a picture is a convenience, the summary above is the result
                self._report(f"{target}: not drawn: {describe(error)}")

    def close(self, exit_code: int = 0) -> None:
        """Close the history. Closing twice is fine."""
        if not self._file.closed:
            with suppress(OSError):  # nothing comes after it that would rest on it
                os.fsync(self._file.fileno())
        self._file.close()


def read_history(path: Path, *, report: Callable[[str], None] = _log.warning) -> list[dict[str, Any]]:
    """All rows of a history, in order, with NaN and infinities as floats.

    A run that was killed can leave half a last line: it is left out, and `report` gets a line saying so.

    Raises:
        UserError: the file does not exist, or a line before the last one is not a row.
    """
    path = Path(path)
    try:
        lines = read_bytes(path, MAX_HISTORY).split(b"\n")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror}. Is this a run's directory?") from error
    whole, torn = lines[:-1], lines[-1]  # every complete row ends in a newline
    rows: list[dict[str, Any]] = []
    for number, line in enumerate(whole, start=1):
        row = _parse(line)
        if row is None:
            if number == len(whole) and not torn:
                torn = line
                break
            raise UserError(f"{path}:{number}: not a row of a history: remove that line to read the others.")
        rows.append(row)
    if torn:
        report(f"{path}: the last line is torn and left out; {len(rows)} whole rows are kept")
    return rows


def _parse(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict):
        return None
    row = {k: _NONFINITE.get(v, v) if isinstance(v, str) else v for k, v in row.items()}
    step = row.get("step", 0)
    whole = isinstance(step, int) and 0 <= step < MOST_STEPS
    return row if whole and all(map(_is_number, row.values())) else None


def _is_number(value: object) -> bool:
    # An integer of thousands of digits is JSON, but no float: nothing that is recorded comes near it.
    return isinstance(value, float) or (isinstance(value, int) and abs(value) < 2**64)


def _truncate(path: Path, step: int) -> None:
    """Keep the rows before `step`, byte for byte; all of the file or none of the change."""
    if not path.exists():
        return
    kept: list[bytes] = []
    for line in read_bytes(path, MAX_HISTORY).split(b"\n")[:-1]:
        row = _parse(line)
        if row is not None and row.get("step", step) < step:
            kept.append(line + b"\n")
    write_bytes(path, b"".join(kept))


def _plain(value: object) -> Any:
    """The value in the types JSON has. NumPy and torch scalars become numbers, other objects text."""
    if value is None or isinstance(value, str | bool | int):
        return value
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [_plain(item) for item in value]
    if isinstance(value, SupportsIndex):
        with suppress(TypeError):  # a tensor claims to be one and then refuses, if it holds a float
            return operator.index(value)
    if not isinstance(value, SupportsFloat):
        return str(value)
    number = float(value)
    if math.isfinite(number):
        return number
    return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
