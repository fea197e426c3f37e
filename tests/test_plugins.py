"""`--plugin` on every command that may meet a name of one's own, and what each says without it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from detector.cli import main
from detector.config.loading import load_config, save
from detector.jobs.local import LocalProcesses
from detector.jobs.runner import plan, run
from detector.registry import load_plugin, with_plugins
from detector.tools.suites import ray_runner
from detector.tools.suites.ray_runner import Order, train_on_node, unpack
from detector.tools.suites.suite import expand, load_suite
from tests.support import ROOT, TINY, forgetting_names
from tests.tools.suites.test_runner import Quiet, never

BLOCKS = """
import torch
from torch import nn
from detector import register

@register.activation("snake")
class Snake(nn.Module):
    def forward(self, x):
        return x + torch.sin(x) ** 2
"""
METRICS = """
from detector import register

@register.metric("boxes", better="lower")
def boxes(result):
    return sum(len(found.boxes) for found in result.predictions) / len(result.predictions)
"""
OWN = ("model.act=snake", "train.metrics=[boxes]")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("my parts")  # with a space, as folders have
    (folder / "my_blocks.py").write_text(BLOCKS)
    (folder / "my_metrics.py").write_text(METRICS)
    return folder


@pytest.fixture
def both(folder: Path) -> list[str]:
    return ["--plugin", str(folder / "my_blocks.py"), "--plugin", str(folder / "my_metrics.py")]


@pytest.fixture(autouse=True)
def as_in_a_new_process() -> Iterator[None]:
    with forgetting_names():
        yield


def call(*arguments: str) -> int:
    """A command as in a process of its own: what it registers is forgotten with it."""
    with forgetting_names():
        return main(arguments)


@pytest.fixture(scope="module")
def trained(folder: Path, coco8: Path) -> Path:
    """A run of two steps with parts of both plugins, stopped by nobody."""
    files = "--plugin", str(folder / "my_blocks.py"), "--plugin", str(folder / "my_metrics.py")
    assert call("train", *files, *OWN, *TINY, "train.steps=2", f"run.dir={folder / 'run'}") == 0
    return folder / "run"


@pytest.mark.slow
def test_a_run_measures_with_what_its_plugins_bring(trained: Path) -> None:
    summary = json.loads((trained / "summary.json").read_text())
    assert summary["val/boxes"] >= 0
    assert set(summary["plugins"]) == {"my_blocks.py", "my_metrics.py"}
    rows = [json.loads(line) for line in (trained / "history.jsonl").read_text().splitlines()]
    assert rows[-1]["train/boxes"] == summary["train/boxes"]


def test_without_them_each_command_names_what_is_unknown_and_the_option(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, best = tmp_path / "a.png", str(trained / "checkpoints" / "best.pt")
    Image.new("RGB", (40, 30)).save(picture)
    outputs = ["--out", str(tmp_path / "out")]
    for arguments in (
        ["train", "--resume", str(trained)],
        ["reproduce", str(trained), *outputs],
        ["info", "model.act=snake"],
        ["val", best, *outputs],
        ["predict", best, str(picture), *outputs],
        ["export", best, "--format", "torchscript"],
    ):
        assert call(*arguments) == 2, arguments
        lines = capsys.readouterr().err.strip().splitlines()
        assert "snake" in lines[0], arguments
        assert "--plugin" in lines[0], arguments
        assert all("boxes" in line and "--plugin" in line for line in lines[1:]), lines
        if str(trained) in arguments:  # its summary knows the files
            assert len(lines) == 1 and "did you mean" not in lines[0]
            assert "--plugin my_blocks.py --plugin my_metrics.py" in lines[0]
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_with_them_each_command_does_its_work(
    trained: Path, both: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    picture, best = tmp_path / "a.png", str(trained / "checkpoints" / "best.pt")
    Image.new("RGB", (40, 30)).save(picture)
    assert call("info", *both, "model.act=snake") == 0
    assert call("val", best, *both, "--out", str(tmp_path / "val")) == 0
    assert call("predict", *both, best, str(picture), "--out", str(tmp_path / "found")) == 0
    scripted = tmp_path / "net.torchscript"
    assert call("export", best, *both, "--format", "torchscript", "--out", str(scripted)) == 0
    assert scripted.exists()
    assert (tmp_path / "found" / "a.png").exists()
    capsys.readouterr()


def test_a_plugin_that_is_wrong_is_named(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for command in (["train"], ["info"], ["ablate", "factorial", "--dry-run"], ["why", "no_residual"]):
        assert call(*command, "--plugin", str(folder / "none.py")) == 2
        assert "none.py: there is no such Python file" in capsys.readouterr().err


def test_a_command_to_copy_has_the_plugins(folder: Path) -> None:
    assert with_plugins("python train.py --resume x") == "python train.py --resume x"
    load_plugin(folder / "my_blocks.py")
    assert with_plugins("python train.py") == f"python train.py --plugin '{folder / 'my_blocks.py'}'"


def test_a_yaml_brings_in_no_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = tmp_path / "evil.py"
    code.write_text("import pathlib; pathlib.Path(__file__).with_name('ran').touch()")
    for text in (f"plugin: {code}", f"run: {{plugin: {code}}}", f"model: {{act: {code}}}"):
        config = tmp_path / "stranger.yaml"
        config.write_text(text + "\n")
        assert call("train", "--config", str(config)) == 2
        assert "stranger.yaml:1: " in capsys.readouterr().err
    assert not (tmp_path / "ran").exists()


READER = """
import numpy as np
from detector import register
from detector.data.dataset import Item
from detector.data.own import build_dataset

@register.dataset("dots")
def dots(path):
    item = Item((path / "a.png").absolute(), np.array([0]), np.array([[0.5, 0.5, 0.4, 0.4]], np.float32))
    return build_dataset("dots", ["dot"], {"train": [item], "val": [item]})
"""


@pytest.mark.slow
@pytest.mark.usefixtures("forked_cells")
def test_what_trains_on_data_of_one_s_own_also_measures_on_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    Image.effect_noise((40, 40), 100).convert("RGB").save(tmp_path / "a.png")
    (tmp_path / "my_data.py").write_text(READER)
    plugin = "--plugin", str(tmp_path / "my_data.py")
    data = "data.format=dots", f"data.path={tmp_path}"
    assert call("info", *plugin, *data) == 0
    assert "1 classes" in capsys.readouterr().out
    run_dir = tmp_path / "run"
    settings = *TINY, "data.image_size=64", "train.steps=1", "train.batch=1"
    assert call("train", *plugin, *data, *settings, f"run.dir={run_dir}") == 0
    capsys.readouterr()
    assert call("val", str(run_dir), *plugin, "--json", "--out", str(tmp_path / "val")) == 0
    measured = json.loads(capsys.readouterr().out)
    assert (measured["data"], measured["images"]) == (str(tmp_path), 1)
    assert call("val", str(run_dir), *plugin, "--split", "test", "--out", str(tmp_path / "test")) == 2
    assert "it has train, val" in capsys.readouterr().err

    suite = tmp_path / "suite.yaml"
    suite.write_text(f"base: {ROOT / 'configs/coco8.yaml'}\ncells: {{a: {{}}}}\n")
    arguments = *data, *settings, "--seeds", "1", "--out", str(tmp_path / "out")
    assert call("ablate", str(suite), *plugin, *arguments) == 0
    assert json.loads((tmp_path / "out" / "a-s0" / "summary.json").read_text())["dataset"] == "dots"


def suite_file(folder: Path) -> Path:
    path = folder / "acts.yaml"
    base = ROOT / "configs/coco8.yaml"
    path.write_text(
        f"base: {base}\ncells:\n  snake: {{model: {{act: snake}}}}\n  gelu: {{model: {{act: GELU}}}}\n"
    )
    return path


def test_a_suite_hands_them_on_to_its_processes(
    folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plugin = folder / "my_blocks.py"
    suite = str(suite_file(tmp_path))
    assert call("ablate", suite, "--dry-run", "--jobs", "1") == 2
    assert "model.act" in capsys.readouterr().err
    assert call("ablate", suite, "--dry-run", "--jobs", "1", "--plugin", str(plugin)) == 0
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"python train.py --plugin '{plugin}' --config") for line in lines)

    assert call("why", "no_residual", "--seeds", "1", "--dry-run", "model.act=snake") == 2
    assert "model.act" in capsys.readouterr().err
    arguments = "no_residual", "--seeds", "1", "--dry-run", "train.metrics=[]", "--plugin", str(plugin)
    assert call("why", *arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines
    assert all(line.startswith(f"python train.py --plugin '{plugin}' --config") for line in lines)

    load_plugin(plugin)
    program = [sys.executable, "-c", "import sys; print(sys.argv[1:])"]
    jobs = plan(expand(load_suite(Path(suite))), tmp_path / "out")
    run(jobs, LocalProcesses(1, 1, program), Quiet(), never)
    for job in jobs:
        said = (job.directory / "console.log").read_text()
        assert said.startswith(f"['--plugin', '{plugin}', '--config'")


def test_a_node_of_a_cluster_is_sent_their_content(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, coco8: Path
) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.setattr(sys, "path", list(sys.path))
    with forgetting_names():
        load_plugin(folder / "my_blocks.py")
        load_plugin(folder / "my_metrics.py")
        config = load_config(ROOT / "configs/coco8.yaml", [*OWN, *TINY, "train.steps=1"]).config
        save(config, tmp_path / "config.yaml")
        sent = ray_runner.sent_plugins()
    assert sent == (("my_blocks.py", BLOCKS.encode()), ("my_metrics.py", METRICS.encode()))
    order = Order((tmp_path / "config.yaml").read_bytes(), "snake", 1, None, sent)
    code, said, directory = train_on_node(order)
    assert code == 0, said
    unpack(directory, tmp_path / "back")
    assert "act: snake" in (tmp_path / "back" / "config.yaml").read_text()
    assert "val/boxes" in json.loads((tmp_path / "back" / "summary.json").read_text())
