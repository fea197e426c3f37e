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
    VARIANTS,
    Killer,
    Moment,
    differences,
    finish,
    gone,
    moments,
    start,
    until,
)
from tests.support import Run

Whole = Callable[[str], Run]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "moment" in metafunc.fixturenames:
        metafunc.parametrize("moment", moments(metafunc.config.getoption("--kills")), ids=str)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> Whole:
    """A variant's run that nothing happens to."""
    runs: dict[str, Run] = {}

    def run(variant: str) -> Run:
        if variant not in runs:
            directory = tmp_path_factory.mktemp(variant) / "run"
            settings = (*COMMON, *VARIANTS[variant], "tracking.wandb=disabled", f"run.dir={directory}")
            runs[variant] = finish(start(settings, coco8), directory)
            assert runs[variant].code == 0, runs[variant].out
        return runs[variant]

    return run


def test_a_killed_run_ends_as_if_nothing_had_happened(
    whole: Whole, moment: Moment, tmp_path: Path, coco8: Path
) -> None:
    reference = whole(moment.variant)
    killer = Killer(moment, tmp_path / "run", coco8, reference.summary["seconds"])
    run = killer.run()
    print(f"killed: {', '.join(killer.kills)}")
    assert run.code == 0, run.out
    assert "Traceback" not in run.out
    assert differences(reference, run) == []
    assert sorted(os.listdir(run.directory / "checkpoints")) == ["best.pt", "last.pt"]
    assert gone(killer.orphans)
