"""What the doctor found, for a person at 80 columns or as one JSON document."""

from __future__ import annotations

import dataclasses
import json
import textwrap
from collections.abc import Iterator

from detector.errors import escape_control
from detector.tools.doctor.checks import Check, Diagnosis

WIDTH = 80
_INDENT = " " * 27  # a check's name and verdict


def to_json(diagnosis: Diagnosis) -> str:
    """The keys are part of the public interface."""
    cause = diagnosis.answer
    document = {
        "target": diagnosis.target,
        "verdict": "clear" if cause is None else "cause found",
        "score": diagnosis.score,
        "checks": [dataclasses.asdict(check) for check in diagnosis.checks],
        "answer": cause
        and {"check": cause.name, "cause": cause.cause, "says": cause.says, "change": cause.change},
        "seconds": round(diagnosis.seconds, 1),
    }
    return json.dumps(document, indent=1)


def title(target: str, score: str) -> str:
    """What is looked at, and how good it is."""
    return escape_control(f"{target}: {score}" if score else target)


def answer(diagnosis: Diagnosis) -> Iterator[str]:
    """Below the checks: the cause, and the change to try."""
    cause = diagnosis.answer
    yield ""
    if cause is None:
        yield from _wrapped("None of the checks fails." + (_OPEN if _open(diagnosis) else ""), "")
        return
    first = next(check for check in diagnosis.checks if check.verdict == "fails")
    symptom = "" if first is cause else f" (and so {first.name} fails)"
    yield from _wrapped(f"Answer: {cause.says}{symptom}.", "        ")
    yield from _wrapped(f"Try:    {cause.change}", "        ")


_OPEN = " Some could not be made: see above."


def _open(diagnosis: Diagnosis) -> bool:
    return any(check.verdict == "not known" for check in diagnosis.checks)


def line(check: Check) -> Iterator[str]:
    """One check: `evaluation mode   ok   loss 2.3 …`, folded below its numbers."""
    yield from _wrapped(f"{check.name:<16} {check.verdict:<9} {check.evidence}", _INDENT)


def _wrapped(text: str, indent: str) -> list[str]:
    return textwrap.wrap(
        escape_control(text), WIDTH, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    )
