"""`train.py` from end to end, as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml

import train as front_door
from detector import Callback, cli, fit, load_config
from detector.config.schema import ModelConfig
from detector.models.detector import build_detector
from detector.training.callbacks import Row
from detector.training.state import TrainState
from tests.data.preflight_data import SPOILED, make_dataset
from tests.loggers import wandb_file
from tests.starter import Starter
from tests.support import ROOT, TINY, Run, environment

TRUNK = list(build_detector(ModelConfig(), 80).backbone_layers())
QUICK = ("data.image_size=64", "train.steps=12", "train.eval_every=6", "gradients.every=3")
SUMMARY = {
    "ablation", "seed", "dataset", "steps", "epochs", "seconds", "train/mAP50-95", "train/mAP50",
    "val/mAP50-95", "val/mAP50", "train/loss", "gradient/vanishing_index_init", "gradient/vanishing_index",
    "gradient/weight_index_init", "gradient/verdict_init", "gradient/verdict", "gradient/first_bad_layer",
    "signal/input_dependence", "parameters", "versions", "commit", "command",
}  # fmt: skip
TrainPy = Callable[..., Run]


def test_keys_may_stand_anywhere_on_the_command_line(capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["train.seed=-1", "--config", str(ROOT / "configs/coco8.yaml"), "train.batch=0"]
    assert front_door.main(arguments) == 2
    errors = capsys.readouterr().err
    assert "train.seed" in errors
    assert "train.batch" in errors


def without_times(rows: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{k: v for k, v in row.items() if not k.startswith("time/")} for row in rows]


@pytest.fixture(scope="module")
def run(warm_start: Starter, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The network as shipped on smaller images, recorded by W&B too."""
    directory = tmp_path_factory.mktemp("quick") / "run"
    settings = (f"run.dir={directory}", "train.threads=1", "tracking.wandb=offline")
    ended = warm_start.end(warm_start.start((*QUICK, *settings)), directory, limit=900)
    assert ended.code == 0, ended.err
    return ended


@pytest.mark.slow
def test_a_run_leaves_everything_behind(run: Run) -> None:
    for name in (
        "config.yaml",
        "history.jsonl",
        "summary.json",
        "checkpoints/last.pt",
        "checkpoints/best.pt",
        "plots/train_batch.png",
    ):
        assert (run.directory / name).stat().st_size > 0, name
    assert len(list((run.directory / "plots").glob("*.png"))) >= 3
    assert run.summary.keys() >= SUMMARY
    assert run.summary["ablation"] == "baseline"
    assert run.summary["steps"] == 12
    assert [row["step"] for row in run.history] == [0, 3, 5, 6, 9, 11]
    for row in run.history:
        for name in TRUNK:
            assert row[f"activation_grad/{name}"] > 0
            assert row[f"weight_grad/{name}"] > 0
            assert row[f"update_ratio/{name}"] > 0
    evaluated = [row["step"] for row in run.history if "val/mAP50-95" in row and "train/mAP50-95" in row]
    assert evaluated == [5, 11]
    assert run.summary["gradient/vanishing_index_init"] == run.history[0]["gradient/vanishing_index"]
    assert "train mAP50-95" in run.out


@pytest.mark.slow
def test_a_checkpoint_loads_without_running_code(run: Run) -> None:
    state = torch.load(run.directory / "checkpoints/best.pt", weights_only=True)
    model = build_detector(ModelConfig(), 80)
    model.load_state_dict(state["model"])
    assert len(state["extra"]["names"]) == 80


@pytest.mark.slow
@pytest.mark.timeout(900)  # three whole trainings
def test_the_same_command_gives_the_same_history(train_py: TrainPy) -> None:
    settings = (*QUICK, "data.fliplr=0.5", "data.scale=0.3", "data.workers=1", "tracking.plots=false")
    one, two = train_py(*settings, name="one"), train_py(*settings, name="two")
    assert without_times(one.history) == without_times(two.history)
    other = train_py(*settings, "train.seed=1", name="other")
    assert without_times(one.history) != without_times(other.history)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["model.shortcutt=none"], "model.shortcut"),
        (["train.lr=fast"], "train.lr"),
        (["train.batch=0"], "train.batch"),
        (["--config", "missing.yaml"], "missing.yaml"),
        (["data.path=missing.yaml"], "missing.yaml"),
        (["train.device=cuda:99"], "train.device"),
        (["--resume", "nowhere"], "nowhere"),
    ],
)
def test_mistakes_are_named_in_two_lines(train_py: TrainPy, arguments: list[str], named: str) -> None:
    run = train_py(*arguments, check=False)
    assert run.code == 2
    assert named in run.err
    assert "Traceback" not in run.err
    assert len(run.err.strip().splitlines()) <= 2
    assert not run.directory.exists()


@pytest.mark.slow
def test_a_run_is_never_overwritten(run: Run, train_py: TrainPy) -> None:
    before = (run.directory / "history.jsonl").read_bytes()
    again = train_py(*QUICK, name=str(run.directory), check=False)
    assert again.code == 2
    assert "--resume" in again.err
    assert (run.directory / "history.jsonl").read_bytes() == before


@pytest.mark.slow
def test_divergence_is_exit_3_unless_it_is_the_finding(train_py: TrainPy) -> None:
    file = str(ROOT / "ablations/no_batchnorm_no_clip.yaml")
    config = ("--config", file, "model.scope=all", "data.image_size=128", "tracking.plots=false")
    stopped = train_py(*config, "train.on_nonfinite=stop", name="stopped", check=False)
    assert stopped.code == 3
    recorded = train_py(*config, name="recorded")
    for run in (stopped, recorded):
        assert run.summary["gradient/verdict"] == "diverged"
        assert run.summary["gradient/first_bad_layer"] in run.err
        assert run.summary["steps"] < 20


@pytest.mark.slow
def test_bad_labels_are_named_before_training(train_py: TrainPy, coco8: Path, tmp_path: Path) -> None:
    import shutil

    mine = tmp_path / "mine"
    shutil.copytree(coco8 / "coco8", mine)
    label = mine / "labels/train/000000000009.txt"
    label.write_text(label.read_text() + "0 0.5 0.5 1.5 0.2\n0 0.5 0.5\n")
    lines = len(label.read_text().splitlines())
    data = mine / "data.yaml"
    data.write_text(
        yaml.safe_dump({"train": "images/train", "val": "images/val", "names": [str(i) for i in range(80)]})
    )
    before = sorted(path for path in mine.rglob("*"))
    quick = (*QUICK, *TINY, "data.image_size=64", f"data.path={data}")
    run = train_py(*quick, check=False)
    assert run.code == 2
    assert f"000000000009.txt:{lines - 1}" in run.err
    assert f"000000000009.txt:{lines}" in run.err
    skipped = train_py(*quick, "data.on_error=skip")
    assert f"000000000009.txt:{lines}" in skipped.err
    assert sorted(path for path in mine.rglob("*")) == before  # nothing was written beside the data


@pytest.mark.slow
def test_what_is_repaired_is_said_and_counted(train_py: TrainPy, tmp_path: Path) -> None:
    data = make_dataset(tmp_path / "cells")
    for kind in ("duplicate-box", "clipped", "unlabelled", "near-leak"):
        SPOILED[kind].spoil(data.parent)
    data.write_text(data.read_text().replace("val: images/val", "val: images/train"))
    quick = (*TINY, "data.image_size=64", "train.steps=2", f"data.path={data}")
    run = train_py(*quick, "--train.seed=1")
    line = "repaired (duplicate-box): cells/labels/train/05.txt:5: repeats line 2; it counts once"
    assert line in run.err and "warning (clipped): " in run.err and "warning (near-leak): " in run.err
    assert "warning (same-images): " in run.err and "memorisation: val holds" in run.out
    assert "1 of 30 images of 'train' without a label file" in run.err
    assert f"all of that, by file and line: detector check {data} data.image_size=64" in run.err
    assert run.summary["data/repaired"] == {"duplicate-box": 1} and run.summary["seed"] == 1
    assert run.summary["data/warnings"]["same-images"] == 1
    assert run.summary["data/notes"]["unlabelled"] == 2  # once in train, once in val
    refused = train_py(*quick, "data.repair=false", check=False)
    assert refused.code == 2 and "05.txt:5: repeats line 2; remove one" in refused.err


@pytest.mark.slow
def test_a_resumed_run_is_not_called_the_baseline_and_a_finished_one_is_left_as_it_is(
    coco8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class StopAtOne(Callback):
        def on_record(self, row: Row) -> None:
            self.state.should_stop = True

        def on_train_begin(self, state: TrainState) -> None:
            self.state = state

    monkeypatch.chdir(tmp_path)
    fit(load_config("coco8", [*TINY, "train.steps=2", "run.dir=a"]), callbacks=[StopAtOne()])
    stopped = capsys.readouterr()
    assert "\ndiffers from the base in: data.image_size: 256 -> 32; " in stopped.err
    assert "resumed at" not in stopped.err
    assert "\nCheckpoint: a/checkpoints/last.pt\n" in stopped.out  # nothing was evaluated
    assert front_door.main(["--resume", "a"]) == 0
    resumed = capsys.readouterr()
    assert "\nresumed at step 1 of 2\n" in resumed.err
    assert "\nCheckpoint: a/checkpoints/best.pt\n" in resumed.out
    assert "the base" not in resumed.out + resumed.err

    def files() -> dict[Path, tuple[int, bytes]]:
        return {file: (file.stat().st_mtime_ns, file.read_bytes()) for file in Path().rglob("*.*")}

    before = files()

    assert front_door.main(["--resume", "a"]) == 0
    again = capsys.readouterr()
    assert again.out == "" and again.err.count("\n") == 1
    assert "a: finished already (2/2 steps)" in again.err
    assert files() == before

    Path("a/.finishing").touch()  # as if it had been killed before its loggers were closed
    assert front_door.main(["--resume", "a"]) == 0
    assert "finished already" not in capsys.readouterr().err
    assert not Path("a/.finishing").exists()
    assert Path("a/history.jsonl").read_bytes() == before[Path("a/history.jsonl")][1]
    assert front_door.main(["--resume", "a"]) == 0
    again = capsys.readouterr()
    assert "a: finished already (2/2 steps)" in again.err

    arguments = again.err.strip().partition("train.py ")[2].replace("=N ", "=1 ").split()
    assert front_door.main(arguments) == 0
    assert json.loads(Path("ANOTHER/summary.json").read_text())["steps"] == 1
    Path("a/config.yaml").write_text(Path("a/config.yaml").read_text().replace("steps: 2", "steps: 3"))
    capsys.readouterr()
    assert front_door.main(["--resume", "a"]) == 2  # edited, so no longer the same experiment
    assert (
        "a/config.yaml: was changed since the run began: train.steps was 2, and is 3"
        in capsys.readouterr().err
    )


@pytest.mark.slow
def test_a_run_that_was_interrupted_before_its_first_step_says_how_to_resume_and_does(
    coco8: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Press(Callback):
        def on_train_begin(self, state: TrainState) -> None:
            raise KeyboardInterrupt

    monkeypatch.chdir(tmp_path)
    with pytest.raises(KeyboardInterrupt, match=r"^interrupted; resume with: .*--resume a$"):
        fit(load_config("coco8", [*TINY, "train.steps=2", "run.dir=a"]), callbacks=[Press()])
    capsys.readouterr()
    assert front_door.main(["--resume", "a"]) == 0
    assert "\nresumed at step 0 of 2\n" in capsys.readouterr().err


@pytest.mark.slow
def test_a_run_is_resumed_by_its_checkpoint_and_val_finds_what_was_held_out(
    train_py: TrainPy, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = make_dataset(tmp_path / "cells")
    data.write_text("train: images/train\nnames: [cell, platelet]\n")
    small = (*TINY, "data.image_size=64", "train.steps=2")
    run = train_py(*small, f"data.path={data}", "data.val_fraction=0.2", "train.seed=7")
    assert "(24 train, 6 val images)" in run.err
    again = front_door.main(["--resume", str(run.directory / "checkpoints/last.pt")])
    assert again == 0
    capsys.readouterr()
    monkeypatch.chdir(tmp_path)
    assert cli.main(["val", str(run.directory), "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    expected = run.summary["val/mAP50-95"]
    assert result["images"] == 6 and result["metrics"]["mAP50-95"] == pytest.approx(expected, abs=1e-6)


@pytest.mark.slow
def test_where_coco8_cannot_be_had_the_run_says_so_and_trains_on_shapes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from detector.data import coco8, shapes, sources

    monkeypatch.setenv("DETECTOR_DATASETS", str(tmp_path / "empty"))
    monkeypatch.setenv("WANDB_MODE", "disabled")
    unreachable = "https://127.0.0.1:9/coco8.zip"
    monkeypatch.setattr(sources, "fetch_coco8", lambda folder: coco8.fetch_coco8(folder, url=unreachable))
    monkeypatch.setattr(
        sources, "_shapes", lambda name: shapes.render_shapes(tmp_path / name, train=8, val=4)
    )
    monkeypatch.chdir(tmp_path)
    arguments = ["data.image_size=64", "train.steps=3", "--config"]
    config = str(ROOT / "ablations/no_residual.yaml")
    assert front_door.main([*arguments, config]) == 0
    err = capsys.readouterr().err
    assert "COCO8 IS NOT HERE" in err
    (directory,) = (tmp_path / "runs").iterdir()
    assert directory.name.startswith("no_residual-shapes-s0-")
    summary = json.loads((directory / "summary.json").read_text())
    assert (summary["dataset"], summary["ablation"]) == ("shapes", "no_residual")
    saved = yaml.safe_load((directory / "config.yaml").read_text())
    assert saved["data"]["path"] == "datasets/shapes.yaml"
    assert saved["model"]["shortcut"] == "none"  # the ablation's delta survives the fallback

    assert front_door.main(["data.fallback=none"]) == 2
    assert "could not be downloaded" in capsys.readouterr().err


@pytest.mark.slow
def test_the_wandb_file_holds_every_layer_and_every_evaluation(run: Run) -> None:
    logged = {row["step"]: row for row in wandb_file.read(run.directory).history}
    assert sorted(logged) == [0, 3, 5, 6, 9, 11]
    for row in run.history:
        sent = logged[row["step"]]
        assert {k: sent[k] for k in row} == pytest.approx(row)
        assert np.isfinite([sent[f"activation_grad/{name}"] for name in TRUNK]).all()
    assert all(key in logged[11] for key in ("train/mAP50-95", "val/mAP50-95"))


@pytest.mark.slow
def test_nothing_is_left_in_the_home(train_py: TrainPy, tmp_path: Path, coco8: Path) -> None:
    home = tmp_path / "home"
    home.mkdir()
    env = {k: v for k, v in environment(coco8).items() if not k.startswith(("XDG_", "YOLO_", "MPL"))}
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), *TINY, "tracking.plots=true", "train.steps=2",
         f"run.dir={tmp_path / 'run'}", "tracking.wandb=offline"],
        cwd=tmp_path, env=env | {"HOME": str(home)}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    left = {str(path.relative_to(home)) for path in home.rglob("*") if path.is_file()}
    assert not any("ltralytics" in name for name in left), left
    assert sorted(os.listdir(tmp_path)) == ["home", "run"]
