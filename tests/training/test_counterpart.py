"""The run to set beside this one: what is suggested can be typed, and compared with the run."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

import train
from detector.cli import main
from detector.config.experiment import experiment, flat
from detector.config.loading import LoadedConfig, find_file, load_config, save
from detector.training.counterpart import COMPARED, counterpart
from detector.training.prepare import FALLBACK
from tests.support import TINY

SHORT = ("train.steps=40", "data.image_size=128")


def typed(command: str) -> LoadedConfig:
    """What `train.py` makes of a command."""
    program, script, option, name, *overrides = shlex.split(command)
    assert (program, script) == ("python", "train.py")
    assert option in ("--ablation", "--config")
    baseline = option == "--ablation" and name == "baseline"
    return load_config("configs/coco8.yaml" if baseline else find_file(name), overrides)


def differing(one: LoadedConfig, other: LoadedConfig) -> set[str]:
    ours, theirs = experiment(one.config), experiment(other.config)
    return {key for key in ours if ours[key] != theirs[key]}


@pytest.mark.parametrize(
    ("file", "overrides", "suggested"),
    [
        ("coco8", (), "--ablation no_residual"),
        ("coco8", SHORT, "--ablation no_residual train.steps=40 data.image_size=128"),
        ("coco8", ("train.seed=3", "train.lr=0.1"), "--ablation no_residual train.seed=3 train.lr=0.1"),
        ("coco8", ("imgsz=64", "train.device=cpu"), "--ablation no_residual imgsz=64 train.device=cpu"),
        ("coco8", ("model.depths=[1, 1, 1, 1]",), "--ablation no_residual 'model.depths=[1, 1, 1, 1]'"),
        ("coco8", ("model.shortcut=residual", *SHORT), f"--ablation no_residual {' '.join(SHORT)}"),
        ("coco8", ("run.name=mine", "run.dir=runs/x", *SHORT), f"--ablation no_residual {' '.join(SHORT)}"),
        # A part that was exchanged by hand: what it is set beside has the usual one.
        ("coco8", ("model.block=fixup", "model.norm=none", *SHORT), f"--ablation baseline {' '.join(SHORT)}"),
        ("coco8", ("model.act=tailored_relu", "model.act_slope=0.8"), "--ablation baseline"),
        ("coco8", ("model.shortcut=none", "train.steps=4"), "--ablation baseline train.steps=4"),
        ("no_residual", (), "--ablation baseline"),
        ("no_residual", ("model.shortcut=gated", *SHORT), f"--ablation baseline {' '.join(SHORT)}"),
        ("no_residual", ("model.act=relu", "run.dir=x"), "--ablation baseline model.act=relu"),
        ("adamw", ("train.lr=0.004", "train.steps=9"), "--ablation baseline train.steps=9"),
        ("no_clip", ("train.seed=1",), "--ablation baseline train.seed=1"),
        ("deep", ("train.epochs=3",), "--ablation baseline train.epochs=3"),
        # fixup cannot be repeated beside a batch norm.
        ("no_batchnorm", ("model.block=fixup", "train.steps=9"), "--ablation baseline train.steps=9"),
        ("shapes", ("model.act=relu", "train.epochs=2"), "--config configs/shapes.yaml train.epochs=2"),
        ("shapes", ("train.epochs=2",),
         "--config configs/shapes.yaml model.shortcut=none run.name=no_residual train.epochs=2"),
    ],
)  # fmt: skip
def test_the_suggestion_repeats_what_was_typed(file: str, overrides: tuple[str, ...], suggested: str) -> None:
    loaded = load_config(file, overrides)
    command = counterpart(loaded)
    assert command == f"python train.py {suggested}"
    other = typed(command)
    assert {key: flat(other.config)[key] for key in COMPARED} == {
        key: flat(loaded.config)[key] for key in COMPARED
    }
    assert other.config.train.seed == loaded.config.train.seed
    assert differing(loaded, other)


def test_of_the_suggestion_for_a_suggestion_the_first_run_comes_back() -> None:
    for file in ("coco8", "shapes"):
        loaded = load_config(file, ["train.steps=7", "train.seed=2"])
        back = typed(counterpart(typed(counterpart(loaded))))
        assert back.config.model_copy(update={"run": loaded.config.run}) == loaded.config


@pytest.mark.parametrize(
    ("text", "suggested"),
    [
        ("base: coco8.yaml\nmodel: {act: relu}\ntrain: {steps: 40}\n", "--ablation baseline train.steps=40"),
        ("base: no_residual.yaml\ntrain: {steps: 40}\n", "--ablation baseline train.steps=40"),
        ("base: shapes.yaml\nmodel: {act: relu}\n", "--config configs/shapes.yaml"),
        (  # an epoch is so many steps as batches, and a batch part of what is compared
            "base: shapes.yaml\nmodel: {act: relu}\ntrain: {epochs: 3, batch: 16}\n",
            "--config configs/shapes.yaml train.epochs=3 train.batch=16",
        ),
        (
            "base: coco8.yaml\ntrain: {steps: 40, lr: 0.1}\n",
            "--config mine.yaml model.shortcut=none run.name=no_residual",
        ),
        (  # without a base, it exchanges parts in the whole network
            "model: {act: relu}\ntrain: {steps: 40}\n",
            "--ablation baseline model.scope=all train.steps=40",
        ),
    ],
)
def test_a_file_of_one_s_own(
    text: str, suggested: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it says of length and data is repeated, what it exchanges is not."""
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(text)
    loaded = load_config("mine.yaml", ["train.seed=5"])
    command = counterpart(loaded)
    words = command.replace(str(FALLBACK), "configs/shapes.yaml").split()
    assert words[:4] == ["python", "train.py", *suggested.split()[:2]]
    assert sorted(words[4:]) == sorted([*suggested.split()[2:], "train.seed=5"])
    other = typed(command)
    assert flat(other.config)["train.steps"] == flat(loaded.config)["train.steps"]
    assert "model.act" in differing(loaded, other) or "model.shortcut" in differing(loaded, other)


@pytest.mark.parametrize("overrides", [(), ("train.seed=4",)])
def test_a_resumed_run_remembers_what_was_typed(tmp_path: Path, overrides: tuple[str, ...]) -> None:
    """Its own file is complete, and says no longer which keys were."""
    for file, changes, first in (
        ("no_residual", ("train.weight_decay=0.00001", "train.epochs=2", "train.clip=null"), "baseline"),
        ("coco8", ("model.act=relu", "train.steps=9"), "baseline"),
        ("coco8", ("train.steps=9", "model.depths=[1, 1, 1, 1]"), "no_residual"),
    ):
        begun = load_config(file, [*changes, *overrides])
        save(begun.config, tmp_path / "config.yaml")
        command = counterpart(load_config(tmp_path / "config.yaml"))
        assert command.startswith(f"python train.py --ablation {first} ")
        assert typed(command).config == typed(counterpart(begun)).config


def test_where_coco8_is_not_here_the_other_run_will_train_on_the_same_set() -> None:
    begun = load_config("no_residual", ["train.seed=4"], fallback=FALLBACK)
    assert begun.config.data.path != "datasets/coco8.yaml"
    assert counterpart(begun) == "python train.py --ablation baseline train.seed=4"


def test_a_file_that_is_gone_costs_the_suggestion_only(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text("base: coco8.yaml\nmodel: {act: relu}\n")
    loaded = load_config(file)
    file.unlink()
    assert counterpart(loaded) == ""


@pytest.mark.slow
@pytest.mark.parametrize("start", [["--ablation", "no_residual"], ["model.act=relu"], []])
def test_the_two_runs_are_compared(
    start: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    first, second = str(tmp_path / "first"), str(tmp_path / "second")
    assert train.main([*start, *TINY, "train.steps=2", f"run.dir={first}"]) == 0
    printed = capsys.readouterr()
    command = re.search(r"Next: python train.py (.*), then detector compare", printed.out + printed.err)
    assert command is not None
    assert train.main([*shlex.split(command[1]), f"run.dir={second}"]) == 0
    assert main(["compare", first, second]) == 0
    changed = "baseline [model.act=relu]" if start == ["model.act=relu"] else "no_residual"
    out = capsys.readouterr().out
    differences = out[out.index("Difference from baseline, paired by seed") :].splitlines()
    assert differences[2].startswith(changed)
