"""Checkpoints: nothing is lost, nothing in them is run, and a crash never costs the previous one."""

import errno
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from detector.errors import UserError
from detector.nn.loss import DetectionLoss
from detector.training import checkpoint
from detector.training.checkpoint import Checkpoints, load_state, read, state_dict, write
from detector.training.learner import Learner

MakeLearner = Callable[..., tuple[Learner, DetectionLoss]]


def trained(make_learner: MakeLearner, **config: object) -> Learner:
    learner, _ = make_learner(**config)
    for p in learner.model.parameters():
        p.grad = torch.ones_like(p)
    learner.optimizer.step()
    if learner.ema is not None:
        learner.ema.update_parameters(learner.model)
    learner.step, learner.seconds, learner.best = 7, 1.5, (0.1, 0.2)
    learner.skipped, learner.skipped_in_a_row = 3, 2
    return learner


@pytest.mark.parametrize("config", [{}, {"optimizer": "adamw", "lr": 1e-3, "ema": 0.9}])
def test_what_is_saved_comes_back(
    make_learner: MakeLearner, tmp_path: Path, config: dict[str, object]
) -> None:
    learner = trained(make_learner, **config)
    write(state_dict(learner), tmp_path / "last.pt")
    drawn = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    other, _ = make_learner(seed=1, **config)
    load_state(read(tmp_path / "last.pt"), other)
    again = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
    assert again == drawn
    assert (other.step, other.seconds, other.best) == (7, 1.5, (0.1, 0.2))
    assert (other.skipped, other.skipped_in_a_row) == (3, 2)
    for key, value in learner.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[key], value), key
    for ours, theirs in zip(
        learner.optimizer.state_dict()["state"].values(),
        other.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in ours)
    if learner.ema is not None and other.ema is not None:
        pairs = zip(learner.ema.parameters(), other.ema.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


def test_the_best_is_the_best_on_val_then_on_train(make_learner: MakeLearner, tmp_path: Path) -> None:
    learner, _ = make_learner()
    checkpoints = Checkpoints(tmp_path, {"names": ["a"]})

    def best_step() -> int:
        return int(read(checkpoints.best)["step"])

    for step, val, train in [
        (1, 0.0, 0.1),
        (2, 0.0, 0.3),
        (3, 0.0, 0.2),
        (4, 0.1, 0.0),
        (5, float("nan"), 0.9),
    ]:
        learner.step = step
        checkpoints.save(learner, {"val/mAP50-95": val, "train/mAP50-95": train})
        assert read(checkpoints.last)["step"] == step
        assert best_step() == {1: 1, 2: 2, 3: 2, 4: 4, 5: 4}[step]
    assert read(checkpoints.best)["extra"] == {"names": ["a"]}


@pytest.mark.parametrize("failing", ["best.pt", "last.pt"])
def test_an_end_between_the_two_files_loses_no_best(
    make_learner: MakeLearner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """What goes on from `last.pt` comes to the same evaluation, and must find it better than the last."""
    learner, _ = make_learner()
    checkpoints = Checkpoints(tmp_path, {})
    learner.step = 1
    checkpoints.save(learner, {"val/mAP50-95": 0.1})

    def fail(state: object, path: Path) -> None:
        if path.name == failing:
            raise OSError(errno.ENOSPC, "full")
        write(state, path)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("detector.training.checkpoint.write", fail)
        learner.step = 2
        with pytest.raises(OSError, match="full"):
            checkpoints.save(learner, {"val/mAP50-95": 0.2})
    assert learner.best == (0.1, -1.0)
    saved = read(checkpoints.last)
    assert (saved["step"], tuple(saved["best"])) == (1, (0.1, -1.0))
    checkpoints.save(learner, {"val/mAP50-95": 0.2})
    assert read(checkpoints.best)["step"] == 2


def test_an_untrained_network_is_nobodys_best(make_learner: MakeLearner, tmp_path: Path) -> None:
    learner, _ = make_learner()
    checkpoints = Checkpoints(tmp_path, {})
    checkpoints.save(learner)
    assert checkpoints.last.exists() and not checkpoints.best.exists()


def test_a_failed_write_leaves_the_previous_one(
    make_learner: MakeLearner, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    learner = trained(make_learner)
    write(state_dict(learner), tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    learner.step = 8
    with pytest.raises(OSError, match="No space"):
        write(state_dict(learner), tmp_path / "last.pt")
    assert (tmp_path / "last.pt").read_bytes() == before
    assert os.listdir(tmp_path) == ["last.pt"]


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch OWNED",)


@pytest.mark.parametrize("content", [b"", b"not a checkpoint", pickle.dumps({"format": 1, "x": Evil()})])
def test_bad_files_are_refused_by_name(
    tmp_path: Path, content: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "bad.pt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"bad\.pt"):
        read(path)
    assert not (tmp_path / "OWNED").exists()


def test_code_in_a_torch_file_is_not_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"format": checkpoint.FORMAT, "model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt"):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "OWNED").exists()


def test_somebody_else_s_checkpoint_and_a_missing_one(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        read(tmp_path / "other.pt")
    with pytest.raises(UserError, match="no checkpoint here"):
        read(tmp_path / "missing.pt")
