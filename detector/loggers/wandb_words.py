"""What a run says of itself in words on W&B: notes, an alert, and what is known of its checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from detector.analysis.diagnosis import verdict_of
from detector.rows import Key, Row, by_layer

ALARMING = "vanishing", "dead forward", "collapsed", "underflow", "diverged"
_IN_A_ROW = 3  # evaluations: one may look worse than the run is
_MARK = "Diagnosis: "


class Alert(NamedTuple):
    """What `wandb.Run.alert` is called with."""

    title: str  # less than 64 characters
    text: str


class Alarm:
    """Notices once that a run goes wrong: by its verdict at three evaluations in a row, or at its end."""

    def __init__(self, name: str, *, expected: Sequence[str] = ()) -> None:
        """Watch the run of this name; `expected` are verdicts that are no news."""
        self._name = name
        self._silent = set(expected)
        self._streak: list[str] = []

    def see(self, row: Row) -> Alert | None:
        """Take a row, and return what is to be said."""
        if not {Key.VAL_MAP, Key.VANISHING_INDEX} <= row.keys() or not by_layer(row, Key.ACTIVATION_GRAD):
            return None
        verdict = verdict_of(row)
        self._streak = [*self._streak, verdict] if verdict in self._streak[-1:] else [verdict]
        if len(self._streak) < _IN_A_ROW:
            return None
        value = f"V = {row[Key.VANISHING_INDEX]:+.2f} decades at step {int(row[Key.STEP])}"
        return self._raise(verdict, f"{value}, the same at the two evaluations before.")

    def end(self, summary: Mapping[str, object]) -> Alert | None:
        """Take the summary, and return what is to be said."""
        text = summary.get(Key.DIAGNOSIS) or f"The run ended {summary.get(Key.VERDICT)}."
        return self._raise(str(summary.get(Key.VERDICT)), str(text))

    def _raise(self, verdict: str, text: str) -> Alert | None:
        if verdict not in ALARMING or verdict in self._silent:
            return None
        self._silent.add(verdict)
        return Alert(f"{self._name[:40]}: {verdict}", text)


def notes(before: str | None, summary: Mapping[str, object]) -> str | None:
    """The user's own notes, and below them the diagnosis, in place of an earlier one; None without one."""
    diagnosis = summary.get(Key.DIAGNOSIS)
    if diagnosis is None:
        return None
    own = (before or "").partition(_MARK)[0].rstrip()
    return f"{own}\n\n{_MARK}{diagnosis}" if own else f"{_MARK}{diagnosis}"


def metadata(summary: Mapping[str, object]) -> dict[str, object]:
    """What is worth knowing of a checkpoint before it is downloaded: the summary but for its longer parts."""
    return {
        key: value
        for key, value in summary.items()
        if key != Key.DIAGNOSIS and isinstance(value, bool | int | float | str | None)
    }
