"""What can be wrong with a dataset, in one form for training, the check and its JSON."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.errors import display_path

# An error is what training refuses, a repair what it mends by itself, a warning what costs accuracy or makes
# scores mean less than they seem to, and a note what is only worth knowing.
Severity = Literal["error", "repair", "warning", "note"]
SEVERITIES: tuple[Severity, ...] = ("error", "repair", "warning", "note")


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file or one line; the rest of the dataset is usable without it."""

    file: Path
    line: int | None
    message: str  # what is wrong and the fix
    kind: str = "other"  # a stable word for machines, such as `class-id`
    severity: Severity = "error"
    count: int = 1  # of images or files that this one message is about

    def __str__(self) -> str:
        """`file:line: what is wrong and the fix`."""
        return f"{display_path(self.file)}{'' if self.line is None else f':{self.line}'}: {self.message}"


@dataclass(frozen=True)
class Note:
    """All problems of one kind, as a run says them: one line with how many files or lines and the first."""

    severity: Severity
    kind: str
    count: int
    first: str  # `file:line: what is wrong and the fix`

    def __str__(self) -> str:
        """`repaired (polygon, 12): labels/a.txt:3: the polygon is read as its enclosing box`."""
        number = f", {self.count}" if self.count > 1 else ""
        return f"{_SAID[self.severity]} ({self.kind}{number}): {self.first}"


_SAID = {"error": "skipped", "repair": "repaired", "warning": "warning", "note": "note"}
_COUNTED = {"error": "skipped", "repair": "repaired", "warning": "warnings", "note": "notes"}
_QUIET = {"exif-rotated", "non-ascii-name", "outside"}  # as it should be: for the check only
_FEW = 20  # images; of so few nobody expects that every class is in every split
_OF_FEW = {"empty-class", "missing-from-train", "missing-from-val"}
_OF_THE_WHOLE = {"empty-class", "imbalance", "missing-from-train", "missing-from-val", "tiny"}


def tally(problems: Iterable[Problem]) -> tuple[Note, ...]:
    """One note for each kind of problem, the gravest first."""
    kinds: dict[tuple[Severity, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.severity, problem.kind), []).append(problem)
    notes = [
        Note(*kind, sum(problem.count for problem in members), str(members[0]))
        for kind, members in kinds.items()
    ]
    return tuple(sorted(notes, key=lambda note: SEVERITIES.index(note.severity)))  # stable


def said(notes: Sequence[Note], command: str, images: int) -> list[str]:
    """What a run prints of its data before it trains: a line each kind, then the command that lists all.

    Args:
        notes: of the data.
        command: what lists every problem.
        images: how many there are in all splits.
    """
    lines = [str(note) for note in notes if note.kind not in _QUIET | _OF_THE_WHOLE]
    if whole := [note for note in notes if note.kind in _OF_THE_WHOLE]:
        usual = _OF_FEW if images < _FEW else set()
        parts = [_kinds(note for note in whole if note.kind not in usual)]
        if expected := _kinds(note for note in whole if note.kind in usual):
            parts.append(f"to be expected of {images} images: {expected}")
        lines.append("warning (classes and sizes): " + "; ".join(filter(None, parts)))
    return [*lines, f"all of that, by file and line: {command}"] if lines else []


def _kinds(notes: Iterable[Note]) -> str:
    return ", ".join(note.kind + (f" ({note.count})" if note.count > 1 else "") for note in notes)


def counted(notes: Sequence[Note]) -> dict[str, dict[str, int]]:
    """The same for `summary.json`: `data/repaired` is `{"polygon": 12}`; what there is none of has no key."""
    found: dict[str, dict[str, int]] = {}
    for note in notes:
        found.setdefault(f"data/{_COUNTED[note.severity]}", {})[note.kind] = note.count
    return found
