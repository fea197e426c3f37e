"""A W&B key is read by W&B alone: no file of a run, no printed line and nothing in the home holds it."""

from __future__ import annotations

import secrets
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from tests.support import ROOT, environment

SMALL = (
    "data.image_size=64", "model.depths=[1,1,1,1]", "model.widths=[8,8,8,8,8]", "model.neck_width=8",
    "train.steps=2", "train.batch=1", "train.eval_every=1", "train.device=cpu", "gradients.every=1",
)  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Two labelled pictures."""
    for seed, split in enumerate(("train", "val")):
        for kind in ("images", "labels"):
            (tmp_path / "data" / kind / split).mkdir(parents=True)
        pixels = np.random.default_rng(seed).integers(0, 256, (32, 32, 3), np.uint8)
        cv2.imwrite(str(tmp_path / f"data/images/{split}/x.jpg"), pixels)
        (tmp_path / f"data/labels/{split}/x.txt").write_text("0 0.5 0.5 0.5 0.5\n")
    file = tmp_path / "data/data.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [cat]\n")
    return file


@pytest.mark.slow
@pytest.mark.parametrize(("mode", "place"), [("offline", "environment"), ("online", "netrc")])
def test_the_key_is_nowhere(tmp_path: Path, data: Path, mode: str, place: str) -> None:
    """Online means that it is used: for a server that nobody answers at, so the run ends up offline."""
    key = secrets.token_hex(20)  # of the right form, and nobody's
    home, directory = tmp_path / "home", tmp_path / "run"
    home.mkdir()
    netrc = home / ".netrc"
    variables = {k: v for k, v in environment().items() if k != "NETRC"} | {"HOME": str(home)}
    variables |= {"WANDB_BASE_URL": "http://127.0.0.1:9", "WANDB_ERROR_REPORTING": "false"}
    if place == "environment":
        variables["WANDB_API_KEY"] = key
    else:
        netrc.write_text(f"machine 127.0.0.1:9\n  login user\n  password {key}\n")
        netrc.chmod(0o600)
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *SMALL, f"data.path={data}", f"run.dir={directory}",
         f"tracking.wandb={mode}"],
        cwd=tmp_path, env=variables, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "W&B" in done.stderr and key not in done.stdout + done.stderr
    files = [path for path in tmp_path.rglob("*") if path.is_file() and path != netrc]
    own = {path.name for path in files if path.is_relative_to(directory)}
    assert own >= {"config.yaml", "history.jsonl", "summary.json", "last.pt"}
    assert any(name.endswith(".wandb") for name in own)
    for path in files:
        assert key.encode() not in path.read_bytes(), path
