"""`detector replay`, on runs whose numbers really break."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from detector.cli import main
from tests.support import Run

TrainPy = Callable[..., Run]
# A learning rate that makes the weights of the second step huge.
BREAKS = (
    "data.image_size=64",
    "train.lr=1e30",
    "train.clip=null",
    "train.warmup_steps=0",
    "train.eval_every=null",
    "tracking.plots=false",
)


@pytest.fixture
def datasets(coco8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))


def contents(directory: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in sorted(directory.rglob("*")) if path.is_file()}


@pytest.mark.slow
@pytest.mark.usefixtures("datasets")
@pytest.mark.parametrize("network", [(), ("model.pretrained=yolov8n.yaml",)])
def test_a_step_is_repeated(
    train_py: TrainPy, capsys: pytest.CaptureFixture[str], network: tuple[str, ...]
) -> None:
    run = train_py(*BREAKS, *network, check=False)
    assert run.code == 3, run.err
    assert f"detector replay {run.directory}" in run.err
    where = run.summary["gradient/first_bad_layer"]
    assert where in run.err and run.summary["gradient/first_bad_operation"] in run.err
    before = contents(run.directory)

    assert main(["replay", str(run.directory)]) == 3
    out = capsys.readouterr().out
    assert f"then       {where}" in out
    assert "now        the same" in out
    assert out.count("000000000009.jpg") == 1
    then, now = (
        line.split()[1:] for line in out.splitlines() if line.startswith(("then", "now")) and "nan" in line
    )
    assert then == now
    assert contents(run.directory) == before  # it only looks

    state = run.directory / "failure" / "state.pt"
    saved = torch.load(state, weights_only=True)
    finite = torch.load(run.directory / "failure" / "state.pt", weights_only=True)["model"]
    for name, weight in finite.items():
        if weight.is_floating_point() and weight.abs().max() > 1e3:
            weight.fill_(1e-3 if "running" not in name else 1.0)
    torch.save(saved | {"model": finite}, state)
    assert main(["replay", str(run.directory)]) == 0
    assert "now        everything is finite" in capsys.readouterr().out

    assert main(["replay", str(run.directory), "train.seed=5", "train.batch=2"]) == 2
    assert "other images" in capsys.readouterr().err


def test_what_cannot_be_replayed_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["replay", str(tmp_path)]) == 2
    assert "this is no run's directory" in capsys.readouterr().err
    assert os.listdir(tmp_path) == []
