"""Run directories made by hand: small, quick to write, and with every number known."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import yaml

from detector.tools.compare import page

LAYERS = ("00_stem", "01_p2.down", "02_p2.0", "03_p3.down", "04_p3.0", "05_p3.1")

MakeRun = Callable[..., Path]
# To pack the 4.5 MB of plotly.js takes longer than the rest of a page. Two: it stays when other figures come.
PACKED = lru_cache(maxsize=2)(page._packed)


@pytest.fixture(autouse=True)
def packed_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """The same bytes are not packed again."""
    monkeypatch.setattr(page, "_packed", PACKED)


def config(name: str, seed: int, steps: int, **changes: Any) -> dict[str, dict[str, Any]]:
    sections: dict[str, dict[str, Any]] = {
        "data": {"path": "datasets/coco8.yaml", "image_size": 64},
        "model": {"act": "silu", "norm": "batch", "shortcut": "residual"},
        "train": {"seed": seed, "steps": steps, "epochs": None, "batch": 4, "lr": 0.02},
        "gradients": {"every": 5},
        "run": {"name": name, "dir": f"somewhere/{name}"},
    }
    for key, value in changes.items():
        section, name = key.split(".")
        sections[section][name] = value
    return sections


def row(step: int, decades: float) -> dict[str, float | int]:
    """A profile that falls by `decades` from the last layer to the first."""
    norms = [10 ** (-decades * (1 - at / (len(LAYERS) - 1))) for at in range(len(LAYERS))]
    return {
        "step": step,
        "epoch": step,
        "train/loss": 10 / (1 + step),
        **{f"activation_grad/{layer}": norm for layer, norm in zip(LAYERS, norms, strict=True)},
        **{f"weight_grad/{layer}": 2 * norm for layer, norm in zip(LAYERS, norms, strict=True)},
        "gradient/vanishing_index": -decades,
        "signal/input_dependence": 0.9,
        **({"train/mAP50-95": 0.5, "val/mAP50-95": 0.0} if step else {}),
    }


@pytest.fixture
def make_run(tmp_path: Path) -> MakeRun:
    """`make_run("baseline", 0, v=-1.5, **{"model.norm": "none"})` -> its directory."""
    return runs_in(tmp_path)


def runs_in(parent: Path) -> MakeRun:
    """What makes runs in the folder `runs` in this one."""

    def make(
        name: str = "baseline",
        seed: int = 0,
        *,
        v: float = 0.5,
        late: float = 1.0,
        train_map: float = 0.9,
        steps: int = 20,
        folder: str | None = None,
        summary: dict[str, Any] | None = None,
        **changes: Any,
    ) -> Path:
        directory = parent / "runs" / (folder or f"{name}-s{seed}".replace("/", "_"))
        directory.mkdir(parents=True)
        text = yaml.safe_dump(config(name, seed, steps, **changes))
        (directory / "config.yaml").write_text(text, encoding="utf-8")
        recorded = [*range(0, steps, 5), steps - 1]
        lines = [json.dumps(row(step, -v if step == 0 else -late)) for step in recorded]
        (directory / "history.jsonl").write_text("\n".join(lines) + "\n")
        (directory / "summary.json").write_text(
            json.dumps(
                {
                    "ablation": name,
                    "seed": seed,
                    "dataset": "coco8",
                    "status": "finished",
                    "steps": steps,
                    "seconds": 12.0,
                    "train/loss": 0.5,
                    "train/mAP50-95": train_map,
                    "val/mAP50-95": 0.0,
                    "gradient/vanishing_index_init": v,
                    "gradient/vanishing_index": late,
                    "gradient/verdict_init": "healthy",
                    "gradient/verdict": "healthy",
                    "data_fingerprint": "a" * 64,
                    "commit": "c" * 40,
                }
                | (summary or {})
            )
        )
        return directory

    return make
