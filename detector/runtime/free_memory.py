"""How much memory this process may still take: what the machine has left, and what its container allows."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path, PurePosixPath

import psutil

SHARED_BY = "DETECTOR_RUNS_AT_ONCE"  # how many runs a suite has at once, each of which takes of it
_PROCESS = Path("/proc/self/cgroup")
_GROUPS = Path("/sys/fs/cgroup")
# The limit, what is taken, and how much of that the kernel gives back when asked, of Linux' control groups:
# https://docs.kernel.org/admin-guide/cgroup-v2.html and .../cgroup-v1/memory.html
_V2 = "memory.max", "memory.current", "inactive_file"
_V1 = "memory.limit_in_bytes", "memory.usage_in_bytes", "total_inactive_file"


def free_memory() -> int:
    """Bytes; where a suite has several runs at once, an equal share of them.

    A container sees all of the machine's, and is killed where it takes more than its own limit.
    """
    free = psutil.virtual_memory().available
    for folder, names in _groups():
        left = _left(folder, *names)
        free = free if left is None else min(free, left)
    beside = os.environ.get(SHARED_BY, "")
    return free // max(1, int(beside) if beside.isdecimal() else 1)


def _groups() -> Iterator[tuple[Path, tuple[str, str, str]]]:
    """The folders of this process's control group and of those around it, with their files' names."""
    try:
        lines = _PROCESS.read_text().splitlines()
    except OSError:  # not Linux
        return
    for line in lines:
        _, controllers, path = line.split(":", 2)
        if controllers == "" or "memory" in controllers.split(","):
            root, names = (_GROUPS, _V2) if controllers == "" else (_GROUPS / "memory", _V1)
            group = PurePosixPath(path)
            # A container that does not see where its group is on the machine finds it at the root.
            yield from ((root / one.relative_to("/"), names) for one in (group, *group.parents))


def _left(folder: Path, limit: str, taken: str, returned: str) -> int | None:
    """What a group may still take; None where it has no limit, or there is no such group."""
    try:
        most, now = (folder / limit).read_text().strip(), int((folder / taken).read_text())
        statistics = dict(line.split() for line in (folder / "memory.stat").read_text().splitlines())
        return None if most == "max" else max(0, int(most) - now + int(statistics.get(returned, 0)))
    except (OSError, ValueError):
        return None
