"""Training on a GPU is training on a CPU. Without a card the same tests compare the CPU with itself."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from benchmarks.speed import gpu, ranks
from benchmarks.speed.network import Training, training
from detector.config.loading import load_config
from detector.config.schema import ModelConfig
from detector.fit import fit
from detector.rundir import RunDir
from detector.training.callbacks import Callback, Row
from detector.training.state import TrainState
from tests.support import TINY

SMALL = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8)
CUDA = pytest.param("cuda", marks=pytest.mark.cuda)
STEPS = 3


@pytest.fixture(autouse=True)
def fp32_means_fp32() -> Iterator[None]:
    parts = torch.backends.cudnn, torch.backends.cuda.matmul
    before = [part.allow_tf32 for part in parts]
    for part in parts:
        part.allow_tf32 = False
    yield
    for part, allowed in zip(parts, before, strict=True):
        part.allow_tf32 = allowed


def trained(
    device: str, model: ModelConfig = SMALL, **settings: Any
) -> tuple[Training, list[dict[str, float]]]:
    """After a few steps on the same images, each recorded."""
    made = training(model, 64, 3, device=device, lr=0.01, **settings)
    seeded = torch.Generator().manual_seed(2)
    made.images = torch.randint(0, 256, (3, 3, 64, 64), dtype=torch.uint8, generator=seeded)
    rows = []
    for _ in range(STEPS):
        made.step(record=True)
        rows.append(made.row)
    return made, rows


@pytest.mark.parametrize("device", ["cpu", CUDA])
@pytest.mark.parametrize("optimizer", ["sgd", "adamw"])
def test_steps_and_what_is_recorded_of_them_are_those_of_a_cpu(device: str, optimizer: str) -> None:
    (made, rows), (one, reference) = (trained(where, optimizer=optimizer) for where in (device, "cpu"))
    # AdamW divides by gradients near zero: the sign of their rounding decides on the second step.
    for row, expected in list(zip(rows, reference, strict=True))[: 1 if optimizer == "adamw" else STEPS]:
        assert row == pytest.approx(expected, rel=2e-3, abs=1e-6)
    if optimizer == "sgd":
        weights = zip(made.state.model.parameters(), one.state.model.parameters(), strict=True)
        assert all(torch.allclose(a.cpu(), b, rtol=1e-3, atol=1e-5) for a, b in weights)


@pytest.mark.parametrize(
    ("device", "precision"),
    [
        ("cpu", "bf16"),
        pytest.param("cuda", "bf16", marks=pytest.mark.cuda),
        pytest.param("cuda", "fp16", marks=pytest.mark.cuda),
    ],
)
def test_low_precision_records_norms_of_the_true_size(device: str, precision: str) -> None:
    """The scaler's factor is taken out again before anything is measured."""
    (_, rows), (_, reference) = trained(device, precision=precision), trained("cpu")
    for key, expected in reference[0].items():
        if key.startswith(("activation_grad/", "train/grad_norm")):
            assert math.isfinite(rows[0][key]) and rows[0][key] == pytest.approx(expected, rel=0.3)


class StopAt(Callback):
    def __init__(self, step: int) -> None:
        self.step = step

    def on_train_begin(self, state: TrainState) -> None:
        self.state = state

    def on_record(self, row: Row) -> None:
        self.state.should_stop = row["step"] == self.step


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_a_run_that_is_resumed_ends_as_one_that_was_not(
    device: str, coco8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    settings = [
        *TINY,
        f"train.device={device}",
        "train.steps=4",
        "gradients.every=1",
        "gradients.probe=false",
    ]
    fit(load_config("coco8", [*settings, "run.dir=whole"]))
    fit(load_config("coco8", [*settings, "run.dir=parts"]), callbacks=[StopAt(1)])
    parts = RunDir("parts")
    assert len(parts.rows()) == 2
    fit(parts.read_config(), resume=parts.path)
    rows, whole = parts.read_history(), RunDir("whole").read_history()
    assert [row["step"] for row in rows] == [0, 1, 2, 3]
    for row, expected in zip(rows, whole, strict=True):
        del row["time/step_ms"], expected["time/step_ms"]
        assert row == pytest.approx(expected, rel=1e-3, abs=1e-6, nan_ok=True)


@pytest.mark.slow
@pytest.mark.parametrize("device", ["cpu", CUDA])
def test_several_processes_with_synchronised_norms_train_as_one(device: str, tmp_path: Path) -> None:
    count = min(2, torch.cuda.device_count()) if device == "cuda" else 2
    many = ranks.run(device, count, 64, 2, tmp_path)
    assert ranks.difference(many, ranks.train(device, 64, 2)) <= ranks.TOLERANCE
    assert len(many["rates"]) == ranks.TIMED and min(many["rates"]) > 0


@pytest.mark.cuda
def test_the_networks_passes_as_graphs_are_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    """What `benchmarks/speed/gpu.py` times is the same training."""
    monkeypatch.setattr(gpu, "STEPS", 2)
    monkeypatch.setattr(gpu, "ROUNDS", 1)
    (row,) = gpu.graphs("cuda", 64, 2)
    assert row.ours and row.theirs
