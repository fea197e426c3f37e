"""Keep the C library from giving freed memory back after every step, only to ask for it again."""

from __future__ import annotations

import ctypes

# mallopt's names for its settings, from glibc's malloc.h, and the largest values it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = 2**31 - 1, 32 * 2**20


def keep_freed_memory() -> None:
    """Let freed memory wait in this process for the next step instead of going back to the system.

    By default glibc returns what a backward pass frees, and the system clears every page again when the
    next forward pass asks for it: some ten thousand page faults a step, a tenth of its time on a CPU. The
    peak of the memory stays as it is, since the next step needs as much. Without glibc nothing changes.
    """
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError, TypeError):  # macOS, musl, Windows
        return
    mallopt(_MMAP_THRESHOLD, _LARGEST)
    mallopt(_TRIM_THRESHOLD, _NEVER)
