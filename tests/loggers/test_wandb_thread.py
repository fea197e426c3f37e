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
    hanging: Any = SimpleNamespace(finish=lambda exit_code: killed.wait(), offline=False)
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


@pytest.mark.parametrize("offline", [True, False])
def test_what_is_waited_for_is_said_as_it_is(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upload only where there is one, and no run is called complete that may have been interrupted."""
    said, ended = list[str](), threading.Event()

    def report(text: str) -> None:
        said.append(text)
        ended.set()

    run: Any = SimpleNamespace(finish=lambda exit_code: ended.wait(60), offline=offline)
    slow = WandbThread(lambda: run, lambda run: None, report)
    assert slow._waits_for() == "waiting for it to start"
    monkeypatch.setattr(wandb_session, "reset", lambda: None)
    assert slow.wait_opened(60)
    slow.stop(130)
    what = "its file" if offline else "the upload"
    assert said == [f"W&B: waiting for {what}; the run itself has ended."]
