"""Which of torchrun's processes this is, and what they leave for the processes started after them.

torchrun's agent starts the processes, ends them all when one of them fails, and starts new ones. It keeps a
small store of keys and values, which outlives the processes. Here it holds the run's directory, so that new
processes resume that run, and how the run ended, so that a restart does not undo an intended end.
"""

from __future__ import annotations

import os
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from detector.errors import UserError, say, shorten
from detector.runtime.files import INSTALLED, TRAIN

if TYPE_CHECKING:
    from torch.distributed.distributed_c10d import Store

PREFIX = "detector"  # the store is shared with torchrun's own keys
ADDRESS = "MASTER_ADDR", "MASTER_PORT"
CONNECT = 60.0  # seconds; the store is there before the processes are


class LostContactError(Exception):
    """Another process is gone, or did not answer in time."""


def _number(name: str, least: int, most: int = 10**6) -> int:
    text = os.environ[name]
    if text.isascii() and text.isdigit() and len(text) < 8 and least <= int(text) <= most:
        return int(text)
    raise UserError(
        f"{name}={shorten(text)}: torchrun sets it to a number from {least} to {most}; "
        "unset RANK and WORLD_SIZE to train in one process"
    )


@dataclass(frozen=True)
class Launch:
    """How this process was started. By default: alone, by hand."""

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1
    managed: bool = False  # by an agent, which also keeps the store
    address: tuple[str, int] | None = None  # of the store; None: there is none

    @classmethod
    def from_environment(cls) -> Launch:
        """What torchrun, or a script that sets the same variables, says.

        Raises:
            UserError: one of them is no number, or out of range.
        """
        env = os.environ
        if not all(name in env for name in ("RANK", "WORLD_SIZE", *ADDRESS)):
            return cls()
        world_size = _number("WORLD_SIZE", 1)
        rank = _number("RANK", 0, world_size - 1)
        local_size = _number("LOCAL_WORLD_SIZE", 1, world_size) if "LOCAL_WORLD_SIZE" in env else world_size
        return cls(
            rank=rank,
            world_size=world_size,
            local_rank=_number("LOCAL_RANK", 0, local_size - 1) if "LOCAL_RANK" in env else rank,
            local_world_size=local_size,
            managed=env.get("TORCHELASTIC_USE_AGENT_STORE") == "True",
            address=(env["MASTER_ADDR"], _number("MASTER_PORT", 0, 65535)),
        )

    @property
    def launcher(self) -> str:
        """How a person starts train.py in the same way."""
        if self.world_size == 1:
            return TRAIN
        return f"torchrun … {'-m detector train' if INSTALLED else 'train.py'}"

    def rendezvous(self, timeout: float) -> Store:
        """Wait for the other processes; a store for these very ones.

        Those of an earlier attempt left their addresses in the agent's store, and how often a machine was
        restarted differs from machine to machine: so the first process draws a number for this attempt and
        tells it to each process that can show it is alive.

        Raises:
            RuntimeError: not all came in time.
        """
        from torch.distributed.distributed_c10d import PrefixStore

        store = self._connect(timeout)
        if self.rank:
            word = secrets.token_hex(8)
            store.set(f"hello/{self.rank}", word)
            attempt = int(store.get(f"welcome/{word}"))
            store.add(f"here/{attempt}", 1)
            return PrefixStore(f"attempt/{attempt}", store)
        attempt = store.add("attempts", 1)
        deadline = time.monotonic() + timeout
        while store.add(f"here/{attempt}", 0) < self.world_size - 1:
            for rank in range(1, self.world_size):
                if store.check([f"hello/{rank}"]):  # perhaps of a process that is gone: it does no harm
                    store.set(f"welcome/{store.get(f'hello/{rank}').decode()}", str(attempt))
            if time.monotonic() > deadline:
                raise RuntimeError(f"not all {self.world_size} processes came within {timeout:.0f} s")
            time.sleep(0.01)
        return PrefixStore(f"attempt/{attempt}", store)

    def publish(self, key: str, value: str) -> None:
        """Leave a value for the processes that the agent starts after these."""
        if self.managed:
            self._connect().set(f"note/{key}", value)

    def lookup(self, key: str) -> str | None:
        """What earlier processes published under this key, if anything."""
        if not self.managed:
            return None
        store = self._connect()
        return store.get(f"note/{key}").decode() if store.check([f"note/{key}"]) else None

    def say_once(self, text: str) -> None:
        """Print why the run ends, once: whichever process comes first."""
        if not self.managed or self._connect().add("said", 1) == 1:
            say(text)

    def _connect(self, timeout: float = CONNECT) -> Store:
        from datetime import timedelta

        from torch._C._distributed_c10d import PrefixStore, TCPStore

        assert self.address is not None
        host, port = self.address
        serves = self.rank == 0 and not self.managed
        wait = timedelta(seconds=timeout)
        return PrefixStore(
            PREFIX, TCPStore(host, port, is_master=serves, timeout=wait, wait_for_workers=False)
        )
