"""A run that is killed and goes on has every row on W&B, and has it once."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from tests.loggers.conftest import KEY
from tests.loggers.wandb_file import RunFile
from tests.loggers.wandb_server import Server
from tests.reliability.killing import COMMON, STEPS, TINY, finish, gone, kill, start, until
from tests.starter import Starter
from tests.support import Run, environment

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
EVERY_STEP = list(range(STEPS))


def killed_and_resumed(directory: Path, starter: Starter, mode: str, **env: str) -> Run:
    """Killed with rows 10 to 14 logged after the last checkpoint, and finished."""
    flag = directory.with_name("flag")
    settings = (*COMMON, *TINY, f"tracking.wandb={mode}", "tracking.entity=me", f"run.dir={directory}")
    process = start(starter, settings, ("row-without-checkpoint", 2, flag), **env)
    assert until(flag.exists, process)
    # W&B starts with the first row, and takes longer than these steps.
    assert until(lambda: any(directory.glob("wandb/*run-*/*.wandb")), process)
    orphans = kill(process)
    run = finish(start(starter, ("--resume", str(directory)), **env), directory)
    assert run.code == 0, run.out
    assert [row["step"] for row in run.history] == EVERY_STEP
    assert gone(orphans)  # wandb's own process among them
    return run


def test_offline_the_newest_file_is_the_whole_run(tmp_path: Path, warm_start: Starter) -> None:
    run = killed_and_resumed(tmp_path / "run", warm_start, "offline")
    (folder,) = (run.directory / "wandb").glob("offline-run-*")
    (earlier,) = (run.directory / "wandb/superseded").glob("offline-run-*")
    assert earlier.name < folder.name
    stored = RunFile(next(folder.glob("*.wandb")))
    saved = torch.load(run.directory / "checkpoints/last.pt", weights_only=True)
    assert stored.run.run_id == saved["extra"]["wandb_id"]
    losses = [row["train/loss"] for row in run.history]
    assert [row["step"] for row in stored.history] == EVERY_STEP
    assert [row["train/loss"] for row in stored.history] == losses
    charts = [row["step"] for row in stored.history if any(key.startswith("depth_profile") for key in row)]
    assert charts == [4, 9, 14, 19, 23]

    # And so it is on the server, when a user uploads all there is.
    with Server() as server:
        env = environment() | {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(tmp_path)}
        subprocess.run(
            [sys.executable, "-m", "wandb", "sync", "--yes"],
            env=env, check=True, timeout=200, cwd=run.directory, capture_output=True,
        )  # fmt: skip
        (uploaded,) = server.runs
        rows = server.lines(uploaded, "wandb-history.jsonl")
        assert [row["step"] for row in rows] == EVERY_STEP
        assert [row["train/loss"] for row in rows] == losses


def test_online_rows_that_had_not_been_sent_are_sent(tmp_path: Path, warm_start: Starter) -> None:
    with Server() as server:
        env = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY, "HOME": str(tmp_path)}
        run = killed_and_resumed(tmp_path / "run", warm_start, "online", **env)
        (name,) = server.runs
        rows = server.lines(name, "wandb-history.jsonl")
        assert [row["step"] for row in rows] == EVERY_STEP
        assert [row["train/loss"] for row in rows] == [row["train/loss"] for row in run.history]
        assert server.runs[name]["exit_code"] == 0
