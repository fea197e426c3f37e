"""`detector init`: every file of it works, and nothing is overwritten."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from detector.cli import main
from detector.config.loading import load_config
from detector.rundir import RunDir
from tests.support import TINY


@pytest.mark.slow
def test_every_command_of_the_new_project_s_readme_works(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_names: None, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["init", "mylab"]) == 0
    monkeypatch.chdir(tmp_path / "mylab")
    text = Path("README.md").read_text(encoding="utf-8")
    commands = re.findall(r"^detector .*", text, re.MULTILINE)
    assert {shlex.split(command)[1] for command in commands} >= {
        "check",
        "train",
        "compare",
        "val",
        "predict",
    }
    for command in commands:
        arguments = shlex.split(command)[1:]
        short = [*TINY, "train.steps=2"] if arguments[0] == "train" else []
        assert main([*arguments, *short]) == 0, command + capsys.readouterr().err
    assert RunDir("runs/squared_relu").read_summary()["plugins"].keys() == {"my_parts.py"}
    assert RunDir("runs/no_shortcut").read_config().config.model.shortcut == "none"
    assert main(["ablate", "suite.yaml", "--plugin", "my_parts.py", "--dry-run"]) == 0
    assert capsys.readouterr().out.count("train.seed=") == 9
    used = {word for command in commands for word in shlex.split(command)}
    files = {
        path.relative_to(".").as_posix() for path in Path().rglob("*") if path.suffix in (".yaml", ".py")
    }
    files = {file for file in files if not file.startswith("runs/")}
    assert files - used == {"suite.yaml"}


def test_a_folder_that_holds_something_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    assert main(["init", str(tmp_path)]) == 2
    assert "is not empty, and nothing is overwritten" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


def test_a_base_is_found_by_its_name_after_the_files_beside_it(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: coco8\nmodel: {act: relu}\n")
    assert load_config(file).difference == ["model.act: silu -> relu"]
    (tmp_path / "coco8").write_text("model: {act: tanh}\n")  # what is beside it comes first
    assert load_config(file).difference == ["model.act: tanh -> relu"]
