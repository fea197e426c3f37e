"""docs/wandb.md, executed: its commands run in its order, and what it says of keys is so."""

from __future__ import annotations

import io
import json
import re
import shlex
from pathlib import Path

import pytest

import train
from detector.cli import main
from detector.loggers import curves
from detector.loggers.wandb_logger import _HIDDEN
from tests.support import ROOT

PAGE = (ROOT / "docs" / "wandb.md").read_text(encoding="utf-8")
COMMANDS = [
    line for text in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in text.splitlines()
]


def test_every_block_is_run_or_says_why_not() -> None:
    blocks = list(re.finditer(r"^```(\w+)\n", PAGE, re.MULTILINE))
    assert len(blocks) >= 6
    for block in blocks:
        before = PAGE[: block.start()].splitlines()[-1]
        assert (block[1] == "sh") != bool(re.fullmatch(r"<!-- not run: \w.+ -->", before)), before


def test_the_sections_and_keys_are_what_is_sent() -> None:
    for key in (curves.GLANCE.rstrip("/"), curves.LAYERS.rstrip("/"), *_HIDDEN, *curves.SORTABLE.values()):
        assert f"`{key}`" in PAGE
    example = next(iter(curves.layers({"activation_grad/07_p3.4": 1.0})))
    assert f"`{example}`" in PAGE
    assert curves.log10(0.0) == -40
    assert "0 is at -40" in PAGE


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("coco8")
def test_the_commands(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("tensorboard", "wandb_workspaces"):
        pytest.importorskip(package)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.delenv("WANDB_MODE", raising=False)
    printed = {}
    for command in COMMANDS:
        program, *arguments = shlex.split(command)
        out = io.StringIO()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("sys.stdout", out)
            assert (main(arguments) if program == "detector" else train.main(arguments[1:])) == 0, command
        printed[command] = out.getvalue()
    assert list(tmp_path.glob("runs/first/wandb/offline-run-*/*.wandb"))
    assert not list(tmp_path.glob("runs/board/wandb"))
    assert list(tmp_path.glob("runs/board/tensorboard/*tfevents*"))
    by_config, by_run, yolo = (printed[command] for command in COMMANDS if " dashboard " in command)
    assert "activation_grad/22_p5.1" in by_config
    assert "activation_grad/22_p5.1" in by_run
    assert "activation_grad/09_9.sppf" in yolo
    text, report = (printed[command] for command in COMMANDS if " report " in command)
    assert text.startswith("# Where gradients die")
    assert json.loads(report)["blocks"]
