"""The real W&B client online, against a stand-in server on the loopback interface."""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from detector.config.schema import Config
from detector.loggers.base import PredictionImage
from detector.loggers.wandb_logger import WandbLogger
from detector.loggers.wandb_session import Start

pytestmark = pytest.mark.slow

Make = Callable[..., list[dict[str, Any]]]
BOUND = 50.0  # seconds that prove a wait is bounded: wandb's own ones are 90 s, or for ever


@pytest.fixture
def server(
    wandb_server_module: ModuleType, wandb_home: Path, monkeypatch: pytest.MonkeyPatch, api_key: str
) -> Iterator[Any]:
    """A running stand-in that the client is pointed to, with a key in the environment."""
    with wandb_server_module.Server() as running:
        monkeypatch.setenv("WANDB_BASE_URL", running.url)
        monkeypatch.setenv("WANDB_API_KEY", api_key)
        yield running
        import wandb

        wandb.teardown()


def _logger(directory: Path, said: list[str], **others: Any) -> WandbLogger:
    directory.mkdir(exist_ok=True)
    config = Config.model_validate({"tracking": {"entity": "me", "project": "gradients"}})
    start = Start(directory, config, "baseline", "coco8", resume_id=others.pop("resume_id", None))
    return WandbLogger(start, report=said.append, **others)


def _impatient(monkeypatch: pytest.MonkeyPatch, init: float = 30, finish: float = 60) -> None:
    monkeypatch.setattr("detector.loggers.wandb_session.INIT_TIMEOUT", init)
    monkeypatch.setattr("detector.loggers.wandb_session.FINISH_TIMEOUT", finish)


def test_a_run_arrives_whole(
    tmp_path: Path,
    server: Any,
    make_history: Make,
    blocks: list[str],
    summary: dict[str, Any],
    make_picture: Callable[..., PredictionImage],
    api_key: str,
) -> None:
    said: list[str] = []
    history = make_history()
    checkpoint = tmp_path / "best.pt"
    checkpoint.write_bytes(b"weights" * 1000)
    logger = _logger(tmp_path / "run", said)
    for row in history:
        logger.log(row)
    logger.predictions(149, [make_picture()])
    logger.finish(summary | {"gradient/diagnosis": "The gradient vanishes."}, checkpoint)
    logger.close()

    run = server.runs[logger.id]
    assert run["groupName"] == "baseline"
    assert run["displayName"] == "baseline-s0"
    assert run["jobType"] == "train"
    assert set(run["tags"]) == {"baseline", "coco8"}
    assert run["exit_code"] == 0
    assert json.loads(run["config"])["train"]["value"]["lr"] == 0.02
    rows = server.lines(logger.id, "wandb-history.jsonl")
    assert [row["_step"] for row in rows] == [row["step"] for row in history]
    for sent, got in zip(history, rows, strict=True):
        assert {f"activation_grad/{block}" for block in blocks} <= got.keys()
        assert got["train/loss"] == sent["train/loss"]
    arrived = server.summary(logger.id)
    assert arrived["best/train/mAP50-95"] == pytest.approx(0.5)
    assert arrived["gradient/verdict"] == "vanishing"
    assert not any(key.startswith(("activation_grad/", "weight_grad/")) for key in arrived)
    assert run["notes"] == "Diagnosis: The gradient vanishes."
    (alert,) = server.alerts
    assert (alert["runName"], alert["title"]) == (logger.id, "baseline-s0: vanishing")
    assert rows[-1]["layer_map/activation_grad"]["_type"] == "plotly-file"
    assert any("layer_map/table" in name for name in server.uploads)
    (model,) = [one for one in server.artifacts if one["artifactTypeName"] == "model"]
    assert json.loads(model["metadata"])["ablation"] == "no_residual"
    assert checkpoint.read_bytes() in server.uploads.values()
    assert server.unknown == []
    assert any(line.startswith("W&B: http") for line in said)  # on a busy machine it waits first, and says so
    for path in (tmp_path / "run").rglob("*"):
        if path.is_file():
            assert api_key.encode() not in path.read_bytes(), path
    assert api_key not in json.dumps([run, rows, arrived], default=str)


def test_a_key_in_netrc_is_enough(
    tmp_path: Path, server: Any, wandb_home: Path, monkeypatch: pytest.MonkeyPatch, api_key: str
) -> None:
    monkeypatch.delenv("WANDB_API_KEY")
    host = server.url.removeprefix("http://")
    (wandb_home / ".netrc").write_text(f"machine {host}\n  login user\n  password {api_key}\n")
    (wandb_home / ".netrc").chmod(0o600)
    said: list[str] = []
    logger = _logger(tmp_path / "run", said)
    logger.log({"step": 0, "train/loss": 1.0})
    logger.close()
    assert logger.id in server.runs, said


def test_resuming_adds_to_the_same_run(tmp_path: Path, server: Any, make_history: Make) -> None:
    said: list[str] = []
    history = make_history()
    logger = _logger(tmp_path / "run", said)
    for row in history[:20]:
        logger.log(row)
    logger.close(130)
    # The checkpoint is older than the last row sent: five rows come again.
    resumed = _logger(tmp_path / "run", said, resume_id=logger.id, history=history[:15])
    for row in history[15:]:
        resumed.log(row)
    resumed.finish({}, None)
    resumed.close()
    assert resumed.id == logger.id
    assert list(server.runs) == [logger.id]
    rows = server.lines(logger.id, "wandb-history.jsonl")
    assert [row["step"] for row in rows] == [row["step"] for row in history]


@pytest.mark.parametrize("status", [500, 401])
def test_a_server_that_answers_errors(
    tmp_path: Path,
    server: Any,
    make_history: Make,
    wandb_file_module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    status: int,
) -> None:
    _impatient(monkeypatch, init=2, finish=5)
    server.failing = status
    said: list[str] = []
    began = time.monotonic()
    logger = _logger(tmp_path / "run", said)
    history = make_history()
    for row in history:
        logger.log(row)
    assert time.monotonic() - began < 1.0, "log waits for the server"
    logger.close()
    assert time.monotonic() - began < BOUND
    assert any("Recording offline" in line for line in said)
    (path,) = (tmp_path / "run").rglob("offline-run-*/*.wandb")
    assert len(wandb_file_module.RunFile(path).history) == len(history)


def test_a_start_that_fails_leaves_the_run_beside_it_alone(
    tmp_path: Path, server: Any, make_history: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Runs that train together share W&B's service process: it is not ended under the one that is open."""
    _impatient(monkeypatch, init=2)
    said: list[str] = []
    history = make_history()
    online = _logger(tmp_path / "online", said)
    for row in history[:10]:
        online.log(row)
    assert online.wait_started(60)
    server.failing = 500
    late = _logger(tmp_path / "late", said)
    late.log(history[0])
    assert late.wait_started(60)
    server.failing = None
    for row in history[10:]:
        online.log(row)
    late.close()
    online.finish({}, None)
    online.close()
    rows = server.lines(online.id, "wandb-history.jsonl")
    assert [row["_step"] for row in rows] == [row["step"] for row in history]


def test_runs_that_begin_together_without_a_server_are_all_recorded_offline(
    tmp_path: Path,
    server: Any,
    make_history: Make,
    wandb_file_module: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    _impatient(monkeypatch, init=2)
    server.failing = 500
    said: list[str] = []
    loggers = [_logger(tmp_path / name, said) for name in "abc"]
    history = make_history()
    for row in history:
        for logger in loggers:
            logger.log(row)
    for logger in loggers:
        logger.close()
    assert sum("Recording offline" in line for line in said) == 3
    for name in "abc":
        (path,) = (tmp_path / name).rglob("offline-run-*/*.wandb")
        assert len(wandb_file_module.RunFile(path).history) == len(history)


def test_a_server_that_breaks_in_mid_run(
    tmp_path: Path, server: Any, make_history: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("detector.loggers.wandb_thread._GRACE", 1.0)
    _impatient(monkeypatch, finish=1)
    said: list[str] = []
    logger = _logger(tmp_path / "run", said)
    assert logger.wait_started(60)
    server.failing = 500
    began = time.monotonic()
    for row in make_history():
        logger.log(row)
    logger.finish({"steps": 150}, None)
    logger.close()
    assert time.monotonic() - began < BOUND
    assert any("wandb sync" in line for line in said), said


@pytest.mark.parametrize("listening", [True, False], ids=["silent", "refused"])
def test_a_server_that_is_not_there(
    tmp_path: Path, wandb_home: Path, monkeypatch: pytest.MonkeyPatch, api_key: str, listening: bool
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, and never answers
        port = silent.getsockname()[1] if listening else 9
        monkeypatch.setenv("WANDB_BASE_URL", f"http://127.0.0.1:{port}")
        monkeypatch.setenv("WANDB_API_KEY", api_key)
        _impatient(monkeypatch, init=2, finish=2)
        said: list[str] = []
        began = time.monotonic()
        logger = _logger(tmp_path / "run", said)
        for step in range(100):
            logger.log({"step": step})
        logger.close()
        assert time.monotonic() - began < BOUND
    assert any("Recording offline" in line for line in said), said
    assert list((tmp_path / "run").rglob("offline-run-*/*.wandb"))


def test_a_malformed_key_is_named_and_not_shown(
    tmp_path: Path, wandb_home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "too-short-secret")
    said: list[str] = []
    logger = _logger(tmp_path / "run", said)
    logger.close()
    assert "WANDB_API_KEY" in said[0]
    assert "too-short-secret" not in "".join(said)


def test_the_thread_ends_with_the_logger(tmp_path: Path, server: Any) -> None:
    logger = _logger(tmp_path / "run", [])
    logger.close()
    logger.close()
    assert not [thread for thread in threading.enumerate() if thread.name == "wandb"]
    assert "WANDB_SERVICE" not in os.environ
