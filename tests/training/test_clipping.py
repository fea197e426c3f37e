"""Clipping: its factor and the trunk's share against norms by hand, by default against torch's own."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from pydantic import ValidationError
from torch import nn

from detector.config.schema import TrainConfig
from detector.data.loader import Batch
from detector.gradients.recorder import GradientRecorder
from detector.models.loss import DetectionLoss
from detector.training.callbacks import Row
from detector.training.clipping import clip_gradients, trunk_and_rest
from detector.training.engine import backward
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from tests.training.harness import train_steps

MakeState = Callable[..., tuple[TrainState, DetectionLoss]]
MakeBatch = Callable[..., Batch]


def one_step(make_state: MakeState, batch: Batch, **config: object) -> tuple[TrainState, Row]:
    state, loss_fn = make_state(**config)
    rows: list[Row] = []
    recorder = GradientRecorder(state.model.backbone_layers())
    schedule = Schedule(1, 1, 1, 1, None)
    train_steps(state, loss_fn, iter([batch]), schedule, TrainConfig(**config), recorder, rows.append)
    return state, rows[0]


def norms(make_state: MakeState, batch: Batch, **config: object) -> tuple[float, float]:
    """Of the trunk's gradients and of the others, in float64."""
    state, loss_fn = make_state(**config)
    backward(state, loss_fn, batch)
    squares = {True: 0.0, False: 0.0}
    for name, p in state.model.named_parameters():
        assert p.grad is not None
        squares[name.startswith("backbone.")] += float(p.grad.double().square().sum())
    return math.sqrt(squares[True]), math.sqrt(squares[False])


def test_the_factor_and_the_trunks_share_are_logged(make_state: MakeState, make_batch: MakeBatch) -> None:
    batch = make_batch()
    trunk, rest = norms(make_state, batch)
    total = math.hypot(trunk, rest)
    for limit, factor in ((total / 4, 0.25), (2 * total, 1.0), (None, 1.0)):
        _, row = one_step(make_state, batch, clip=limit)
        assert row["train/clip_factor"] == pytest.approx(factor, rel=1e-4)
        assert row["train/trunk_share"] == pytest.approx((trunk / total) ** 2, rel=1e-4)
        assert 0 < row["train/trunk_share"] < 1


def test_by_part_each_is_clipped_by_its_own_norm(make_state: MakeState, make_batch: MakeBatch) -> None:
    """One step of plain SGD at rate 1: the weights move by what is left of the gradients."""
    plain = {"lr": 1.0, "momentum": 0.0, "weight_decay": 0.0, "warmup_steps": 0}
    batch = make_batch()
    trunk, rest = norms(make_state, batch)
    limit = (trunk + rest) / 2  # one of them is above it, the other below
    before, _ = make_state(**plain)
    after, row = one_step(make_state, batch, clip=limit, clip_by="part", **plain)
    moved = {True: 0.0, False: 0.0}
    for (name, new), old in zip(after.model.named_parameters(), before.model.parameters(), strict=True):
        moved[name.startswith("backbone.")] += float((new - old).detach().double().square().sum())
    assert math.sqrt(moved[True]) == pytest.approx(min(trunk, limit), rel=1e-3)
    assert math.sqrt(moved[False]) == pytest.approx(min(rest, limit), rel=1e-3)
    assert row["train/clip_factor_trunk"] == pytest.approx(min(1, limit / trunk), rel=1e-4)
    assert row["train/clip_factor_rest"] == pytest.approx(min(1, limit / rest), rel=1e-4)
    assert row["train/grad_norm"] == pytest.approx(math.hypot(trunk, rest), rel=1e-4)
    assert "train/clip_factor" not in row


def test_by_default_the_gradients_are_exactly_torchs(make_state: MakeState, make_batch: MakeBatch) -> None:
    (mine, loss_fn), (theirs, other_loss) = make_state(), make_state()
    backward(mine, loss_fn, make_batch())
    backward(theirs, other_loss, make_batch())
    norm = clip_gradients(mine.parameters, 0.5, mine.clip_parts)
    assert torch.equal(norm, nn.utils.clip_grad_norm_(theirs.model.parameters(), 0.5))
    for p, q in zip(mine.model.parameters(), theirs.model.parameters(), strict=True):
        assert p.grad is not None and q.grad is not None and torch.equal(p.grad, q.grad)


def test_a_frozen_trunk_has_no_share(make_state: MakeState, make_batch: MakeBatch) -> None:
    state, loss_fn = make_state(clip_by="part")
    for module in state.model.backbone_modules():
        module.requires_grad_(False)
    recorder, rows = GradientRecorder(state.model.backbone_layers()), list[Row]()
    config = TrainConfig(clip_by="part")
    schedule = Schedule(1, 1, 1, 1, None)
    train_steps(state, loss_fn, iter([make_batch()]), schedule, config, recorder, rows.append)
    assert rows[0]["train/trunk_share"] == 0.0
    assert rows[0]["train/clip_factor_trunk"] == 1.0
    trunk, rest = trunk_and_rest(state.model)
    assert trunk == [] and len(rest) == sum(p.requires_grad for p in state.model.parameters())


def test_a_part_without_a_limit_is_a_mistake() -> None:
    with pytest.raises(ValidationError, match=r"only train\.clip uses it"):
        TrainConfig(clip=None, clip_by="part")
