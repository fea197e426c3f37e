"""The progress bar of the commands: on stderr, for whoever watches, and gone when it is done."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from rich.progress import Progress, ProgressColumn

Read = TypeVar("Read")


def track_reading(files: Iterable[Read], total: int) -> Iterator[Read]:
    """Pass a data set's files on as they are read: under a bar, or, without a terminal, after a line."""
    with progress_bar() as bar:
        if bar.disable:
            print(f"reading {total} images and their labels", file=sys.stderr, flush=True)
        yield from bar.track(files, total=total, description="reading")


def progress_bar(*columns: ProgressColumn, transient: bool = True) -> Progress:
    """A bar for `with`: invisible where stderr is no terminal, such as in a log file.

    Args:
        columns: what stands behind the bar; by default how many are done, and the time left.
        transient: whether the bar is wiped when it ends.
    """
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    console = Console(stderr=True, highlight=False)
    return Progress(
        TextColumn("{task.description}", markup=False),  # may be a stranger's file name
        BarColumn(),
        *(columns or (MofNCompleteColumn(), TimeRemainingColumn(compact=True, elapsed_when_finished=True))),
        console=console,
        transient=transient,
        disable=not console.is_terminal,
        refresh_per_second=4,
    )
