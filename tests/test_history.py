"""Rows in little memory: whatever is read from them is what a list of dictionaries would give."""

from __future__ import annotations

import math
import tracemalloc
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from detector.rundir.history import Rows

NUMBERS = st.one_of(st.floats(), st.integers(-(2**53), 2**53), st.booleans())
HISTORIES = st.lists(st.dictionaries(st.sampled_from("abcde"), NUMBERS))


def told(rows: Any) -> str:
    """Every key in its order, with value and type; NaN equals itself."""
    return repr([dict(row) for row in rows])


@given(HISTORIES)
def test_rows_are_those_of_a_list(history: list[dict[str, Any]]) -> None:
    rows = Rows(history)
    assert len(rows) == len(history)
    assert told(rows) == told(history) == told(rows[:])
    assert told(reversed(rows)) == told(reversed(history))
    assert told(rows[1:-1:2]) == told(history[1:-1:2])
    for mine, theirs in zip(rows, history, strict=True):
        assert [key in mine for key in "abcde"] == [key in theirs for key in "abcde"]
        assert [repr(mine.get(key, "none")) for key in "abcde"] == [
            repr(theirs.get(key, "none")) for key in "abcde"
        ]


@given(HISTORIES)
def test_columns_are_those_of_a_list(history: list[dict[str, Any]]) -> None:
    rows = Rows(history)
    assert rows.keys() == list(dict.fromkeys(key for row in history for key in row))
    assert rows.having(lambda key: key in "ab").tolist() == [
        number for number, row in enumerate(history) if "a" in row or "b" in row
    ]
    numbers, values = rows.column("a")
    assert numbers.tolist() == [number for number, row in enumerate(history) if "a" in row]
    np.testing.assert_array_equal(values, [float(row["a"]) for row in history if "a" in row])
    assert rows.not_finite(lambda key: key != "a").tolist() == [
        number
        for number, row in enumerate(history)
        if not all(math.isfinite(value) for key, value in row.items() if key != "a")
    ]


def test_a_number_takes_eight_bytes() -> None:
    keys = [f"activation_grad/{number:02d}" for number in range(70)]
    tracemalloc.start()
    rows = Rows({"step": step, **dict.fromkeys(keys, step + 0.5)} for step in range(4000))
    used, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert used / len(rows) < 71 * 8 * 1.25 + 50
