"""The processes that train one model together, as the rest of the code sees them.

`Ranks` itself is the usual case, one process alone: it changes nothing and waits for nobody, so that a run
on one process is the same, bit for bit, as if this module did not exist. Several processes are
`detector.runtime.distributed.Processes`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from torch import Tensor

T = TypeVar("T")


class Ranks:
    """One process alone. Every method below must be called by all processes, in the same order."""

    rank, world = 0, 1  # this process, and how many there are
    local_rank, local_world = 0, 1  # the same among those on this machine

    @property
    def first(self) -> bool:
        """Whether this is the one process that writes, logs and prints."""
        return self.rank == 0

    def share(self, count: int) -> slice:
        """This process's part of `count` things in a row: nothing left out, nothing twice.

        The parts differ by one at most; where there are fewer things than processes, the last have none.
        """
        return slice(-(-count * self.rank // self.world), -(-count * (self.rank + 1) // self.world))

    def sum(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor; of one shape and type."""
        return tensor

    def stack(self, tensor: Tensor) -> Tensor:
        """Every process's tensor, (processes, …), in the order of their ranks."""
        return tensor[None]

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the first process's."""

    def largest(self, number: int) -> int:
        """The largest of every process's number."""
        return number

    def everyone(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        return [value]

    def collect(self, value: T) -> list[T]:
        """The same on the first process; elsewhere an empty list."""
        return [value]

    def from_first(self, value: T) -> T:
        """The first process's value."""
        return value

    def agree(self, action: Callable[[], T]) -> T:
        """Do something that may fail; where it fails on one process, it fails on all.

        Raises:
            UserError: of the lowest rank that has one.
        """
        return action()

    def in_turn(self, action: Callable[[], T]) -> T:
        """As `agree`, first on one process of each machine: what it downloads, the others find."""
        return action()


ALONE = Ranks()
