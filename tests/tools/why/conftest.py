"""A tiny dataset, and runs that look as if `detector why` had trained them."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.rows import Key
from detector.rundir import RunDir
from detector.tools.why.cells import Design, design, nine_decades

LAYERS = ["00_stem", "01_p2.down", "02_p2.0", "03_p3.down"]
# Losses as on shapes: the gap is there with both trunks frozen, the curve makes no difference.
LOSSES = {
    "baseline": 4.1, "ablation": 5.7, "baseline_frozen": 5.7, "trunk_frozen": 7.3, "sufficiency": 4.2,
    "necessity": 5.6, "control": 5.6,
}  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A data YAML with two train images and one val image."""
    for seed, name in enumerate(["train/a", "train/b", "val/c"]):
        image, label = tmp_path / "images" / f"{name}.jpg", tmp_path / "labels" / f"{name}.txt"
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), dtype=np.uint8)
        image.write_bytes(cv2.imencode(".jpg", pixels)[1].tobytes())
        label.write_text("0 0.5 0.5 0.5 0.5\n")
    path = tmp_path / "tiny.yaml"
    path.write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    return path


@pytest.fixture
def trained(data: Path, tmp_path: Path) -> Callable[..., Design]:
    """Write finished runs of every cell of an ablation of `data`; some may be left out, or diverge."""

    def make(
        ablation: str = "no_residual",
        seeds: int = 3,
        losses: Mapping[str, float] = LOSSES,
        but: str = "",
        diverged: str = "",
    ) -> Design:
        out = tmp_path / "out"
        plan = design(Path(ablation), str(data), seeds, out)
        for role, cells in plan.cells.items():
            for cell in cells if role != but else ():
                run = RunDir.create(out / cell.name, cell.config)
                writer = run.open_history()
                for step in range(30):
                    loss = 10.0 if step < 10 else losses[role] + 0.01 * cell.seed * (1 + len(role) % 3)
                    row: dict[str, Any] = {"step": step, "epoch": step, Key.LOSS: loss}
                    ratios = nine_decades(LAYERS).values() if role == "control" else (4.0, 3.0, 2.0, 1.0)
                    row |= {Key.ACTIVATION_GRAD + n: r for n, r in zip(LAYERS, ratios, strict=True)}
                    if role in ("control", "sufficiency", "necessity"):
                        row |= {Key.RAW_ACTIVATION_GRAD + n: 1.0 for n in LAYERS}
                    writer.append(row)
                writer.close()
                run.write_summary({
                    "status": "diverged" if role == diverged else "finished", "seconds": 27.0,
                    Key.LOSS: losses[role], Key.VAL_MAP: 1 / losses[role],
                })  # fmt: skip
        return plan

    return make
