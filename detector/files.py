"""Reading a file of unknown origin: a pipe that blocks, a device that never ends, gigabytes."""

from __future__ import annotations

import errno
import os
import stat
from pathlib import Path


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: it is missing, unreadable, no regular file or larger; `strerror` says so in words.
    """
    check_regular(path)  # before opening: that alone can rewind a tape or wake a device
    # Not blocking, in case a pipe took the file's place since then.
    flags = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)
    with os.fdopen(os.open(path, flags), "rb") as file:
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise OSError(errno.EINVAL, "it is not a file")
        if found.st_size > most:
            limit = f"{most // 1_000_000} MB" if most >= 1_000_000 else f"{most // 1000} kB"
            raise OSError(errno.EFBIG, f"it has {found.st_size:,} bytes, and at most {limit} are accepted")
        return file.read()


def check_regular(path: Path) -> None:
    """Raise OSError, in words, if `path` is no regular file."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a file")
