"""A synthetic but realistic run, and W&B kept away from the machine's own account."""

from __future__ import annotations

import importlib.util
import math
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from detector.loggers.base import PredictionImage

_STAGES = {"p2": 2, "p3": 10, "p4": 4, "p5": 2}
KEY = "0123456789abcdef" * 2 + "01234567"  # the right length, and nobody's


def _block_names() -> list[str]:
    names = ["stem"]
    for stage, blocks in _STAGES.items():
        names += [f"{stage}.down", *(f"{stage}.{block}" for block in range(blocks))]
    return [f"{depth:02d}_{name}" for depth, name in enumerate(names)]


@pytest.fixture(scope="session")
def blocks() -> list[str]:
    """The 23 trunk blocks: 00_stem, 01_p2.down, …, 22_p5.1."""
    return _block_names()


@pytest.fixture(scope="session")
def make_history(blocks: list[str]) -> Callable[..., list[dict[str, Any]]]:
    """A function giving a run's rows: no shortcut, so exploding at first and vanishing later."""

    def make(steps: int = 150, every: int = 5, evaluate: int = 50) -> list[dict[str, Any]]:
        rng = np.random.default_rng(0)
        history = []
        for step in sorted({*range(0, steps, every), steps - 1}):
            done = step / max(steps - 1, 1)
            index = 1.45 - 3.5 * done**0.5
            row: dict[str, Any] = {"step": step, "epoch": step}
            loss = 35 * math.exp(-2 * done) + rng.normal(0, 0.3)
            row |= {"train/loss": loss, "train/loss_box": 0.4 * loss, "train/loss_cls": 0.35 * loss}
            row |= {"train/loss_dfl": 0.25 * loss, "train/lr": 0.02 * (1 - done), "train/grad_norm": 3 * loss}
            for depth, name in enumerate(blocks):
                decades = index * (1 - depth / (len(blocks) - 1)) * 1.5
                row[f"activation_grad/{name}"] = 0.01 * 10 ** (decades + rng.normal(0, 0.05))
                row[f"weight_grad/{name}"] = 0.1 * 10 ** (decades * 0.8 + rng.normal(0, 0.05))
                row[f"update_ratio/{name}"] = 1e-3 * 10 ** rng.normal(0, 0.1)
            row |= {"gradient/vanishing_index": index, "gradient/weight_index": 0.9 * index}
            row |= {"signal/input_dependence": 0.9 - 0.2 * done, "time/step_ms": 210.5}
            if step == steps - 1 or (step and step % evaluate == 0):
                row |= {"train/mAP50-95": 0.5 * done, "train/mAP50": 0.7 * done}
                row |= {"val/mAP50-95": 0.0, "val/mAP50": 0.001}
            history.append(row)
        return history

    return make


@pytest.fixture
def summary() -> dict[str, Any]:
    """The summary of that run."""
    return {
        "ablation": "no_residual",
        "seed": 1,
        "dataset": "coco8",
        "steps": 150,
        "epochs": 150,
        "seconds": 33.4,
        "train/mAP50-95": 0.47,
        "train/mAP50": 0.66,
        "val/mAP50-95": 0.0,
        "val/mAP50": 0.001,
        "train/loss": 4.75,
        "gradient/vanishing_index_init": 1.45,
        "gradient/vanishing_index": -1.91,
        "gradient/weight_index_init": 1.3,
        "gradient/verdict_init": "exploding",
        "gradient/verdict": "vanishing",
        "gradient/first_bad_layer": None,
        "signal/input_dependence": 0.71,
        "parameters": 1_650_000,
        "versions": {"python": "3.11.7", "torch": "2.9.0"},
        "commit": "0" * 40,
        "command": "train.py --config ablations/no_residual.yaml",
    }


@pytest.fixture
def make_picture() -> Callable[..., PredictionImage]:
    """A function giving an image with two true boxes and three predictions, one of them outside."""

    def make(name: str = "000000000009.jpg", split: str = "train", side: int = 128) -> PredictionImage:
        return PredictionImage(
            image=np.full((side, side, 3), (30, 60, 90), np.uint8),
            boxes=np.array([[10, 12, 60, 64], [70, 70, 120, 118], [-50, -20, 400, 300]], np.float32),
            classes=np.array([0, 1, 7]),
            scores=np.array([0.91, 0.42, 0.03], np.float32),
            truth_boxes=np.array([[12, 12, 60, 60], [72, 72, 120, 120]], np.float32),
            truth_classes=np.array([0, 1]),
            name=name,
            class_names=("cat", "dog"),
            split=split,
        )

    return make


@pytest.fixture
def wandb_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """W&B with an empty home, no key and no server, and its service stopped afterwards."""
    home = tmp_path / "home"
    home.mkdir()
    for name in ("HOME", "WANDB_CACHE_DIR", "WANDB_DATA_DIR", "WANDB_CONFIG_DIR", "WANDB_ARTIFACT_DIR"):
        monkeypatch.setenv(name, str(home))
    for name in ("WANDB_API_KEY", "WANDB_MODE", "WANDB_RUN_ID", "WANDB_PROJECT", "WANDB_ENTITY", "NETRC"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    # Nothing listens there: a test that goes online by mistake fails at once and reaches nobody.
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    import wandb

    wandb.teardown()
    yield home
    wandb.teardown()


@pytest.fixture
def api_key() -> str:
    """A well-formed key that opens nothing."""
    return KEY


@pytest.fixture(scope="session")
def wandb_server_module() -> ModuleType:
    """The stand-in server; loaded by path, because test folders are no packages."""
    return _load("wandb_server")


@pytest.fixture(scope="session")
def wandb_file_module() -> ModuleType:
    """The reader of W&B's run files."""
    return _load("wandb_file")


def _load(name: str) -> ModuleType:
    path = Path(__file__).with_name(f"{name}.py")
    spec = importlib.util.spec_from_file_location(f"tracking_{name}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module
