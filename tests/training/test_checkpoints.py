"""Checkpoints: nothing is lost, nothing in them is run, and a crash never costs the previous one."""

import copy
import errno
import os
import pickle
import random
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import pytest
import torch

from detector.errors import UserError
from detector.models.loss import DetectionLoss
from detector.registry import register
from detector.rundir import RunDir
from detector.runtime.checkpoint_file import FORMAT, evaluated_weights, read, write
from detector.runtime.random_state import preserve_random_state, random_state, restore_random_state
from detector.training import checkpoints as checkpoint
from detector.training.checkpoints import Checkpointing, load_state, state_dict
from detector.training.schedule import Schedule
from detector.training.state import TrainState

ONCE = Schedule(10, 1, 1, 1, None)
MakeState = Callable[..., tuple[TrainState, DetectionLoss]]


def trained(make_state: MakeState, **config: object) -> TrainState:
    state, _ = make_state(**config)
    for p in state.model.parameters():
        p.grad = torch.ones_like(p)
    state.optimizer.step()
    if state.ema is not None:
        state.ema.update_parameters(state.model)
    state.step, state.seconds, state.best = 7, 1.5, (0.1, 0.2)
    state.skipped, state.skipped_in_a_row = 3, 2
    return state


@pytest.mark.parametrize(
    "config",
    [
        {},
        {"optimizer": "adamw", "lr": 1e-3, "ema": 0.9},
        {"optimizer": "RAdam", "lr": 1e-3},
        {"optimizer": "Adafactor", "momentum": 0.0},  # whose state has other shapes than the weights
        {"optimizer": "Rprop", "momentum": 0.0, "weight_decay": 0.0},
    ],
)
def test_what_is_saved_comes_back(make_state: MakeState, tmp_path: Path, config: dict[str, object]) -> None:
    state = trained(make_state, **config)
    write(state_dict(state), tmp_path / "last.pt")
    drawn = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    other, _ = make_state(seed=1, **config)
    load_state(read(tmp_path / "last.pt"), other)
    again = random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002
    assert again == drawn
    assert (other.step, other.seconds, other.best) == (7, 1.5, (0.1, 0.2))
    assert (other.skipped, other.skipped_in_a_row) == (3, 2)
    for key, value in state.model.state_dict().items():
        assert torch.equal(other.model.state_dict()[key], value), key
    for ours, theirs in zip(
        state.optimizer.state_dict()["state"].values(),
        other.optimizer.state_dict()["state"].values(),
        strict=True,
    ):
        assert all(torch.equal(torch.as_tensor(ours[k]), torch.as_tensor(theirs[k])) for k in ours)
    if state.ema is not None and other.ema is not None:
        pairs = zip(state.ema.parameters(), other.ema.parameters(), strict=True)
        assert all(torch.equal(a, b) for a, b in pairs)


@pytest.mark.parametrize(("better", "best"), [("higher", 3), ("lower", 1)])
def test_the_best_is_the_best_by_the_monitored_metric(
    make_state: MakeState, tmp_path: Path, better: Literal["higher", "lower"], best: int, own_names: None
) -> None:
    register.metric("mine", better=better)(lambda result: 0.0)
    state, _ = make_state()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {"names": ["a"]}, "mine")
    for step, value in [(1, -2.5), (2, 0.5), (3, 3.0), (4, float("nan")), (5, 1.0)]:
        state.step = step
        checkpoints.save({"val/mine": value, "train/mine": 0.0, "val/mAP50-95": step / 10})
    assert read(checkpoints.best)["step"] == best


def test_the_best_is_the_best_on_val_then_on_train(make_state: MakeState, tmp_path: Path) -> None:
    state, _ = make_state()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {"names": ["a"]})

    def best_step() -> int:
        return int(read(checkpoints.best)["step"])

    for step, val, train in [
        (1, 0.0, 0.1),
        (2, 0.0, 0.3),
        (3, 0.0, 0.2),
        (4, 0.1, 0.0),
        (5, float("nan"), 0.9),
    ]:
        state.step = step
        checkpoints.save({"val/mAP50-95": val, "train/mAP50-95": train})
        assert read(checkpoints.last)["step"] == step
        assert best_step() == {1: 1, 2: 2, 3: 2, 4: 4, 5: 4}[step]
    assert read(checkpoints.best)["extra"] == {"names": ["a"]}


def test_the_best_is_written_before_the_last(
    make_state: MakeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between the two, a kill leaves a last one that comes to the same best once more."""
    written: list[tuple[str, tuple[float, ...]]] = []
    monkeypatch.setattr(
        "detector.runtime.checkpoint_file.write",
        lambda state, path: (written.append((path.name, state["best"])), path.touch()),
    )
    state, _ = make_state()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {})
    checkpoints.save()  # before the first step: nobody's best
    assert written == [("last.pt", ())]
    written.clear()
    state.step = 1
    checkpoints.save({"val/mAP50-95": 0.5, "train/mAP50-95": 0.5})
    assert written == [("best.pt", (0.5, 0.5)), ("last.pt", (0.5, 0.5))]
    written.clear()
    checkpoints.save({"val/mAP50-95": 0.4, "train/mAP50-95": 0.6})
    assert written == [("last.pt", (0.5, 0.5))]


def test_what_is_drawn_beside_the_run_moves_no_generator() -> None:
    device = torch.device("cpu")

    def draw() -> tuple[float, float, float]:
        return random.random(), float(np.random.rand()), float(torch.rand(()))  # noqa: NPY002

    state = random_state(device)
    expected = draw()
    restore_random_state(state, device)
    with pytest.raises(KeyError), preserve_random_state(device):
        assert draw() == expected
        raise KeyError
    assert draw() == expected


def test_evaluations_in_quick_succession_share_a_file(
    make_state: MakeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A clock of our own: saving takes a second, and so is due again 10 seconds after it."""
    now, written = 100.0, []

    def slow_write(state: dict[str, object], path: Path) -> None:
        nonlocal now
        now += 0.5 if path.name == "best.pt" else 1.0
        write(state, path)
        written.append((path.name, state["step"]))

    monkeypatch.setattr(checkpoint.time, "monotonic", lambda: now)
    monkeypatch.setattr("detector.runtime.checkpoint_file.write", slow_write)
    state, _ = make_state()
    weight = next(state.model.parameters()).detach()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {}, share=0.1)

    def evaluated(step: int, at: float, score: float) -> list[tuple[str, int]]:
        nonlocal now
        state.step, now = step, at
        weight.fill_(step)
        written.clear()
        checkpoints.offer({"val/mAP50-95": score})
        return list(written)

    assert evaluated(1, 100, 0.1) == [("best.pt", 1), ("last.pt", 1)]  # took 1.5 s: due at 116.5
    assert evaluated(2, 110, 0.3) == []
    assert evaluated(3, 116, 0.2) == []
    assert evaluated(4, 117, 0.2) == [("best.pt", 2), ("last.pt", 4)]
    best = read(checkpoints.best)
    assert best["best"] == read(checkpoints.last)["best"] == state.best
    assert float(next(iter(best["model"].values())).flatten()[0]) == 2  # as it was then
    assert evaluated(5, 118, 0.4) == []
    checkpoints.save()  # asked to stop
    assert written == [("best.pt", 5), ("last.pt", 5)]
    assert evaluated(6, 121, 0.5) == []
    checkpoints.save_best()  # diverged
    assert written == [("best.pt", 6)]


def test_stops_before_any_evaluation_leave_no_old_best(make_state: MakeState, tmp_path: Path) -> None:
    """The newest stands in for it, until an evaluation says otherwise."""
    state, _ = make_state()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {})
    for state.step in (3, 5):
        checkpoints.save()
        assert read(checkpoints.best)["step"] == state.step
    state.step = 6
    checkpoints.save({"val/mAP50-95": 0.1})
    state.step = 7
    checkpoints.save()
    assert (read(checkpoints.best)["step"], read(checkpoints.last)["step"]) == (6, 7)


@pytest.mark.parametrize("failing", ["best.pt", "last.pt"])
def test_an_end_between_the_two_files_loses_no_best(
    make_state: MakeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    """What goes on from `last.pt` comes to the same evaluation, and must find it better than the last."""
    state, _ = make_state()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {})
    state.step = 1
    checkpoints.save({"val/mAP50-95": 0.1})

    def fail(state: object, path: Path) -> None:
        if path.name == failing:
            raise OSError(errno.ENOSPC, "full")
        write(state, path)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr("detector.runtime.checkpoint_file.write", fail)
        state.step = 2
        with pytest.raises(OSError, match="full"):
            checkpoints.save({"val/mAP50-95": 0.2})
    saved = read(checkpoints.last)
    assert (saved["step"], tuple(saved["best"])) == (1, (0.1, -1.0))
    checkpoints.save({"val/mAP50-95": 0.2})
    assert read(checkpoints.best)["step"] == 2


def test_an_untrained_network_is_nobodys_best(make_state: MakeState, tmp_path: Path) -> None:
    state, _ = make_state()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {})
    checkpoints.save()
    assert checkpoints.last.exists() and not checkpoints.best.exists()


def test_a_failed_write_leaves_the_previous_one(
    make_state: MakeState, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    state = trained(make_state)
    write(state_dict(state), tmp_path / "last.pt")
    before = (tmp_path / "last.pt").read_bytes()

    def full(*args: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    state.step = 8
    with pytest.raises(OSError, match="No space"):
        write(state_dict(state), tmp_path / "last.pt")
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
    torch.save({"format": FORMAT, "model": Evil()}, tmp_path / "evil.pt")
    with pytest.raises(UserError, match=r"evil\.pt"):
        read(tmp_path / "evil.pt")
    assert not (tmp_path / "OWNED").exists()


def test_somebody_else_s_checkpoint_and_a_missing_one(tmp_path: Path) -> None:
    torch.save({"model": {}}, tmp_path / "other.pt")
    with pytest.raises(UserError, match="not a checkpoint of this project"):
        read(tmp_path / "other.pt")
    with pytest.raises(UserError, match="no checkpoint here"):
        read(tmp_path / "missing.pt")


@pytest.mark.parametrize("kernel", ["foreach", "fused"])
def test_a_checkpoint_does_not_choose_the_optimizer_s_kernels(make_state: MakeState, kernel: str) -> None:
    """One from before they were fused, or from another device, resumes with those of today."""
    state, _ = make_state()
    saved = state_dict(state)
    optimizer = copy.deepcopy(saved["optimizer"])
    for group in optimizer["param_groups"]:
        group[kernel] = False if kernel == "foreach" else None
    load_state(saved | {"optimizer": optimizer}, state)
    assert all(group["fused"] is True and group["foreach"] is None for group in state.optimizer.param_groups)


@pytest.mark.parametrize("ema", [None, 0.5])
def test_of_the_best_a_finished_run_keeps_what_predicting_needs(
    make_state: MakeState, tmp_path: Path, ema: float | None
) -> None:
    state = trained(make_state, optimizer="adamw", lr=1e-3, ema=ema)
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {"names": ["a"]})
    checkpoints.save({"val/mAP50-95": 0.5, "train/mAP50-95": 0.5})
    before, size = read(checkpoints.best), checkpoints.best.stat().st_size
    weights = evaluated_weights(before)
    for _ in range(2):  # a run may be killed after it
        checkpoints.finish()
    after = read(checkpoints.best)
    assert checkpoints.best.stat().st_size < size / (2.5 if ema is None else 3.5)
    assert (after["step"], after["best"], after["extra"]) == (before["step"], before["best"], before["extra"])
    for name, tensor in evaluated_weights(after).items():
        assert torch.equal(tensor, weights[name]), name
    assert read(checkpoints.last)["optimizer"]["state"]  # what is resumed from is whole
    with pytest.raises(UserError, match="does not fit"):
        load_state(after, make_state(optimizer="adamw", lr=1e-3, ema=ema)[0])


def test_the_step_of_the_best_evaluation_is_remembered(make_state: MakeState, tmp_path: Path) -> None:
    state, _ = make_state()
    checkpoints = Checkpointing(state, ONCE, RunDir(tmp_path), {"names": ["a"]})
    for step, value in ((2, 0.5), (4, 0.7), (6, 0.7)):
        state.step = step
        checkpoints.save({"val/mAP50-95": value})
    other, _ = make_state()
    load_state(read(checkpoints.last), other)
    assert other.best_step == 4
