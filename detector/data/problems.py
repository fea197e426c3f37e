"""What can be wrong with a dataset, in one form for training, the check and its JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.data.data_yaml import shown

Severity = Literal["error", "warning", "note"]


@dataclass(frozen=True)
class Problem:
    """Something wrong with one file or one line; the rest of the dataset is usable without it."""

    file: Path
    line: int | None
    message: str  # what is wrong and the fix
    kind: str = "other"  # a stable word for machines, such as `class-id`
    severity: Severity = "error"  # an error is what training refuses

    def __str__(self) -> str:
        """`file:line: what is wrong and the fix`."""
        return f"{shown(self.file)}{'' if self.line is None else f':{self.line}'}: {self.message}"
