"""Where the project's files are; writing a file whole or not at all; reading a stranger's within bounds."""

from __future__ import annotations

import errno
import os
import secrets
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from detector.errors import UserError

PACKAGE = Path(__file__).resolve().parents[1]
INSTALLED = (PACKAGE / "_project").is_dir()  # from a wheel, which carries the project's files in the package

# The folder of train.py, configs/, ablations/ and datasets/, to be read only if it is in a wheel; and the one
# that takes downloads: the clone itself, else the user's cache.
PROJECT = PACKAGE / "_project" if INSTALLED else PACKAGE.parent
# The specification of XDG_CACHE_HOME has a relative path ignored: it would be another folder in each.
_caches = os.environ.get("XDG_CACHE_HOME", "")
CACHE = Path(_caches if os.path.isabs(_caches) else os.path.expanduser("~/.cache")) / "gradient-detector"
DOWNLOADS = CACHE if INSTALLED else PROJECT
TRAIN = "detector train" if INSTALLED else "python train.py"  # as a person types it

_UNSUPPORTED = errno.EINVAL, errno.ENOTSUP  # file systems on which a folder cannot be flushed


@contextmanager
def atomic_write(path: Path) -> Iterator[BinaryIO]:
    """Open a file for writing that becomes `path` once the block has ended without an error.

    Until then it is a temporary file beside it. It is flushed to the disk before it gets its name, and
    the folder after, so that after a power cut there is one of the two files, whole.

    Raises:
        OSError: it cannot be written; it names `path`, and what was there is still there.
    """
    with with_filename(path), _atomic_write(path) as file:
        yield file


@contextmanager
def with_filename(path: Path) -> Iterator[None]:
    """Let errors of the system name this file: a write's own name none, others a temporary one."""
    try:
        yield
    except OSError as error:
        if error.errno is None or error.filename == str(path):
            raise
        raise OSError(error.errno, error.strerror, str(path)) from error


@contextmanager
def _atomic_write(path: Path) -> Iterator[BinaryIO]:
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    # Not tempfile.mkstemp: its files are for the owner alone, and would stay so under their final name.
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0)
    handle = os.open(temporary, flags, 0o666)  # less the umask, as any new file
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):  # a disk that became read-only: what went wrong first is what counts
            temporary.unlink(missing_ok=True)
        raise
    _flush_folder(path.parent)


def new_folder(wanted: Path | None, default: str, option: str) -> Path:
    """Make a folder for results, which holds nothing yet.

    Args:
        wanted: what the user named; None makes one called `default`, with the time behind it.
        default: such as `runs/val-mine`.
        option: how the user named it, for messages.

    Raises:
        UserError: it holds something, or cannot be made.
    """
    try:
        if wanted is not None:
            wanted.mkdir(parents=True, exist_ok=True)
            if any(wanted.iterdir()):
                raise UserError(f"{option} {wanted}: is not empty, and nothing is overwritten; name another")
            return wanted
        stem, number = f"{default}-{time.strftime('%Y%m%d-%H%M%S')}", 1
        while True:
            folder = Path(stem if number == 1 else f"{stem}-{number}")
            with suppress(FileExistsError):  # another one began in the same second
                folder.mkdir(parents=True)
                return folder
            number += 1
    except OSError as error:
        name = f"{option} {wanted}" if wanted is not None else default
        raise UserError(f"{name}: this folder cannot be made: {error.strerror}; name another") from error


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file whole or not at all; see `atomic_write`."""
    with atomic_write(path) as file:
        file.write(data)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file whole or not at all, its line ends as they are; see `atomic_write`."""
    write_bytes(path, text.encode())


def remove_leftovers(folder: Path) -> None:
    """Delete the temporary files of writes that were killed. Only for a folder nobody else writes to."""
    for path in folder.glob(".*.????????.tmp"):
        path.unlink(missing_ok=True)


def _flush_folder(folder: Path) -> None:
    """Make a rename last. Windows can neither open a folder nor needs to."""
    if os.name == "nt":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError as error:
        if error.errno not in _UNSUPPORTED:
            raise
    finally:
        os.close(handle)


def read_bytes(path: Path, most: int) -> bytes:
    """The content of a regular file of at most `most` bytes.

    Raises:
        OSError: it is missing, unreadable, no regular file or larger; `strerror` says so in words.
    """
    with _open_regular(path, most) as file:
        return file.read()


def read_lines(path: Path, most: int, longest: int) -> Iterator[bytes]:
    """The same, a line at a time, each with its end; one of more than `longest` bytes comes in parts."""
    with _open_regular(path, most) as file:
        yield from iter(lambda: file.readline(longest), b"")


@contextmanager
def _open_regular(path: Path, most: int) -> Iterator[BinaryIO]:
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
        yield file


def check_regular(path: Path) -> None:
    """Raise OSError, in words, if `path` is no regular file."""
    mode = os.stat(path).st_mode
    if stat.S_ISDIR(mode):
        raise OSError(errno.EISDIR, "it is a folder")
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "it is not a file")
