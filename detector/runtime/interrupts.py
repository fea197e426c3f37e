"""Ctrl-C in a program, from its first imports to its end: one line and exit code 130, however often."""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from types import FrameType

from detector.errors import for_terminal

EXIT_INTERRUPTED = 130  # by Ctrl-C: the step in progress was finished
_BURST = 1.0  # seconds in which more of them are the same one
_IMPORTING = "<frozen importlib._bootstrap>"

_raised = -_BURST  # when, by the monotonic clock
_over = False
_resume: Callable[[], str] = str  # the command that goes on with what is interrupted; "" if there is none


def handle_interrupts() -> None:
    """Take over Ctrl-C for the rest of this process, if Python's own handler has it: not under `nohup`."""
    ours = threading.current_thread() is threading.main_thread()
    if ours and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _handle)


@contextmanager
def resumable(command: Callable[[], str]) -> Iterator[None]:
    """Around what can be resumed: an interruption's one line then says how.

    In other threads than the main one, which alone is interrupted, nothing changes.

    Args:
        command: what resumes it; "" as long as there is nothing to resume from.

    Raises:
        KeyboardInterrupt: with that line as its message.
    """
    global _resume
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before, _resume = _resume, command
    try:
        yield
    except KeyboardInterrupt as error:
        raise KeyboardInterrupt(_line()) from error
    finally:
        _resume = before


def expect_no_more() -> None:
    """From here on there is nothing left to clean up: the next one ends the process."""
    global _over
    _over = True


def _handle(number: int, frame: FrameType | None) -> None:
    """Raise KeyboardInterrupt, which cleans up on its way.

    Not within an import: a half imported library may catch it, or fail with something else. And not while
    the last one may still be cleaning up: fingers that hit the keys five times mean it once.
    """
    global _raised
    if _over or _is_importing(frame):
        with suppress(Exception):  # it may have been printing when it was interrupted
            sys.stdout.flush()
        if os.environ.get("RANK", "0") == "0" and _raised < 0:
            with suppress(OSError):
                os.write(2, f"{for_terminal(_line())}\n".encode(errors="backslashreplace"))
        os._exit(EXIT_INTERRUPTED)
    if time.monotonic() - _raised >= _BURST:
        _raised = time.monotonic()
        raise KeyboardInterrupt


def _line() -> str:
    command = _resume()
    return f"interrupted; resume with: {command}" if command else "interrupted"


def _is_importing(frame: FrameType | None) -> bool:
    while frame is not None:
        if frame.f_code.co_filename == _IMPORTING:
            return True
        frame = frame.f_back
    return False
