"""Work that is worth doing now and then, however fast its occasions follow each other."""

from __future__ import annotations

import time


class Throttle:
    """Says yes at first, and then no more often than every so many seconds."""

    def __init__(self, seconds: float) -> None:
        self.seconds, self._next = seconds, -float("inf")

    def ready(self, force: bool = False) -> bool:
        """Whether it is time, or `force`; if so, the time until the next one begins."""
        now = time.monotonic()
        if not force and now < self._next:
            return False
        self._next = now + self.seconds
        return True
