"""Now and then."""

import pytest

from detector.loggers import throttle


def test_at_first_and_then_not_too_often(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 5.0
    monkeypatch.setattr(throttle.time, "monotonic", lambda: now)
    pictures = throttle.Throttle(10)
    assert pictures.ready()
    now = 14.9
    assert not pictures.ready()
    assert pictures.ready(force=True)
    now = 15.1
    assert not pictures.ready()  # ten seconds after the last, whatever it was for
    now = 24.9
    assert pictures.ready()
