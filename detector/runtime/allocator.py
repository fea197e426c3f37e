"""Freed memory: by default the C library gives it back after every step, only to ask for it again."""

from __future__ import annotations

import ctypes
import gc
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

_TRITON = "triton._C.libtriton"
# mallopt's names for its settings, from glibc's malloc.h, and the largest values it takes.
_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3
_NEVER, _LARGEST = 2**31 - 1, 32 * 2**20


def keep_freed_memory() -> None:
    """Let freed memory wait in this process for the next step instead of going back to the system.

    By default glibc returns what a backward pass frees, and the system clears every page again when the
    next forward pass asks for it: some ten thousand page faults a step, a tenth of its time on a CPU. The
    peak of the memory stays as it is, since the next step needs as much. Without glibc nothing changes.
    """
    if (mallopt := _function("mallopt")) is not None:
        mallopt(_MMAP_THRESHOLD, _LARGEST)
        mallopt(_TRIM_THRESHOLD, _NEVER)


def give_freed_memory_back() -> None:
    """Return what is free now. After the last step: what comes then must not add to its peak."""
    if (trim := _function("malloc_trim")) is not None:
        trim(0)


def collect_less_often() -> None:
    """Importing PyTorch makes objects that stay, and Python would look for garbage among them 400 times.

    That is 0.3 of the 2.9 s to the first step; so it is 40 times. What is freed at once, as tensors are,
    needs no such search.
    """
    gc.set_threshold(10_000, 10, 10)


@contextmanager
def gc_paused() -> Iterator[None]:
    """While a million objects are made to stay, Python does not look through all of them again and again."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


def leave_garbage() -> None:
    """At exit Python looks for garbage, among all of PyTorch: that takes most of a second, and is left out.

    Not where Triton was imported, by torchvision's operations or an export to ONNX: it takes what is still
    there at the very end for leaked, and lists it on stderr.
    """
    if _TRITON in sys.modules:
        gc.unfreeze()  # also what was set aside earlier
    else:
        gc.freeze()


def _function(name: str) -> Callable[..., int] | None:
    try:
        found: Callable[..., int] = getattr(ctypes.CDLL(None), name)
    except (OSError, AttributeError, TypeError):  # macOS, musl, Windows
        return None
    return found
