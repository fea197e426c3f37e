"""What a run says in words on W&B."""

from __future__ import annotations

from itertools import pairwise
from typing import Any

import pytest

from detector.loggers.curves import Spread
from detector.loggers.wandb_words import Alarm, metadata, notes


def row(step: int, decades: float, *, evaluated: bool = True) -> dict[str, Any]:
    """A row of nine layers, over which the gradient loses so many decades to the image."""
    norms = {f"activation_grad/{d:02d}_x": 10 ** (decades * d / 8) for d in range(9)}
    index = {"gradient/vanishing_index": -decades, "signal/input_dependence": 0.9}
    return {"step": step} | norms | index | ({"val/mAP50-95": 0.1} if evaluated else {})


def test_three_evaluations_in_a_row_are_an_alert_and_it_is_said_once() -> None:
    alarm = Alarm("baseline-s0")
    rows = [row(0, 6), row(1, 6, evaluated=False), row(2, 0), row(3, 6), row(4, 6), row(5, 6), row(6, 6)]
    said = [alarm.see(one) for one in rows]
    assert [alert is not None for alert in said] == [False] * 5 + [True, False]
    assert said[5] is not None
    assert said[5].title == "baseline-s0: vanishing"
    assert "V = -6.00 decades at step 5" in said[5].text
    assert alarm.end({"gradient/verdict": "vanishing"}) is None
    end = alarm.end({"gradient/verdict": "diverged", "gradient/diagnosis": "NaN in p3."})
    assert end == ("baseline-s0: diverged", "NaN in p3.")


def test_a_resumed_run_does_not_repeat_its_alert() -> None:
    alarm = Alarm("baseline-s0")
    for step in range(4):  # the history that a resumed run starts with
        alarm.see(row(step, 6))
    assert alarm.see(row(4, 6)) is None


@pytest.mark.parametrize("verdict", ["healthy", "exploding", None])
def test_what_trains_is_no_alert(verdict: str | None) -> None:
    assert Alarm("x").end({"gradient/verdict": verdict}) is None


def test_what_is_expected_is_no_news() -> None:
    assert Alarm("x", expected=("diverged",)).end({"gradient/verdict": "diverged"}) is None


def test_a_title_fits_however_long_the_name_is() -> None:
    alert = Alarm("n" * 100).end({"gradient/verdict": "dead forward"})
    assert alert is not None
    assert len(alert.title) < 64  # W&B's limit


def test_a_users_notes_are_kept_and_a_diagnosis_is_replaced() -> None:
    first = notes("mine", {"gradient/diagnosis": "So far it is fine."})
    assert first == "mine\n\nDiagnosis: So far it is fine."
    assert notes(first, {"gradient/diagnosis": "It is fine."}) == "mine\n\nDiagnosis: It is fine."
    assert notes(None, {"gradient/diagnosis": "It is fine."}) == "Diagnosis: It is fine."
    assert notes("mine", {}) is None


def test_metadata_are_plain_values() -> None:
    summary = {"a": 1, "b": None, "c": "x", "d": {"y": 1}, "e": [1], "gradient/diagnosis": "long", "f": True}
    assert metadata(summary) == {"a": 1, "b": None, "c": "x", "f": True}


@pytest.mark.parametrize("count", [0, 1, 5, 10, 11, 12, 100, 1234])
def test_a_spread_has_both_ends_and_even_gaps(count: int) -> None:
    spread = Spread(10)
    for step in range(count):
        spread.add({"step": step})
    steps = [one["step"] for one in spread.rows()]
    assert len(steps) <= 11
    assert steps[:1] + steps[-1:] == ([0, count - 1] if count else [])
    if count > 10:
        assert len(steps) >= 5
        gaps = {b - a for a, b in pairwise(steps[:-1])}  # the last row is wherever it is
        assert len(gaps) == 1
