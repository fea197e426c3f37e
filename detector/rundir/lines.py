"""The lines of a history: one JSON object a logged step, appended and understood.

JSON has no NaN, so non-finite numbers are the strings "NaN", "Infinity" and "-Infinity", which are turned
back in reading. Finite numbers are written with `repr`, so that reading them back gives the same bits.
"""

from __future__ import annotations

import errno
import os
from contextlib import suppress
from pathlib import Path
from typing import Any

from detector.rows import Key, Row
from detector.runtime.files import with_filename
from detector.runtime.json_numbers import from_json, number, to_json

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
