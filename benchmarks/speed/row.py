"""One line of the table, and the way its two sides are timed: in turns, in one process, on one core."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from statistics import median

Times = dict[str, list[float]]  # of each side


@dataclass(frozen=True)
class Row:
    """A figure of ours beside a peer's.

    `ours` and `theirs` are all measurements, in `unit`, in the order they were made; the table shows their
    medians and spread. What is judged against `target` is `value`: the ratio of the two medians, or, where
    `absolute`, our median alone.
    """

    what: str  # is measured, with its conditions: network, image size, batch
    peer: str  # what it is measured against
    unit: str
    ours: Sequence[float]
    theirs: Sequence[float]
    target: float  # the largest value that meets it, or the smallest one where `at_least`
    absolute: bool = False
    at_least: bool = False
    note: str = ""  # what a reader must know to trust it, such as the accuracy of both sides

    @property
    def value(self) -> float:
        """What is judged: ours / theirs, or ours."""
        return median(self.ours) if self.absolute else median(self.ours) / median(self.theirs)

    @property
    def met(self) -> bool:
        """Whether the target is."""
        return self.value >= self.target if self.at_least else self.value <= self.target


def in_turns(sides: Mapping[str, Callable[[], object]], rounds: int, warm_up: int = 1) -> Times:
    """Time each side once a round, so that a machine that grows slower does so for all of them.

    Args:
        sides: what to time, by name.
        rounds: how many measurements of each.
        warm_up: rounds before, not counted.

    Returns:
        Seconds of each call, by name.
    """
    times: Times = {name: [] for name in sides}
    for round_ in range(-warm_up, rounds):
        for name, call in sides.items():
            started = time.perf_counter()
            call()
            if round_ >= 0:
                times[name].append(time.perf_counter() - started)
    return times
