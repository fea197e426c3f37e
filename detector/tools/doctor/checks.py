"""One check and what it found; and which of several is the answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, TypeVar

Verdict = Literal["ok", "fails", "not known"]
T = TypeVar("T")

# In this order: what comes first would spoil what comes after it.
NAMES = (
    "labels", "memorising", "loss", "learning rate", "targets", "evaluation mode", "signal", "gradient",
    "steps", "overfitting", "errors",
)  # fmt: skip


@dataclass(frozen=True)
class Check:
    """What one check found."""

    name: str  # of NAMES
    verdict: Verdict
    evidence: str  # its numbers
    cause: str = ""  # where it fails: a stable word or two, for machines
    says: str = ""  # the same for a person
    change: str = ""  # what to try: a command, or section.key=value
    # Where it fails, it may be a symptom: of these, the first that fails is the cause.
    symptom_of: tuple[str, ...] = ()


@dataclass(frozen=True)
class Diagnosis:
    """All checks, in order, and the answer."""

    target: str
    score: str  # what the run reached, in words
    checks: tuple[Check, ...]
    seconds: float

    @property
    def answer(self) -> Check | None:
        """The first check that fails or, where that is a symptom, the first that explains it."""
        failing = [check for check in self.checks if check.verdict == "fails"]
        if not failing:
            return None
        first = failing[0]
        return next((check for check in failing if check.name in first.symptom_of), first)

    @property
    def exit_code(self) -> int:
        """1 if a cause was found, else 0: as `detector check`."""
        return 0 if self.answer is None else 1


def decided(checks: Sequence[Check]) -> bool:
    """Whether the answer is known, so that nothing else need be looked at."""
    failing = [check for check in checks if check.verdict == "fails"]
    if not failing:
        return False
    causes = failing[0].symptom_of
    seen = {check.name for check in checks}
    return not causes or any(check.name in causes for check in failing[1:]) or seen >= set(causes)


def ok(name: str, evidence: str) -> Check:
    """Nothing wrong."""
    return Check(name, "ok", evidence)


def unknown(name: str, evidence: str) -> Check:
    """It cannot be said, and why."""
    return Check(name, "not known", evidence)


def fails(
    name: str, evidence: str, cause: str, says: str, change: str, symptom_of: tuple[str, ...] = ()
) -> Check:
    """Something wrong: see `Check`."""
    return Check(name, "fails", evidence, cause, says, change, symptom_of)


def share_of(share: float) -> str:
    """`none`, or a percentage; what there is little of is not said to be 0 %."""
    return "none" if not share else "under 1%" if share < 0.01 else f"{share:.0%}"


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of them, evenly spaced."""
    step = -(-len(items) // most)
    return list(items[::step])
