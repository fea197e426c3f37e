"""docs/any_loop.md, executed: each block that is a file, and the first three lines of each way."""

from __future__ import annotations

import re
import runpy
import shlex
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from detector.cli import main
from detector.rundir import RunDir
from tests.support import ROOT

pytestmark = [
    pytest.mark.slow,
    pytest.mark.filterwarnings("ignore::UserWarning", "ignore::DeprecationWarning", "ignore::FutureWarning"),
]
PAGE = (ROOT / "docs" / "any_loop.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
PYTHON = [text for language, text in BLOCKS if language == "python"]
FILES = {text.splitlines()[0].removeprefix("# "): text for text in PYTHON if text.startswith("# ")}
SNIPPETS = [text for text in PYTHON if not text.startswith("# ")]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    return tmp_path


def run(folder: Path, name: str) -> dict[str, Any]:
    (folder / name).write_text(FILES[name])
    return runpy.run_path(str(folder / name))


def test_every_file_of_the_page_is_run_by_a_test_below() -> None:
    assert sorted(FILES) == [
        "imposed.py",
        "lightning_loop.py",
        "plain_loop.py",
        "retinanet.py",
        "scaled.py",
        "sinks.py",
    ]
    assert len(SNIPPETS) == 3


def test_the_plain_loop_and_its_command(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    left = run(folder, "plain_loop.py")
    assert capsys.readouterr().out.splitlines()[0] == "vanishing"
    assert [row["step"] for row in left["flow"].rows] == [0, 5, 9, 10, 15, 19]
    (commands,) = (text for language, text in BLOCKS if language == "sh")
    for command in commands.splitlines():
        program, *arguments = shlex.split(command)
        assert program == "detector"
        assert main(arguments) == 0
    assert "sigmoid" in capsys.readouterr().out
    assert (folder / "report.html").exists()


def test_all_sinks_at_once(folder: Path) -> None:
    left = run(folder, "sinks.py")
    assert left["rows"] == list(left["flow"].rows) == RunDir(folder / "runs" / "four").read_history()
    assert list((folder / "runs" / "tensorboard").glob("events*"))
    assert list((folder / "wandb").glob("offline-run-*"))


def test_the_scaled_loop(folder: Path) -> None:
    assert [row["step"] for row in run(folder, "scaled.py")["flow"].rows] == [0, 1, 2]


def test_lightning(folder: Path) -> None:
    run(folder, "lightning_loop.py")
    rows = RunDir(folder / "runs" / "lightning").read_history()
    assert [row["step"] for row in rows if "train/loss" in row] == [0, 2, 4, 6]
    assert "val/loss" in rows[-1]


@pytest.mark.parametrize("name", ["retinanet.py", "imposed.py"])
def test_torchvisions_detectors(folder: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    left = run(folder, name)
    printed = capsys.readouterr().out
    if name == "imposed.py":
        assert abs(float(printed)) < 1e-4
        assert list(left["raw"]) == list(left["flow"].layers)
    else:
        (said,) = re.findall(r"# (00_\S+) (\S+)$", FILES[name], re.MULTILINE)
        assert printed.split() == list(said)
        assert RunDir(folder / "runs" / "retinanet").read_summary()["ablation"] == "retinanet"


def test_the_first_three_lines(folder: Path) -> None:
    """Each way's three lines, with what they leave to the reader filled in."""
    model = nn.Sequential(nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 4), nn.Tanh(), nn.Linear(4, 1))
    lines = SNIPPETS[0].splitlines()
    names: dict[str, Any] = {"model": model}
    exec("\n".join(lines[:3]), names)
    names["loss"] = model(torch.ones(2, 4)).sum()
    names["loss"].backward()
    exec("\n".join(lines[3:]), names)
    assert RunDir(folder / "runs" / "mine").read_summary()["steps"] == 1
    trained: list[Any] = []

    class Yolo:
        def __init__(self, name: str) -> None:
            self.name, self.events = name, []

        def add_callback(self, event: str, _callback: Any) -> None:
            self.events.append(event)

        def train(self, **arguments: Any) -> None:
            trained.append((self.name, arguments))
            assert "on_train_end" in self.events

    # The real training is in tests/integrations/test_ultralytics.py.
    exec(SNIPPETS[1].replace("from ultralytics import YOLO", ""), {"YOLO": Yolo})
    assert trained == [("yolo26n.yaml", {"data": "coco8.yaml", "epochs": 100})]

    class Trainer:
        def __init__(self, callbacks: list[Any]) -> None:
            self.callbacks = callbacks

        def fit(self, *_arguments: Any) -> None:
            assert self.callbacks[0].to == ("runs/mine",)

    exec(SNIPPETS[2], {"Trainer": Trainer, "module": None, "loader": None})
