"""Now and then."""

import pytest

from detector.loggers import throttle as pace


def test_at_first_and_then_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(pace.time, "monotonic", lambda: now)
    pictures = pace.Pace(10)
    assert pictures.due()
    now = 14.9
    assert not pictures.due()
    assert pictures.due(anyway=True)
    now = 15.1
    assert not pictures.due()  # ten seconds after the last, whatever it was for
    now = 24.9
    assert pictures.due()
