"""A polite stop: the step in progress is finished first."""

from __future__ import annotations

import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

_HANGUP: signal.Signals | None = getattr(signal, "SIGHUP", None)  # Windows has none


class StopRequest:
    """While entered, Ctrl-C, SIGTERM or SIGHUP sets `signal` instead of breaking off in the middle of a step.

    A second Ctrl-C breaks off at once. `agree` makes of this process's signal the one that all obey, or 0.
    Only the main thread gets signals: entered in another one, it is asked to stop with the main thread's.
    """

    _in_main_thread: StopRequest | None = None  # while it is entered

    def __init__(self, agree: Callable[[int], int] = int) -> None:
        self._agree = agree
        self.signal: signal.Signals | None = None
        self._source = self  # whose signal it is
        self._previous: dict[signal.Signals, Any] = {}

    def __call__(self) -> bool:
        """Whether training should stop after this step: what was agreed, not a signal that came meanwhile."""
        if number := self._agree(self._source.signal or 0):
            self.signal = signal.Signals(number)
        return bool(number)

    @property
    def exit_code(self) -> int:
        """What a shell expects of a process ended by this signal: 130 for Ctrl-C, 143 for SIGTERM, 129."""
        return 0 if self.signal is None else 128 + self.signal.value

    def __enter__(self) -> StopRequest:
        """Take over the signals."""
        if threading.current_thread() is not threading.main_thread():
            self._source = StopRequest._in_main_thread or self
            return self
        StopRequest._in_main_thread = self
        for number in (signal.SIGINT, signal.SIGTERM, _HANGUP):
            if number is None or (number == _HANGUP and signal.getsignal(number) is signal.SIG_IGN):
                continue  # under nohup
            self._previous[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the signals back."""
        if StopRequest._in_main_thread is self:
            StopRequest._in_main_thread = None
        for number, handler in self._previous.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal is not None:
            if number == _HANGUP:
                return  # a terminal that closes sends it twice: by the shell, and by the system
            before = self._previous.get(signal.SIGINT)
            if callable(before):
                before(number, frame)  # which raises it
                return
            raise KeyboardInterrupt
        self.signal = signal.Signals(number)
