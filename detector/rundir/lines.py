"""The lines of a history: one JSON object a logged step, appended, read and dropped.

JSON has no NaN, so non-finite numbers are the strings "NaN", "Infinity" and "-Infinity", which are turned
back in reading. Finite numbers are written with `repr`, so that reading them back gives the same bits.
"""

from __future__ import annotations

import errno
import os
import secrets
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from detector.errors import UserError
from detector.rows import Key, Row
from detector.runtime.files import atomic_write, check_regular, read_lines, with_filename
from detector.runtime.json_numbers import from_json, number, to_json

MAX_HISTORY = 20_000_000_000  # bytes; a row of 23 layers has 4 kB, so that a million of them fit
MAX_ROW = 50_000_000
MOST_STEPS = 10**12


class HistoryWriter:
    """Appends rows to a history: each is in the file as soon as `append` returns."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path.open("ab", buffering=0)

    def append(self, row: Row, *, sync: bool = False) -> None:
        """Append one row, step and epoch first.

        Args:
            row: the rest keeps its order, which is the network's.
            sync: wait until it is on the disk, so that a power cut leaves no checkpoint that is ahead of it.

        Raises:
            OSError: the row could not be written whole; the file is as it was before.
        """
        ordered = {key: row[key] for key in (Key.STEP, Key.EPOCH) if key in row} | dict(row)
        data = (to_json(ordered) + "\n").encode()
        before = os.fstat(self._file.fileno())
        if not before.st_nlink:  # the system would keep writing to it, and nobody would ever find it
            reason = "it was deleted while the run was writing to it"
            raise FileNotFoundError(errno.ENOENT, reason, str(self.path))
        with with_filename(self.path):
            try:
                rest = memoryview(data)
                while rest:
                    rest = rest[self._file.write(rest) :]
            except OSError:
                with suppress(OSError):  # what went wrong first is what counts
                    os.ftruncate(self._file.fileno(), before.st_size)  # a disk that filled up within a row
                raise
            if sync:
                os.fsync(self._file.fileno())

    def close(self) -> None:
        """Closing twice is fine."""
        if not self._file.closed:
            with suppress(OSError):  # nothing comes after it that would rest on it
                os.fsync(self._file.fileno())
        self._file.close()


def row_in(line: bytes, *, lenient: bool = False) -> dict[str, Any] | None:
    """A line of a history; None if it is not a row.

    Lenient: a value that is no number becomes NaN instead of spoiling the row. The step must be a number.
    """
    try:
        row = from_json(line)
    except ValueError:
        return None
    if not isinstance(row, dict):
        return None
    step = row.get(Key.STEP, None if lenient else 0)
    if type(step) is not int or not 0 <= step < MOST_STEPS:
        return None
    if set(map(type, row.values())) <= {float, int, bool}:
        return row
    return {key: number(value) for key, value in row.items()} | {Key.STEP: step} if lenient else None


def read_rows(path: Path, keep: Callable[[dict[str, Any]], object], report: Callable[[str], None]) -> None:
    """Hand over every row of a history, in order.

    Args:
        path: the history.
        keep: gets each row.
        report: gets a line if half a last line, which a killed run can leave, is left out.

    Raises:
        UserError: the file cannot be read, or a line before the last one is not a row.
    """
    try:
        count, bad, torn = _read(path, keep)
    except OSError as error:
        message = f"{path}: cannot be read: {error.strerror}. Is this a run's directory?"
        raise UserError(message) from error
    if bad:
        raise UserError(f"{path}:{bad[0]}: not a row of a history: remove that line to read the others.")
    if torn:
        report(f"{path}: the last line is torn and left out; {count} whole rows are kept")


def scan_rows(path: Path, keep: Callable[[dict[str, Any]], object]) -> list[str]:
    """Hand over every row that can be read, in order of steps; what is wrong with the others.

    A value that is no number is NaN. Raises OSError if the file cannot be read.
    """
    _, bad, torn = _read(path, keep, lenient=True)
    notes = ["the last row of its history is torn and left out"] if torn else []
    if bad:
        which = ", ".join(map(str, bad[:3])) + (", …" if len(bad) > 3 else "")
        notes.append(f"{len(bad)} line(s) of its history are not rows in order, and left out: {which}")
    return notes


def _read(
    path: Path, keep: Callable[[dict[str, Any]], object], *, lenient: bool = False
) -> tuple[int, list[int], bool]:
    """Hand over row by row; how many, the lines that are none, and whether the last is torn."""
    number, count, newest, torn = 0, 0, -1, False
    bad: list[int] = []
    for line in read_lines(path, MAX_HISTORY, MAX_ROW):
        if torn := not line.endswith(b"\n"):  # every complete row ends in one
            continue
        number += 1
        row = row_in(line, lenient=lenient)
        if row is None or (lenient and row[Key.STEP] <= newest):
            bad.append(number)
            continue
        newest, count = row.get(Key.STEP, newest), count + 1
        keep(row)
    if bad == [number] and not (torn or lenient):
        return count, [], True
    return count, bad, torn


def newest_row(path: Path) -> dict[str, Any]:
    """The newest whole row of a history that is being written; empty before the first."""
    try:
        check_regular(path)
        with path.open("rb") as file:
            size, window, lines = file.seek(0, 2), 65_536, list[bytes]()
            while len(lines) < 3 and window < 2 * MAX_ROW:  # a whole one lies between two ends of lines
                file.seek(max(0, size - window))
                lines = file.read(window).split(b"\n")
                if window >= size:
                    break
                window *= 4
    except OSError:
        return {}
    row = row_in(lines[-2]) if len(lines) > 1 else None
    return row if row is not None and row.keys() >= {Key.STEP, Key.EPOCH} else {}


def drop_rows_from(path: Path, step: int, report: Callable[[str], None]) -> None:
    """Keep the rows before `step`, byte for byte; all of the file or none of the change.

    Args:
        path: the history; it may be missing.
        step: the first that is dropped.
        report: gets a line where lines that are no rows are dropped too, and where a copy of the file is.
    """
    if not path.exists():
        return
    bad = 0
    with atomic_write(path) as kept:
        for number, line in enumerate(read_lines(path, MAX_HISTORY, MAX_ROW), start=1):
            if not line.endswith(b"\n"):
                continue  # torn
            if (row := row_in(line)) is None:
                bad = bad or number
            elif row.get(Key.STEP, step) < step:
                kept.write(line)
        if bad:  # they will not be logged again
            name = f"history-{time.strftime('%Y%m%d-%H%M%S')}-{secrets.token_hex(2)}.jsonl"
            copy = path.parent / "superseded" / name
            copy.parent.mkdir(exist_ok=True)
            with atomic_write(copy) as whole:
                whole.writelines(read_lines(path, MAX_HISTORY, MAX_ROW))
            report(f"{path}:{bad}: not a row of a history, left out; {copy} is the whole file")
