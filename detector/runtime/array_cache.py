"""Arrays that are kept from one run to the next, in the user's cache folder: they take long to compute.

A file of arrays is written whole or not at all, and holds nothing that can be executed. It can always be
computed again: where it cannot be read or written, or is none of ours, there is none, and nobody is told.
"""

from __future__ import annotations

import os
import shutil
import time
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from detector.runtime.files import CACHE, atomic_write

FOLDER = CACHE / "scans"
LEAVE_FREE = 0.5  # of what is free on the disk: none takes more
UNUSED_DAYS = 30  # after so long a file goes when another is written

Arrays = dict[str, NDArray[Any]]


def load(name: str) -> Arrays | None:
    """What was saved under this name, if it is there and whole: a checksum tells."""
    path = FOLDER / f"{name}.npz"
    try:
        with path.open("rb") as file:
            archive = np.load(file, allow_pickle=False)
            found = {key: archive[key] for key in archive.files}
    except (
        OSError,
        ValueError,
        EOFError,
        LookupError,
        AttributeError,
        NotImplementedError,
        MemoryError,
        RuntimeError,
        zipfile.BadZipFile,
        zlib.error,
    ):  # fmt: skip  what a foreign or a torn file ends in
        return None
    with suppress(OSError):
        os.utime(path)  # in use
    return found


def save(name: str, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Save arrays under a name, in place of what was there, unless the disk has no room for them."""
    path = FOLDER / f"{name}.npz"
    with suppress(OSError):
        FOLDER.mkdir(mode=0o700, parents=True, exist_ok=True)
        for old in unused(FOLDER, "*.npz", ".*.npz.*.tmp"):
            with suppress(OSError):
                old.unlink()
        needed = sum(array.nbytes for array in arrays.values())
        if needed > shutil.disk_usage(FOLDER).free * LEAVE_FREE:
            return
        with atomic_write(path) as file:
            np.savez(file, **arrays)  # type: ignore[arg-type]


def unused(folder: Path, *patterns: str) -> Iterator[Path]:
    """The files of these patterns that nobody has used for `UNUSED_DAYS`."""
    oldest = time.time() - UNUSED_DAYS * 86_400
    for path in chain.from_iterable(map(folder.glob, patterns)):
        with suppress(OSError):
            if path.stat().st_mtime < oldest:
                yield path
