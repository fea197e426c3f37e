"""`attach` in ultralytics' own trainer: a real training on COCO8, without and with it."""

from __future__ import annotations

import json
import math
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import yaml
from torch import nn

from detector.errors import UserError
from detector.gradients.layers import trainable_weights
from detector.gradients.points import points_inside
from detector.integrations.layers import choose_layers, levels_of
from detector.integrations.ultralytics import _Watcher, attach
from detector.models.yolo import YoloModel
from detector.rundir import RunDir
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.compare.command import compare
from tests.loggers.wandb_file import read
from tests.support import ROOT, environment

pytestmark = pytest.mark.slow

BACKBONE = [
    "00_0.conv", "01_1.conv", "02_2.c3k2", "03_3.conv", "04_4.c3k2", "05_5.conv", "06_6.c3k2", "07_7.conv",
    "08_8.c3k2", "09_9.sppf", "10_10.c2psa",
]  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> Path:
    """The folder with `plain` and `attached`; ultralytics writes beside the data, so it gets a copy."""
    folder = tmp_path_factory.mktemp("ultralytics")
    shutil.copytree(coco8 / "coco8", folder / "coco8")
    for path in (folder / "coco8").rglob("*"):
        path.chmod(0o755)
    names = yaml.safe_load((ROOT / "datasets" / "coco8.yaml").read_text())["names"]
    data = {"path": str(folder / "coco8"), "train": "images/train", "val": "images/val", "names": names}
    (folder / "coco8.yaml").write_text(yaml.safe_dump(data))
    # Where ultralytics believes to be tested it leaves W&B and TensorBoard out.
    telling = ("PYTEST_CURRENT_TEST", "GITHUB_ACTIONS", "GITHUB_WORKFLOW", "RUNNER_OS")
    env = {key: value for key, value in environment().items() if key not in telling} | {
        "YOLO_CONFIG_DIR": str(folder / "settings"), "YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false",
        "WANDB_MODE": "offline", "WANDB_SILENT": "true",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "tests.integrations.ultralytics_script",
        str(folder),
        str(folder / "coco8.yaml"),
    ]
    done = subprocess.run(command, cwd=ROOT, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
    (folder / "printed.txt").write_text(done.stdout + done.stderr)
    return folder


def test_the_weights_are_the_same_bit_for_bit(trained: Path) -> None:
    import_ultralytics("nn.tasks")
    plain, attached = (
        torch.load(trained / name / "weights" / "last.pt", weights_only=False)["model"].state_dict()
        for name in ("plain", "attached")
    )
    assert len(plain) > 100
    assert all(torch.equal(plain[key], attached[key]) for key in plain)
    assert (trained / "plain" / "results.csv").exists()

    def metrics(name: str) -> list[list[str]]:
        lines = (trained / name / "results.csv").read_text().splitlines()
        at = lines[0].split(",").index("time")
        return [[v for i, v in enumerate(line.split(",")) if i != at] for line in lines]

    assert metrics("plain") == metrics("attached")


def test_every_backbone_layer_has_a_curve_beside_map(trained: Path) -> None:
    run = RunDir(trained / "attached" / "gradients")
    rows, summary = run.read_history(), run.read_summary()
    # Of six batches two are accumulated for a step once the warm-up is over: steps 0 and 1 are in epoch 0.
    assert [(row["step"], row["epoch"]) for row in rows] == [(0, 0), (1, 0), (2, 1), (3, 2)]
    recorded = [row for row in rows if "train/grad_norm" in row]
    assert [row["step"] for row in recorded] == [0, 2, 3]  # the first of each epoch
    for row in recorded:
        assert [key for key in row if key.startswith("activation_grad/")] == [
            f"activation_grad/{n}" for n in BACKBONE
        ]
        assert all(math.isfinite(value) for value in row.values())
        assert row["train/grad_norm"] > 10  # before their clipping to 10
    assert ["val/mAP50-95" in row for row in rows] == [False, True, True, True]
    assert {f"signal/rms_{level}" for level in ("p3", "p4", "p5")} <= rows[0].keys()
    assert (summary["status"], summary["steps"], summary["epochs"], summary["seed"]) == ("finished", 4, 3, 1)
    assert summary["gradient/verdict_init"] in ("healthy", "exploding")
    printed = (trained / "printed.txt").read_text()
    assert f"gradients: V {summary['gradient/vanishing_index_init']:+.2f} decades at the start" in printed


def test_the_first_row_is_what_hooks_on_the_tensors_say(trained: Path) -> None:
    by_hand = json.loads((trained / "by_hand.json").read_text())
    row = RunDir(trained / "attached" / "gradients").read_history()[0]
    for at, name in enumerate(BACKBONE):
        assert row[f"activation_grad/{name}"] == pytest.approx(by_hand[f"activation/{at}"], rel=1e-5)
    assert row["weight_grad/00_0.conv"] == pytest.approx(by_hand["weight/0"], rel=1e-5)
    norms = [by_hand[f"activation/{at}"] for at in range(len(BACKBONE))]
    expected = math.log10(sorted(norms[:3])[1] / sorted(norms[-3:])[1])
    assert row["gradient/vanishing_index"] == pytest.approx(expected, abs=1e-5)


def test_the_wandb_run_and_the_tensorboard_folder_that_they_open_have_both(trained: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    file, key = read(trained / "attached"), "activation_grad/04_4.c3k2"
    rows = [row for row in RunDir(trained / "attached" / "gradients").read_history() if key in row]
    assert [row[key] for row in file.history if key in row] == [row[key] for row in rows]
    assert [row["epoch"] for row in file.history if "metrics/mAP50-95(B)" in row][:3] == [1, 2, 3]
    assert file.metrics[key.replace(".", r"\.")].step_metric == "step"
    summary = json.loads((trained / "attached" / "gradients" / "summary.json").read_text())
    assert file.summary["gradient/verdict"] == summary["gradient/verdict"]
    events = EventAccumulator(str(trained / "attached"))
    events.Reload()
    assert "metrics/mAP50-95(B)" in events.Tags()["scalars"]
    assert len(events.Scalars(f"log10_{key}")) == len(rows)


def test_it_is_compared_and_nothing_of_it_is_in_their_checkpoint(trained: Path, capsys: Any) -> None:
    compare(trained / "attached" / "gradients", html=trained / "page.html")
    assert "attached" in capsys.readouterr().out
    assert b"detector.integrations" not in (trained / "attached" / "weights" / "best.pt").read_bytes()


@pytest.mark.parametrize("name", ["yolov8n", "yolo11n", "yolo12n", "yolo26n"])
def test_layers_and_levels_have_the_names_of_a_run_of_train_py(name: str) -> None:
    folder = Path(import_ultralytics("cfg").__file__).parent / "models"
    (file,) = folder.rglob(f"{name[:-1]}.yaml")
    description = yaml.safe_load(file.read_text()) | {"scale": "n"}
    model = YoloModel(description, 80)
    assert list(choose_layers(model.net)) == list(model.backbone_layers())
    assert levels_of(model.net) == model.level_ends()
    modes = [module.training for module in model.net.modules()]
    for which in ("blocks", "model.1*.cv?"):
        assert choose_layers(model.net, which) == {
            name: part for name, part in points_inside(model, which).items() if trainable_weights(part)
        }
    assert [module.training for module in model.net.modules()] == modes


# --- what is wrong ---------------------------------------------------------------------------------


def trainer(**other: Any) -> Any:
    model = nn.Linear(2, 2)
    known = dict.fromkeys(("scaler", "optimizer", "args", "epoch", "save_dir"))
    return SimpleNamespace(**{**known, "model": model, "optimizer_step": lambda: None, **other})


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (trainer(optimizer_step=lambda loss: None), r"optimizer_step\(\)"),
        (SimpleNamespace(**{k: v for k, v in vars(trainer()).items() if k != "scaler"}), "scaler"),
    ],
)
def test_another_trainer_is_one_line(wrong: Any, message: str) -> None:
    with pytest.raises(UserError, match=f"has no (.*, )?{message}: this trainer is not supported") as raised:
        _Watcher((), 10, "auto").on_train_batch_start(wrong)
    assert "\n" not in str(raised.value)


def test_what_is_no_yolo_is_one_line() -> None:
    with pytest.raises(UserError, match="attach: Linear is not a model of ultralytics"):
        attach(nn.Linear(2, 2))
