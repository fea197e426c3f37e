"""Interrupted equals uninterrupted, bit for bit, wherever a real run is killed.

The long form, 20 moments: pytest tests/reliability/test_resume.py --kills 20
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from tests.reliability.killing import (
    COMMON,
    TINY,
    VARIANTS,
    Killer,
    Moment,
    differences,
    finish,
    gone,
    kill,
    moments,
    start,
    until,
)
from tests.starter import Starter
from tests.support import Run

Whole = Callable[[str], Run]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "moment" in metafunc.fixturenames:
        metafunc.parametrize("moment", moments(metafunc.config.getoption("--kills")), ids=str)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, warm_start: Starter) -> Whole:
    """A variant's run that nothing happens to."""
    runs: dict[str, Run] = {}

    def run(variant: str) -> Run:
        if variant not in runs:
            directory = tmp_path_factory.mktemp(variant) / "run"
            settings = (*COMMON, *VARIANTS[variant], "tracking.wandb=disabled", f"run.dir={directory}")
            runs[variant] = finish(start(warm_start, settings), directory)
            assert runs[variant].code == 0, runs[variant].out
        return runs[variant]

    return run


def test_a_killed_run_ends_as_if_nothing_had_happened(
    whole: Whole, moment: Moment, tmp_path: Path, warm_start: Starter
) -> None:
    reference = whole(moment.variant)
    killer = Killer(moment, tmp_path / "run", warm_start, reference.summary["seconds"])
    run = killer.run()
    print(f"killed: {', '.join(killer.kills)}")
    assert run.code == 0, run.out
    assert "Traceback" not in run.out
    assert differences(reference, run) == []
    assert sorted(os.listdir(run.directory / "checkpoints")) == ["best.pt", "last.pt"]
    assert gone(killer.orphans)


@pytest.mark.parametrize(
    ("variant", "number", "code"), [("plain", signal.SIGINT, 130), ("together", signal.SIGTERM, 143)]
)
def test_a_run_that_is_asked_to_stop_stops_cleanly_and_goes_on(
    whole: Whole, variant: str, number: signal.Signals, code: int, tmp_path: Path, warm_start: Starter
) -> None:
    """Ctrl-C reaches the whole process group, SIGTERM the process alone."""
    reference = whole(variant)
    directory = tmp_path / "run"
    settings = (*COMMON, *VARIANTS[variant], "tracking.wandb=disabled", f"run.dir={directory}")
    process = start(warm_start, settings)
    history = directory / "history.jsonl"
    assert until(lambda: history.exists() and history.read_bytes().count(b"\n") > 2, process)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.send_signal(number)
    stopped = finish(process, directory)
    assert stopped.code == code
    assert "Traceback" not in stopped.out
    assert f"--resume {directory}" in stopped.out
    assert stopped.summary["status"] == "stopped"
    saved = torch.load(directory / "checkpoints/last.pt", weights_only=True)["step"]
    assert 2 < saved == stopped.summary["steps"] == len(stopped.history) < reference.summary["steps"]
    resumed = finish(start(warm_start, ("--resume", str(directory))), directory)
    assert resumed.code == 0, resumed.out
    assert f"resumed at step {saved} of {reference.summary['steps']}\n" in resumed.out
    assert differences(reference, resumed) == []


def test_before_the_first_checkpoint_there_is_nothing_to_go_on_from(
    tmp_path: Path, warm_start: Starter
) -> None:
    """It is written before the first step; a run killed even earlier is begun again."""
    directory, flag = tmp_path / "run", tmp_path / "flag"
    settings = (*COMMON, *TINY, "tracking.wandb=disabled", f"run.dir={directory}")
    process = start(warm_start, settings, ("half-a-checkpoint", 0, flag))
    assert until(flag.exists, process)
    kill(process)
    resumed = finish(start(warm_start, ("--resume", str(directory))), directory)
    assert resumed.code == 2
    assert len(resumed.out.splitlines()) == 1
    assert f"--config {directory}/config.yaml run.dir=" in resumed.out
