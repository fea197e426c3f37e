"""docs/any_yolo.md, executed: its command lines run, on fewer and smaller images."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

import train
from detector import compare, fit, load_config
from detector.cli import main
from detector.rundir import RunDir
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.compare.figures import figures
from tests.support import ROOT

PAGE = (ROOT / "docs" / "any_yolo.md").read_text(encoding="utf-8")
COMMANDS = [
    shlex.split(line)
    for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
QUICK = ["data.image_size=64", "train.steps=3", "train.eval_every=null", "train.eval_train=false"]
QUICK += ["gradients.probe=false", "gradients.ledger=false", "gradients.every=1", "tracking.wandb=disabled"]
QUICK += ["tracking.plots=false", "tracking.images=0", "train.threads=1"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> Iterator[Path]:
    made = tmp_path_factory.mktemp("mine")
    (suite,) = re.findall(r"^```yaml\n(# my_blocks\.yaml\n.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    (made / "my_blocks.yaml").write_text(suite)
    (made / "configs").symlink_to(ROOT / "configs")
    theirs = Path(str(import_ultralytics("cfg").__file__)).parent / "models" / "v8" / "yolov8.yaml"
    (made / "my_yolov8.yaml").write_text(theirs.read_text(encoding="utf-8").replace("C2f,", "C3k2,"))
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(made)
        patch.setenv("DETECTOR_DATASETS", str(coco8))
        yield made


@pytest.mark.slow
@pytest.mark.parametrize("command", [c for c in COMMANDS if c[0] == "python"], ids=" ".join)
def test_every_training_runs(command: list[str], folder: Path) -> None:
    directory = folder / f"run{COMMANDS.index(command)}"
    assert train.main([*command[2:], *QUICK, f"run.dir={directory}"]) == 0
    run = RunDir(directory)
    summary = run.read_summary()
    assert summary["status"] == "finished"
    assert f"model.pretrained={summary['model']}" in command
    names = [key for key in run.read_history()[0] if key.startswith("point_activation_grad/")]
    wanted = next((word.partition("=")[2] for word in command if word.startswith("gradients.points=")), "")
    if wanted == "convs":
        assert "point_activation_grad/034_model.10.m.0.attn.qkv" in names  # as the page has it
    assert all(re.search(r"/\d{3}_model\.10\.", name) for name in names) or wanted != "model.10.*"
    assert bool(names) == bool(wanted)


def test_the_points_are_listed(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (command,) = [c for c in COMMANDS if c[:2] == ["detector", "info"]]
    assert main(command[1:]) == 0
    assert "018_model.10.m.0.attn Attention" in capsys.readouterr().out


def test_the_suites_are_there(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    suites = [c for c in COMMANDS if c[:2] == ["detector", "ablate"]]
    assert len(suites) == 3
    for command in suites:
        assert main([*command[1:], "--dry-run"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == (10 if "my_blocks" in command[2] else 30)


@pytest.mark.slow
@pytest.mark.usefixtures("forked_cells")
def test_swapped_blocks_become_a_table(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    quick = [setting for setting in QUICK if "train.steps" not in setting]
    assert main(["ablate", "my_blocks.yaml", "--seeds", "1", "--jobs", "1", *quick, "train.steps=2"]) == 0
    command = next(c for c in COMMANDS if c[:3] == ["detector", "compare", "runs/my_blocks"])
    assert main(command[1:]) == 0
    table, latex = (folder / "table.md").read_text(), (folder / "table.tex").read_text()
    assert "What each network costs and finds" in table
    assert "equal budget in steps: 2 steps of batch 8" in table
    assert r"\caption{What each network costs and finds. shapes at 64 px; equal budget in steps" in latex
    row = next(line for line in table.splitlines() if line.startswith("| baseline") and "3.0" in line)
    assert re.search(r"\| 3\.01 \| 0\.0\d \| [\d.]+ \|", row), row
    assert "more than one thing" not in table  # another file, and one block for another
    assert (folder / "report.html").stat().st_size > 10_000


@pytest.mark.slow
def test_runs_of_stripped_yolos_are_compared_and_their_curves_overlay(folder: Path) -> None:
    for name, config in (("baseline", "coco8"), ("no_residual", "no_residual"), ("relu", "relu")):
        more = [
            "model.pretrained=yolo26n.yaml",
            "gradients.points=blocks",
            f"run.dir={folder / 'stripped' / name}",
        ]
        fit(load_config(config, [*QUICK, *more]))
    page = folder / "stripped.html"
    comparison = compare(folder / "stripped", html=page)
    assert [(group.label, group.changes) for group in comparison.groups] == [
        ("baseline", ()),
        ("no_residual", ("model.shortcut=none",)),
        ("relu", ("model.act=relu",)),
    ]
    drawn = figures(comparison)["inside"]["data"]
    lines = {line["name"]: line for line in drawn if "name" in line}
    assert len(lines) == 3
    assert len({tuple(line["x"]) for line in lines.values()}) == 1
    assert len(lines["baseline, seed 0"]["x"]) == 87
    assert lines["baseline, seed 0"]["y"] != lines["no_residual, seed 0"]["y"]
    assert 'id="inside"' in page.read_text()
    inside = comparison.groups[0].runs[0].curves.inside
    assert inside is not None
    assert inside.layers[0] == "000_model.0"
