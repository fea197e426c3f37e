"""Networks of ultralytics, trained by `train.py` from end to end."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import nn

from detector.cli import main
from detector.config.loading import load_config
from detector.data.sources import load_configured
from detector.models.build import load_model
from detector.runtime.distributed import SingleProcess
from detector.runtime.lock import FolderLock
from detector.runtime.ultralytics_import import import_ultralytics
from detector.training.checkpoints import load_state
from detector.training.prepare import build_state
from tests.starter import Starter
from tests.support import ROOT, Run, wait_for

QUICK = ("data.image_size=64", "train.steps=6", "train.eval_every=3", "gradients.every=2", "train.batch=2",
         "tracking.plots=false")  # fmt: skip
TrainPy = Callable[..., Run]


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    """What ultralytics would have published: two heads, other classes, random weights."""
    torch.manual_seed(0)
    net = import_ultralytics("nn.tasks").DetectionModel("yolo26n.yaml", nc=3, verbose=False)
    net.names = {0: "giraffe", 1: "unicorn", 2: "dragon"}
    torch.save({"model": net, "train_args": {}}, tmp_path / "yolo26n.pt")
    return tmp_path / "yolo26n.pt"


@pytest.mark.slow
def test_fine_tuning_goes_on_without_the_weights_it_began_with(
    train_py: TrainPy, warm_start: Starter, weights: Path, tmp_path: Path
) -> None:
    """Two heads, whose loss depends on the epoch; frozen layers; stopped in the middle and resumed."""
    settings = (*QUICK, f"model.pretrained={weights}", "model.freeze=2", "train.backbone_lr=0.1",
                "train.ema=0.9", "train.freeze_norms=true", "train.eval_train=false")  # fmt: skip
    whole = train_py(*settings, name="whole")
    assert "the outputs of giraffe kept" in whole.err
    for row in whole.history:
        assert row["activation_grad/00_0.conv"] > 0
        assert "weight_grad/01_1.conv" not in row  # frozen
        assert row["weight_grad/02_2.c3k2"] > 0
    assert "val/mAP50-95" in whole.history[-1]
    assert whole.summary["train/mAP50-95"] is None

    directory = tmp_path / "killed"
    more = (f"run.dir={directory}", "train.threads=1", "tracking.wandb=disabled")
    process = warm_start.start((*settings, *more), cwd=tmp_path)
    wait_for(lambda: (directory / "checkpoints/best.pt").exists(), process)  # after the first evaluation
    process.kill_group()
    process.wait(60)
    weights.unlink()
    resumed = train_py("--resume", str(directory), name="killed")
    states = [
        load_model(run.directory / "checkpoints/last.pt").model.state_dict() for run in (whole, resumed)
    ]
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
    losses = [[row["train/loss"] for row in run.history] for run in (whole, resumed)]
    assert losses[0] == losses[1]


@pytest.mark.slow
def test_our_own_checkpoint_is_a_start_too(train_py: TrainPy) -> None:
    first = train_py(*QUICK, "model.depths=[1, 1, 1, 1]", name="first")
    best = first.directory / "checkpoints/best.pt"
    second = train_py(*QUICK, f"model.pretrained={best}", "train.lr=1e-6", name="second")
    assert "tensors kept" in second.err
    one, two = (
        load_model(run.directory / "checkpoints/last.pt").model.state_dict() for run in (first, second)
    )
    assert one.keys() == two.keys()  # the same depths, though the second run's configuration does not say so
    weight = "backbone.stem.conv.weight"
    torch.testing.assert_close(load_model(best).model.state_dict()[weight], two[weight], atol=1e-3, rtol=0)


@pytest.mark.slow
def test_a_key_that_pretrained_weights_override_is_an_error(train_py: TrainPy) -> None:
    run = train_py("model.pretrained=yolov8n.yaml", "model.neck_width=8", check=False)
    assert run.code == 2
    assert "model.neck_width: it is our own network's, and model.pretrained brings its own" in run.err


@pytest.mark.slow
def test_an_ablation_of_another_network_trains_resumes_and_is_used(
    train_py: TrainPy, tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    config = ROOT / "ablations/plain_sigmoid.yaml"
    network = ("model.pretrained=yolo12n.yaml", "model.scope=all")
    run = train_py(
        "--config", str(config), *QUICK, *network, "train.steps=3", "train.eval_every=null", name="bare"
    )
    assert run.summary["ablation"] == "plain_sigmoid"
    last = run.directory / "checkpoints/last.pt"
    model = load_model(last).model
    assert not any(isinstance(module, nn.BatchNorm2d | nn.SiLU) for module in model.modules())

    loaded = load_config(run.directory / "config.yaml")
    dataset = load_configured(loaded.config.data, loaded.config.train.seed)
    with FolderLock() as lock:
        state, saved, _ = build_state(loaded.config, dataset, run.directory, SingleProcess(), lock)
    assert saved is not None
    load_state(saved, state)
    for key, value in state.model.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])

    assert main(["val", str(last), "--out", str(tmp_path / "val")]) == 0
    assert main(["export", str(last), "--out", str(tmp_path / "net.onnx")]) == 0
    assert main(["export", str(last), "--format", "ultralytics", "--out", str(tmp_path / "net.pt")]) == 2
