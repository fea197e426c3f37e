"""The thread that W&B lives in, without W&B."""

from __future__ import annotations

import threading
from types import SimpleNamespace
from typing import Any

import pytest

from detector.loggers import wandb_session
from detector.loggers.wandb_thread import WandbThread


def test_the_service_process_is_killed_only_when_nobody_else_uses_it(monkeypatch: pytest.MonkeyPatch) -> None:
    """Runs that train together share it."""
    killed, said = threading.Event(), list[str]()
    monkeypatch.setattr("detector.loggers.wandb_thread._GRACE", 0.1)
    monkeypatch.setattr("detector.loggers.wandb_thread.how_to_sync", lambda run: "")
    for limit in ("INIT_TIMEOUT", "FINISH_TIMEOUT"):
        monkeypatch.setattr(wandb_session, limit, 0.1)
    monkeypatch.setattr(wandb_session, "kill_service", killed.set)
    monkeypatch.setattr(wandb_session, "reset", lambda: None)
    # A run whose service process does not answer, until it is killed.
    hanging: Any = SimpleNamespace(finish=lambda exit_code: killed.wait())
    threads = [WandbThread(lambda: hanging, lambda run: None, said.append) for _ in range(2)]
    for thread in threads:
        assert thread.wait_opened(10)
    threads[0].stop(0)
    assert not killed.is_set() and "given up" in said[-1]
    threads[1].stop(0)
    assert killed.is_set()
    for thread in threads:
        thread._thread.join(10)
    assert not wandb_session.at_work
