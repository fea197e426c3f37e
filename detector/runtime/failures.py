"""Failures from outside a run, explained in a line, and what they leave to resume from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from detector.errors import InterruptedRunError, UserError
from detector.runtime.interrupts import resumable

# In whose words memory runs out: PyTorch's on CPUs, the system's, the loader's and OpenCV's.
_MEMORY = "DefaultCPUAllocator", "Cannot allocate memory", "out of memory", "Insufficient memory", "bad_alloc"


@contextmanager
def explain_errors(memory_advice: str) -> Iterator[None]:
    """Around a whole run.

    Args:
        memory_advice: what to lower when memory runs out.

    Raises:
        UserError, InterruptedRunError: one in place of each error that `as_user_error` knows.
    """
    try:
        yield
    except Exception as error:
        known = as_user_error(error, memory_advice)
        if known is None or known is error:
            raise
        raise known from error


@contextmanager
def checkpoint_on_error(
    save: Callable[[], None], last: Path, resume_command: str, memory_advice: str
) -> Iterator[None]:
    """Around training: whatever interrupts it, leave the newest checkpoint possible, and say how to resume.

    Only a step whose state was restored is saved (see `NonFiniteGuard.attempt`): after any other error,
    weights may be half updated, or a row of the history missing. Then the last checkpoint is what there is.

    Args:
        save: writes a checkpoint.
        last: the newest checkpoint.
        resume_command: what resumes from it.
        memory_advice: what to lower when memory runs out.

    Raises:
        UserError, InterruptedRunError: one in place of each error that `as_user_error` knows.
        KeyboardInterrupt: with the line to print.
    """
    try:
        with resumable(lambda: resume_command if last.exists() else ""):
            yield
    except Exception as error:
        if getattr(error, "state_restored", False):
            with suppress(OSError):  # the disk may be what is wrong
                save()
        known = as_user_error(error, memory_advice)
        if known is None:
            raise
        hint = f"\nFix this, then resume with: {resume_command}" if last.exists() else ""
        kind = UserError if isinstance(known, UserError) else InterruptedRunError
        raise kind(f"{known}{hint}") from error


def as_user_error(error: Exception, memory_advice: str) -> UserError | InterruptedRunError | None:
    """The same error as one line to print; None for one that is the program's own fault.

    Notes on an error for want of memory are advice, too, of whoever saw it pass.
    """
    if isinstance(error, UserError | InterruptedRunError):
        return error
    if ran_out_of_memory(error):
        lines = str(error).strip().splitlines()
        detail = f" ({lines[0].split(' GPU ')[0].strip()[-160:]})" if lines else ""
        advice = "; or ".join([memory_advice, *getattr(error, "__notes__", ())])
        return UserError(f"out of memory{detail}: {advice}")
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return InterruptedRunError(f"{where}{error.strerror}")
    return None


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there, on a GPU or here."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _MEMORY)
