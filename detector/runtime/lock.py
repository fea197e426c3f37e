"""One process at a time: who holds a file's lock, or a folder's, has it until it ends, however it ends.

The locks are the operating system's, which lets go of them when a process is killed or its machine goes
down: none can be left behind, and nobody has to guess from a process number whether it still holds. They work
between machines where the network's file system has them; where a file system has none, nothing is locked.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
import time
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO
from weakref import WeakSet

from detector.errors import UserError, shorten

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

NAME = (
    ".detector.lock"  # in the folder, while it is held; one of a process that was killed stays, and is taken
)
_FLAGS = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_BINARY", 0)
_UNSUPPORTED = errno.ENOLCK, errno.ENOSYS, errno.ENOTSUP
_FAR = 2**30  # Windows keeps others from reading what is locked: not where the owner's name is
_MOST = 300  # bytes of it that are shown


def lock_file(file: BinaryIO) -> bool:
    """Lock an open file, for as long as it is open in this process or one that inherited it.

    Returns:
        Whether it could be locked: False if it is locked already, also by this very process.
    """
    try:
        if sys.platform == "win32":
            file.seek(_FAR)
            msvcrt.locking(file.fileno(), msvcrt.LK_NBLCK, 1)
            file.seek(0)
        else:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno in (errno.EAGAIN, errno.EACCES, errno.EDEADLK):
            return False
        if error.errno not in _UNSUPPORTED:
            raise
    return True


class FolderLock:
    """The right to write to a folder. As a context it gives it back at the end.

    Processes that are forked do not share it: loader processes, which outlive a run that is killed for some
    seconds, do not keep it from going on.
    """

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._path = Path()
        _held.add(self)

    def acquire(self, folder: Path) -> None:
        """Lock a folder.

        Raises:
            UserError: another process has it; the message names the process and its machine.
            OSError: there is no such folder, or nothing can be written there.
        """
        assert self._file is None, "a lock is for one folder"
        self._path = folder / NAME
        while True:
            file = os.fdopen(os.open(self._path, _FLAGS, 0o666), "r+b", buffering=0)
            if not lock_file(file):
                with file, suppress(OSError):
                    owner = file.read(_MOST).decode(errors="replace").strip()
                raise UserError(
                    f"{folder}: {shorten(owner, _MOST) or 'another process'} is writing to it; "
                    "wait for its end, or stop it"
                )
            with suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), os.stat(self._path)):
                    break
            file.close()  # whoever had it before removed this file after it was opened here
        self._file = file
        with suppress(OSError):  # a full disk: it is locked all the same
            file.truncate()
            file.write(f"process {os.getpid()} on {socket.gethostname()}, since {_now()},\n".encode())

    def release(self) -> None:
        """Give the folder back; without one, nothing."""
        file, self._file = self._file, None
        if file is None:
            return
        if sys.platform == "win32":  # removes no open file, and so none that another process is about to lock
            file.close()
        with suppress(OSError):  # it may be gone, and the folder with it
            self._path.unlink()
        file.close()

    def __enter__(self) -> FolderLock:
        """Nothing is locked yet."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the folder back."""
        self.release()

    def _forget(self) -> None:
        """In a forked process: it stays its parent's."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


_held: WeakSet[FolderLock] = WeakSet()


def _forked() -> None:
    for lock in list(_held):
        lock._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forked)


def _now() -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S")
