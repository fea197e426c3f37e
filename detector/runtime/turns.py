"""Threads that take turns: only one runs at a time, and each finds the process as it left it."""

from __future__ import annotations

import sys
import threading
from types import TracebackType

import torch

from detector.runtime.random_state import preserve_random_state


class Turns:
    """As a context it is a thread's turn, which `wait` passes on.

    For several runs in one process: to each, the random generators, the standard streams and `sys.argv` are
    its own.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._outside = sys.stdout, sys.stderr, sys.argv

    def __enter__(self) -> Turns:
        """Wait for this thread's turn; it begins with what is there outside."""
        self._changed.acquire()
        sys.stdout, sys.stderr, sys.argv = self._outside
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the others go on."""
        sys.stdout, sys.stderr, sys.argv = self._outside
        self._changed.notify_all()
        self._changed.release()

    def wait(self, device: torch.device) -> None:
        """Let the others run until `wake` is called; `device` is the one that this thread works on."""
        streams = sys.stdout, sys.stderr, sys.argv
        with preserve_random_state(device):
            self._changed.wait()
        sys.stdout, sys.stderr, sys.argv = streams

    def wake(self) -> None:
        """Have all that wait look whether they can go on, one after the other, when this turn ends."""
        self._changed.notify_all()
