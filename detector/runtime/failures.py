"""What may befall a run from outside, in words, and what it leaves to go on from."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import torch

from detector.config.schema import Config
from detector.errors import BrokenOffError, UserError
from detector.training.nonfinite_guard import UNDONE

# In whose words memory runs out: PyTorch's on CPUs, the system's, the loader's and OpenCV's.
_MEMORY = "DefaultCPUAllocator", "Cannot allocate memory", "out of memory", "Insufficient memory", "bad_alloc"


@contextmanager
def in_plain_words(config: Config) -> Iterator[None]:
    """Around a whole run.

    Raises:
        UserError, BrokenOffError: one in place of each error that `in_words` knows.
    """
    try:
        yield
    except Exception as error:
        known = in_words(error, config)
        if known is None or known is error:
            raise
        raise known from error


@contextmanager
def resumable(config: Config, last: Path, save: Callable[[], None], command: str) -> Iterator[None]:
    """Around training: whatever breaks it off, leave the newest checkpoint there can be; say how to go on.

    Only a step that was undone is saved: after any other error, weights may be half updated, or a row of the
    history missing. Then the last checkpoint is what there is.

    Args:
        config: of the run.
        last: the checkpoint to go on from.
        save: writes it.
        command: what goes on from it.

    Raises:
        UserError, BrokenOffError: one in place of each error that `in_words` knows, and how to go on.
    """
    try:
        yield
    except Exception as error:
        if UNDONE in getattr(error, "__notes__", ()):
            with suppress(OSError):  # the disk may be what is wrong
                save()
        known = in_words(error, config)
        if known is None:
            raise
        hint = f"\nonce that is mended, go on with: {command}" if last.exists() else ""
        kind = UserError if isinstance(known, UserError) else BrokenOffError
        raise kind(f"{known}{hint}") from error


def in_words(error: Exception, config: Config) -> UserError | BrokenOffError | None:
    """The same for a person; None for an error that is nobody's but the program's."""
    if isinstance(error, UserError | BrokenOffError):
        return error
    if ran_out_of_memory(error):
        return UserError(_out_of_memory(error, config))
    if isinstance(error, OSError) and error.errno is not None:
        where = f"{error.filename}: " if error.filename else ""
        return BrokenOffError(f"{where}{error.strerror}")
    return None


def ran_out_of_memory(error: BaseException) -> bool:
    """Whether memory was asked for that is not there, on a GPU or here."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return any(words in str(error) for words in _MEMORY)


def _out_of_memory(error: Exception, config: Config) -> str:
    """What to do about it.

    Half a batch twice would need less, but it is another experiment: batch norm would see half as many
    images. So the batch stays what the user wrote, and the choice is theirs.
    """
    lines = str(error).strip().splitlines()
    detail = f" ({lines[0].split(' GPU ')[0].strip()[-160:]})" if lines else ""
    batch, size = f"train.batch={config.train.batch}", f"data.image_size={config.data.image_size}"
    rest = ", data.workers" if config.data.workers else ""
    return (
        f"out of memory{detail}: lower {batch}, {size}{rest} or the model's widths in a new run "
        f"(train.accumulate makes up for a smaller batch), or free memory"
    )
