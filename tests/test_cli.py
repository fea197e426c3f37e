"""The `detector` command."""

import subprocess
import sys
from pathlib import Path

import pytest

from detector.cli import main

ROOT = Path(__file__).resolve().parents[1]


def test_info_names_every_trunk_layer_and_the_size(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info", "--config", str(ROOT / "configs/coco8.yaml")]) == 0
    out = capsys.readouterr().out
    assert "00_stem" in out
    assert "22_p5.1" in out
    assert "1.65 M parameters" in out
    assert "80 classes" in out


def test_flops_by_hand(capsys: pytest.CaptureFixture[str]) -> None:
    from torch import nn

    from detector.models.size import measure

    # 2 · k² · c_in · c_out · positions = 2 · 9 · 3 · 8 · 16 · 16
    assert measure(nn.Conv2d(3, 8, 3, padding=1), 16).flops == 2 * 9 * 3 * 8 * 16 * 16


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["info", "--config", "nowhere.yaml"], "nowhere.yaml"),
        (["info", "--config", str(ROOT / "configs/coco8.yaml"), "model.dephts=[1,1,1,1]"], "model.depths"),
    ],
)
def test_mistakes_are_named(arguments: list[str], named: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert named in error
    assert len(error.strip().splitlines()) <= 2


@pytest.mark.parametrize(
    "command",
    [
        ["-m", "detector", "--help"],
        ["-m", "detector", "--version"],
        ["-m", "detector", "ablate", "--help"],
        ["-m", "detector", "predict", "--help"],
        ["-m", "detector", "export", "--help"],
        ["-m", "detector", "ablate", "ablations/suites/factorial.yaml", "--dry-run"],
        ["train.py", "--help"],
    ],
)
def test_help_imports_nothing_heavy(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert done.stdout
    for heavy in ("torch", "ultralytics", "wandb", "cv2", "matplotlib", "numpy"):
        assert f" {heavy}\n" not in done.stderr, heavy


def test_settings_may_stand_on_either_side_of_the_options(capsys: pytest.CaptureFixture[str]) -> None:
    suite = str(ROOT / "ablations/suites/factorial.yaml")
    arguments = ["ablate", suite, "train.steps=7", "--seeds", "1", "--dry-run", "train.lr=0.01"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 8
    assert all("train.steps=7" in line and "train.lr=0.01" in line for line in lines)
    with pytest.raises(SystemExit) as refused:
        main(["ablate", suite, "--sedes", "1"])
    assert refused.value.code == 2
    assert "--sedes" in capsys.readouterr().err
