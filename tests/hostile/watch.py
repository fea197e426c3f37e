"""What a command takes while it meets a bad file: memory at its peak, and connections that it asks for."""

from __future__ import annotations

import os
import resource
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

MOST = 8 * 2**30  # bytes of address space beyond what there is: a bomb ends the command, not the machine


@dataclass
class Watched:
    """Filled in when the command has ended."""

    grown: int = 0  # bytes of resident memory at the peak, beyond those at the beginning
    connections: list[str] = field(default_factory=list)


def _status(key: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    (line,) = [line for line in lines if line.startswith(f"{key}:")]
    return 1024 * int(line.split()[1])


@contextmanager
def watched() -> Iterator[Watched]:
    """Measure what this process takes meanwhile (Linux: elsewhere 0), and refuse every connection."""
    found = Watched()

    def refuse(*arguments: Any, **_: Any) -> None:
        found.connections.append(str(arguments[-1])[:80])
        raise OSError("a test has no network")

    measured = os.access("/proc/self/clear_refs", os.W_OK)
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with pytest.MonkeyPatch.context() as patch:
        for name in ("connect", "connect_ex", "sendto"):
            patch.setattr(socket.socket, name, refuse)
        patch.setattr(socket, "getaddrinfo", refuse)
        if measured:
            Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here: man 5 proc
            before = _status("VmRSS")
            resource.setrlimit(resource.RLIMIT_AS, (_status("VmSize") + MOST, limits[1]))
        try:
            yield found
        finally:
            if measured:
                found.grown = _status("VmHWM") - before
                resource.setrlimit(resource.RLIMIT_AS, limits)
