"""stdout and stderr, where they are closed or take no Unicode: a program goes on, whoever listens."""

from __future__ import annotations

import io
import os
import sys
from contextlib import suppress


def open_missing() -> None:
    """Open what the caller closed (`>&-`): else the next file would get its number, and be written to.

    A warning of a C library, which knows no files but goes to number 2, would end up in the history.
    """
    for stream in range(3):
        try:
            os.fstat(stream)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # the lowest free number, which is this one
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w"))  # noqa: SIM115  until the process ends
    accept_any_text()


def accept_any_text() -> None:
    """Write what the encoding of stdout or stderr lacks (a redirected Windows console's) as `\\u2500`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            with suppress(OSError):  # its reader has gone, which is no reason not to begin
                stream.reconfigure(errors="backslashreplace")


def ignore_broken_backend() -> None:
    """Forget an MPLBACKEND that matplotlib does not know, and would refuse to be imported for."""
    backend = os.environ.pop("MPLBACKEND", None)
    if backend is not None:
        import matplotlib

        with suppress(ValueError):
            matplotlib.rcParams["backend"] = backend
            os.environ["MPLBACKEND"] = backend


def flush() -> None:
    """Write what is left. A pipe that nobody reads any more (`| head`) must not be heard of at exit."""
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:
            with suppress(OSError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
