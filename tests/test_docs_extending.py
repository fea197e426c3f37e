"""docs/extending.md, executed: its code blocks are files, and its command lines run, on a tiny network."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import runpy
import shlex
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
import yaml
from PIL import Image
from torch import nn

import train
from detector.cli import main
from detector.config import names
from detector.config.schema import ModelConfig
from detector.rundir import RunDir
from detector.training.metrics import Prediction, Result, Truth
from tests.docs_blocks import blocks
from tests.support import ROOT, TINY, forgetting_names

BLOCKS = [(block.language, block.text) for block in blocks("docs/extending.md")]
FILES = {
    text.splitlines()[0].removeprefix("# "): text
    for language, text in BLOCKS
    if language in ("python", "yaml")
}
COMMANDS = [line for language, text in BLOCKS if language == "sh" for line in text.splitlines()]


def test_every_kind_of_part_has_an_example_and_every_example_a_command() -> None:
    for kind in names.BUILT_IN:
        assert sum(f"@register.{kind}(" in text for text in FILES.values()) == 1, kind
    for file in FILES:
        assert re.fullmatch(r"my_\w+\.(py|yaml)", file)
        assert any(file in shlex.split(command) for command in COMMANDS), file


# --- every command line of the page ----------------------------------------------------------------


class Ran(NamedTuple):
    """What the page's commands left behind, and what they printed."""

    folder: Path
    directories: dict[str, Path]  # command -> its run's
    printed: dict[str, str]

    def run(self, part: str) -> RunDir:
        """The run of the first command that has this part."""
        return RunDir(next(path for command, path in self.directories.items() if part in command))


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> Iterator[Ran]:
    folder = tmp_path_factory.mktemp("mine")
    (folder / "configs").symlink_to(ROOT / "configs")
    for name, text in FILES.items():
        (folder / name).write_text(text)
    (table,) = (text for language, text in BLOCKS if language == "csv")
    (folder / "boxes.csv").write_text(table)
    for name in {row["image"] for row in csv.DictReader(io.StringIO(table))}:
        Image.new("RGB", (64, 52), "gray").save(folder / name)
    ran = Ran(folder, {}, {})
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setenv("WANDB_MODE", "disabled")
        for number, command in enumerate(COMMANDS):
            program, *arguments = shlex.split(command)
            if program == "python" and arguments[0] == "train.py" and "--resume" not in arguments:
                own = [a for a in arguments if a.startswith("run.dir=")]
                directory = own[0].partition("=")[2] if own else f"runs/{number}"
                ran.directories[command] = folder / directory
                # The page's own settings come last, and so count.
                arguments = ["train.py", *TINY, f"run.dir={directory}", *arguments[1:]]
            out = io.StringIO()
            with forgetting_names(), pytest.MonkeyPatch.context() as stdout:  # as a process of its own
                stdout.setattr("sys.stdout", out)
                code = call(program, arguments)
            ran.printed[command] = out.getvalue()
            assert code == 0, command
        yield ran


def call(program: str, arguments: list[str]) -> int:
    """Run a command line in this process."""
    if program == "detector":
        return main(arguments)
    file, *rest = arguments
    if file == "train.py":
        return train.main(rest)
    text, settings = Path(file).read_text(), '["train.steps=4"]'
    assert text.count(settings) == 1
    Path(file).write_text(text.replace(settings, str([*TINY, "run.dir=runs/mine", "train.steps=4"])))
    runpy.run_path(file, run_name="__main__")
    return 0


@pytest.mark.slow
def test_every_run_trained_what_its_command_says(ran: Ran) -> None:
    assert len(ran.directories) >= 10
    for command, directory in ran.directories.items():
        config = yaml.safe_load((directory / "config.yaml").read_text())
        summary = json.loads((directory / "summary.json").read_text())
        assert (summary["status"], summary["steps"]) == ("finished", 4), command
        for setting in (word for word in shlex.split(command) if "=" in word):
            key, _, value = setting.partition("=")
            section, _, name = key.partition(".")
            assert config[section][name] == yaml.safe_load(value), command


@pytest.mark.slow
def test_what_each_part_adds_is_there(ran: Ran) -> None:
    ledger = {row["operation"] for row in ran.run("model.block=bottleneck").read_ledger()}
    assert {"reduce.conv", "conv.norm", "expand.act", "shortcut"} <= ledger
    layers = ran.run("model.name=plain").read_history()[0]
    assert [key for key in layers if key.startswith("activation_grad/")][-1] == "activation_grad/05_conv6"
    assert ran.run("data.format=csv").read_summary()["dataset"] == "boxes"
    logged = ran.run("tracking.loggers").path / "losses.txt"
    history = ran.run("tracking.loggers").read_history()
    assert logged.read_text() == "".join(f"{row['step']} {row['train/loss']:.4f}\n" for row in history)


@pytest.mark.slow
def test_a_metric_is_wherever_a_number_is_read(ran: Ran) -> None:
    run = ran.run("train.metrics=[recall]")
    value = run.read_summary()["val/recall"]
    assert 0 <= value <= 1
    assert run.read_history()[-1]["val/recall"] == value
    (training,) = (text for command, text in ran.printed.items() if "train.metrics" in command)
    assert "val recall" in training
    assert "train recall" in training
    compared = ran.printed["detector compare runs/recall"]
    assert "val recall" in compared


@pytest.mark.slow
def test_a_callback_is_in_the_loop(ran: Ran) -> None:
    assert ran.printed["python my_run.py"].splitlines()[-1].startswith("runs/mine ")
    rows = RunDir(ran.folder / "runs" / "mine").read_history()
    assert all(row["train/weight_norm"] > 0 for row in rows)
    assert (
        rows[-1]["update_ratio/00_stem"] < rows[-1]["update_ratio/01_p2.down"]
    )  # only weight decay moves it


@pytest.mark.slow
def test_a_suite_names_the_plugins_to_its_runs(ran: Ran) -> None:
    (lines,) = (text.splitlines() for command, text in ran.printed.items() if "ablate" in command)
    assert len(lines) == 3
    assert all(line.count("--plugin /") == 2 for line in lines)


# --- the page's parts against what their sources say -------------------------------------------------


@pytest.fixture
def defined(own_names: None) -> dict[str, Any]:
    """Everything that the page's Python files define."""
    found: dict[str, Any] = {}
    for name, text in FILES.items():
        if name.endswith(".py"):
            names_of_file: dict[str, Any] = {"__name__": name.removesuffix(".py")}
            exec(compile(text, name, "exec"), names_of_file)
            found |= names_of_file
    return found


def test_the_activation(defined: dict[str, Any]) -> None:
    x = torch.tensor([0.0, math.pi / 2, -math.pi])
    assert torch.allclose(defined["Snake"]()(x), torch.tensor([0.0, math.pi / 2 + 1, -math.pi]), atol=1e-6)


def test_the_norm_and_the_shortcut(defined: dict[str, Any]) -> None:
    out = defined["RMSNorm"](8)(torch.randn(2, 8, 3, 5))
    assert torch.allclose(out.square().mean(1), torch.ones(2, 3, 5), atol=1e-3)
    one, two = torch.ones(1, 4, 1, 1), torch.full((1, 4, 1, 1), 10.0)
    assert torch.allclose(defined["Scaled"](4)(one, two), torch.full((1, 4, 1, 1), 3.0))  # 1 + 0.2 · 10


def test_the_initialisation(defined: dict[str, Any]) -> None:
    weight, x = torch.empty(4, 4, 3, 3), torch.randn(2, 4, 5, 6)
    defined["dirac"](weight)
    assert torch.equal(nn.functional.conv2d(x, weight, padding=1), x)


def test_the_block_and_the_network_have_the_shapes_they_say(defined: dict[str, Any]) -> None:
    from detector.models.blocks import components

    config = ModelConfig()
    x = torch.rand(2, 16, 5, 7)
    assert defined["Bottleneck"](16, components(config))(x).shape == x.shape
    weights = sum(p.numel() for m in defined["Bottleneck"](16, components(config)).modules()
                  if isinstance(m, nn.Conv2d) for p in m.parameters())  # fmt: skip
    assert weights == 16 * 4 + 9 * 4 * 4 + 4 * 16
    raw = defined["Plain"](config, 3)(torch.rand(2, 3, 128, 64))
    assert raw["scores"].shape == (2, 3, 8 * 4 + 4 * 2 + 2 * 1)
    assert [tuple(f.shape[2:]) for f in raw["feats"]] == [(8, 4), (4, 2), (2, 1)]


def test_the_optimizer_by_hand(defined: dict[str, Any]) -> None:
    weight = nn.Parameter(torch.tensor([1.0, -2.0]))
    lion = defined["Lion"]([weight], lr=0.1, betas=(0.9, 0.99), weight_decay=0.5)
    weight.grad = torch.tensor([4.0, -0.001])
    lion.step()
    # w (1 - lr·wd) - lr·sign(g)
    assert weight.tolist() == pytest.approx([1.0 * 0.95 - 0.1, -2.0 * 0.95 + 0.1])
    # The momentum is (0.04, -0.00001); against it 0.9·0.04 - 0.1·0.3 > 0 keeps the sign.
    weight.grad = torch.tensor([-0.3, -0.001])
    lion.step()
    assert weight.tolist() == pytest.approx([0.85 * 0.95 - 0.1, -1.8 * 0.95 + 0.1])


def test_the_metric_by_hand(defined: dict[str, Any]) -> None:
    def boxes(*corners: tuple[float, ...]) -> Any:
        return np.array(corners, np.float32).reshape(-1, 4)

    truth = Truth(
        boxes((0, 0, 10, 10), (20, 0, 30, 10), (40, 0, 50, 10), (60, 0, 70, 10)), np.arange(4), (99, 9)
    )
    found = Prediction(
        # The first is found; the second has another class, the third too low a score, the fourth is too far.
        boxes((0, 0, 10, 9), (20, 0, 30, 10), (40, 0, 50, 10), (66, 0, 76, 10)),
        np.array([0.9, 0.9, 0.2, 0.9], np.float32),
        np.array([0, 3, 2, 3]),
    )
    nothing = Prediction(boxes(), np.zeros(0, np.float32), np.zeros(0, np.int64))
    assert defined["recall"](Result([truth, truth], [found, nothing], 4)) == 1 / 8
    empty = Truth(boxes(), np.zeros(0, np.int64), (9, 9))
    assert math.isnan(defined["recall"](Result([empty], [nothing], 4)))


def test_the_reader_by_hand(defined: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "x.csv").write_text(
        "split,image,class,left,top,right,bottom\ntrain,a.png,b,10,0,30,20\nval,a.png,a,0,0,40,20\n"
    )
    Image.new("RGB", (40, 20)).save(tmp_path / "a.png")
    dataset = defined["read_csv"](tmp_path / "x.csv")
    assert dataset.names == ("a", "b")
    (item,) = dataset.splits["train"]
    assert (item.boxes.tolist(), item.classes.tolist()) == ([[0.5, 0.5, 0.5, 1.0]], [1])


def test_the_callback_stops_when_the_weights_are_large(defined: dict[str, Any]) -> None:
    callback = defined["MaskAndStop"]()
    weight, row = torch.full((3,), 1000.0), {}
    callback.on_train_begin(SimpleNamespace(model=SimpleNamespace(parameters=lambda: [weight])))
    callback.on_record(row)
    assert row == {"train/weight_norm": pytest.approx(1000 * math.sqrt(3))}
    assert callback.state.should_stop
