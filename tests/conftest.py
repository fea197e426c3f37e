"""What the end-to-end tests share: the real COCO8, and a way to run `train.py` as a user would."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.support import ROOT, Run, environment


@pytest.fixture(scope="session")
def coco8() -> Path:
    """The folder of the datasets, if COCO8 is in it."""
    folder = Path(os.environ.get("DETECTOR_DATASETS", ROOT / "datasets"))
    folder = folder if folder.is_absolute() else ROOT / folder
    if not (folder / "coco8" / "images" / "train").is_dir():
        pytest.skip(f"COCO8 is not in {folder}: run `python train.py` once, or set DETECTOR_DATASETS")
    return folder


@pytest.fixture
def train_py(tmp_path: Path, coco8: Path) -> Callable[..., Run]:
    """Run `train.py` on COCO8 in a process of its own, on one thread, recorded locally only."""

    def run(*arguments: str, name: str = "run", wandb: str = "disabled", check: bool = True) -> Run:
        directory = tmp_path / name
        resuming = "--resume" in arguments
        settings = () if resuming else (f"run.dir={directory}", "train.threads=1", f"tracking.wandb={wandb}")
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments, *settings],
            cwd=tmp_path,
            env=environment(coco8),
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return Run(directory, done.returncode, done.stdout, done.stderr)

    return run
