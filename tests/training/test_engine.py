"""The loop, against the same steps written out by hand."""

import copy
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from detector.config.schema import TrainConfig
from detector.data.batch import Batch
from detector.data.dataset import Item
from detector.gradients.recorder import GradientRecorder
from detector.models.loss import DetectionLoss, Loss
from detector.training.callbacks import Callback, Row
from detector.training.clipping import clip_gradients
from detector.training.evaluation import evaluate
from detector.training.optimizer import learning_rate
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from tests.training.harness import ALONE, Outcome, train_steps

MakeState = Callable[..., tuple[TrainState, DetectionLoss]]
MakeBatch = Callable[..., Batch]


def run(
    state: TrainState,
    loss_fn: object,
    batches: Iterator[Batch],
    steps: int,
    *,
    accumulate: int = 1,
    every: int = 1,
    stop: Callable[[], bool] = lambda: False,
    **config: object,
) -> tuple[Outcome, list[Row]]:
    rows: list[Row] = []
    schedule = Schedule(steps, 1, accumulate, every, None)
    recorder = GradientRecorder(state.model.backbone_layers())
    settings = TrainConfig(**config)
    outcome = train_steps(state, loss_fn, batches, schedule, settings, recorder, rows.append, stop)
    return outcome, rows


def weights(state: TrainState) -> list[torch.Tensor]:
    return [p.detach().clone() for p in state.model.parameters()]


def items_of(batch: Batch) -> list[Item]:
    """The labels of `make_batch`, one object an image."""
    return [
        Item(image=Path(f"{i}.png"), classes=np.array([i % 2]), boxes=batch.boxes[i : i + 1].numpy())
        for i in range(len(batch.images))
    ]


def test_steps_are_the_textbook_s(make_state: MakeState, make_batch: MakeBatch) -> None:
    """Three steps of SGD with Nesterov momentum, decay and clipping, written out again without the engine."""
    config = {"lr": 0.05, "clip": 0.2, "warmup_steps": 2}
    state, loss_fn = make_state(**config)
    batches = [make_batch(seed=s) for s in range(3)]
    _, rows = run(state, loss_fn, iter(batches), 3, **config)

    other, loss_fn = make_state(**config)
    model = other.model.train()
    momentum: dict[str, torch.Tensor] = {}
    for step, batch in enumerate(batches):
        model.zero_grad()
        loss = loss_fn(model(batch.images.float() / 255), batch.targets())
        loss.total.backward()
        grads = {n: p.grad.clone() for n, p in model.named_parameters()}
        norm = math.sqrt(sum(float(g.double().square().sum()) for g in grads.values()))
        assert rows[step]["train/grad_norm"] == pytest.approx(norm, rel=1e-5)
        assert rows[step]["train/loss"] == pytest.approx(float(loss.parts.sum()), rel=1e-5)
        rate = learning_rate(step, 3, TrainConfig(**config))
        assert rows[step]["train/lr"] == rate
        with torch.no_grad():
            for name, p in model.named_parameters():
                g = grads[name] * min(1.0, 0.2 / (norm + 1e-6))
                g = g + (5e-4 * p if p.dim() > 1 else 0)
                momentum[name] = g if step == 0 else 0.9 * momentum[name] + g
                p -= rate * (g + 0.9 * momentum[name])
    assert norm > 0.2  # else nothing was clipped and the test shows less than it says
    for ours, theirs in zip(weights(state), weights(other), strict=True):
        assert torch.allclose(ours, theirs, rtol=1e-4, atol=1e-6)


def test_accumulating_adds_the_gradients_of_the_parts(make_state: MakeState, make_batch: MakeBatch) -> None:
    """Without batch norm, two accumulated batches move the weights by the sum of their gradients."""
    config = {"lr": 1.0, "clip": None, "momentum": 0.0, "weight_decay": 0.0, "warmup_steps": 0}
    state, loss_fn = make_state(norm="none", **config)
    start = weights(state)
    one, two = make_batch(seed=1), make_batch(seed=2)
    run(state, loss_fn, iter([one, two]), 1, accumulate=2, **config)
    moved = [a - b for a, b in zip(weights(state), start, strict=True)]

    separate = []
    for batch in (one, two):
        other, loss_fn = make_state(norm="none", **config)
        run(other, loss_fn, iter([batch]), 1, **config)
        separate.append([a - b for a, b in zip(weights(other), start, strict=True)])
    for total, first, second in zip(moved, *separate, strict=True):
        assert torch.allclose(total, first + second, rtol=1e-3, atol=1e-6)


def test_recording_changes_nothing(make_state: MakeState, make_batch: MakeBatch) -> None:
    watched, loss_fn = make_state()
    run(watched, loss_fn, (make_batch(seed=s) for s in range(4)), 4, every=1)
    unwatched, loss_fn = make_state()
    run(unwatched, loss_fn, (make_batch(seed=s) for s in range(4)), 4, every=100)
    assert all(torch.equal(a, b) for a, b in zip(weights(watched), weights(unwatched), strict=True))


def test_the_row_holds_every_trunk_layer(make_state: MakeState, make_batch: MakeBatch) -> None:
    state, loss_fn = make_state()
    _, rows = run(state, loss_fn, (make_batch() for _ in range(3)), 3, every=2)
    assert [row["step"] for row in rows] == [0, 2]  # the last step is always recorded
    for name in state.model.backbone_layers():
        for kind in ("activation_grad", "weight_grad", "update_ratio"):
            assert rows[0][f"{kind}/{name}"] > 0
    assert rows[0]["train/loss"] == pytest.approx(
        sum(rows[0][f"train/loss_{part}"] for part in ("box", "cls", "dfl")), rel=1e-6
    )


@pytest.mark.slow
def test_a_small_network_learns_its_batch(make_state: MakeState, make_batch: MakeBatch) -> None:
    """Judged by mAP: the loss of this loss_fn first rises, as more anchors are matched to objects."""
    config = {"lr": 0.1, "warmup_steps": 5}
    state, loss_fn = make_state(**config)
    before = evaluate(state, [make_batch()], items_of(make_batch()), ALONE).metrics["mAP50"]
    run(state, loss_fn, (make_batch() for _ in range(200)), 200, every=100, **config)
    after = evaluate(state, [make_batch()], items_of(make_batch()), ALONE).metrics["mAP50"]
    assert before < 0.1
    assert after > 0.9


def test_frozen_weights_stay(make_state: MakeState, make_batch: MakeBatch) -> None:
    state, loss_fn = make_state()
    state.model.backbone.requires_grad_(False)
    before = [p.clone() for p in state.model.backbone.parameters()]
    _, rows = run(state, loss_fn, (make_batch() for _ in range(2)), 2)
    assert all(torch.equal(a, b) for a, b in zip(before, state.model.backbone.parameters(), strict=True))
    assert rows[0]["activation_grad/00_stem"] > 0
    assert "weight_grad/00_stem" not in rows[0]


def test_a_stop_is_obeyed_between_steps(make_state: MakeState, make_batch: MakeBatch) -> None:
    state, loss_fn = make_state()
    outcome, _ = run(state, loss_fn, (make_batch() for _ in range(9)), 9, stop=lambda: state.step == 4)
    assert outcome.status == "stopped"
    assert state.step == 4


def test_a_callback_may_end_it_at_any_moment_and_the_same_state_goes_on_later(
    make_state: MakeState, make_batch: MakeBatch
) -> None:
    state, loss_fn = make_state()
    settings, schedule = TrainConfig(**{"steps": 9}), Schedule(9, 1, 1, 1, None)

    class AtThree(Callback):
        def on_record(self, row: Row) -> None:
            state.should_stop = row["step"] == 3

    def go_on(*callbacks: Callback) -> str:
        batches = (make_batch() for _ in range(9))
        recorder = GradientRecorder(state.model.backbone_layers())
        return train_steps(state, loss_fn, batches, schedule, settings, recorder, callbacks=callbacks).status

    assert (go_on(AtThree()), state.step) == ("stopped", 4)
    assert (go_on(), state.step) == ("finished", 9)


def test_numbers_that_break_end_the_run_and_name_the_layer(
    make_state: MakeState, make_batch: MakeBatch
) -> None:
    state, loss_fn = make_state()

    def batches() -> Iterator[Batch]:
        yield make_batch()
        with torch.no_grad():
            state.model.backbone.p4_0.conv1.conv.weight.fill_(math.inf)
        yield make_batch()

    outcome, rows = run(state, loss_fn, batches(), 5)
    assert outcome.status == "diverged"
    assert outcome.origin is not None
    assert outcome.origin.where == "forward backbone.p4_0.conv1.conv (Conv2d)"
    assert state.step == 1
    assert math.isnan(rows[-1]["train/loss"])


def test_a_broken_step_does_not_touch_the_weights(make_state: MakeState, make_batch: MakeBatch) -> None:
    state, _ = make_state()
    before = weights(state)

    class Broken(DetectionLoss):
        def __call__(self, preds: object, targets: dict[str, torch.Tensor]) -> Loss:
            loss = super().__call__(preds, targets)
            return loss._replace(total=loss.total * math.inf)

    outcome, _ = run(state, Broken(state.model, TrainConfig()), iter([make_batch()]), 1)
    assert outcome.status == "diverged"
    assert outcome.origin is not None
    assert outcome.origin.where == "forward loss"
    assert all(torch.equal(a, b) for a, b in zip(before, weights(state), strict=True))


def test_frozen_norms_keep_their_statistics(make_state: MakeState, make_batch: MakeBatch) -> None:
    """Running statistics stay, and are what is used: an image's output does not depend on its batch."""
    state, loss_fn = make_state(freeze_norms=True)
    norms = [m for m in state.model.modules() if isinstance(m, nn.BatchNorm2d)]
    before = [norm.running_mean.clone() for norm in norms]
    run(state, loss_fn, (make_batch() for _ in range(2)), 2)
    assert all(torch.equal(norm.running_mean, mean) for norm, mean in zip(norms, before, strict=True))
    assert all(norm.weight.requires_grad for norm in norms)
    state.train_mode()
    images = state.preprocess(make_batch().images)
    with torch.no_grad():
        alone, together = state.model(images[:1])["scores"], state.model(images)["scores"][:1]
    torch.testing.assert_close(alone, together)


def test_the_momentum_of_norms(make_state: MakeState) -> None:
    norms = [m for m in make_state(norm_momentum=0.03)[0].model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in norms} == {0.03}
    default = [m for m in make_state()[0].model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert {norm.momentum for norm in default} == {0.1}


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_precisions_train(make_state: MakeState, make_batch: MakeBatch, precision: str) -> None:
    state, loss_fn = make_state(precision=precision)
    outcome, rows = run(state, loss_fn, (make_batch() for _ in range(3)), 3)
    assert outcome.status == "finished"
    assert all(math.isfinite(value) for row in rows for value in row.values())
    assert all(p.dtype == torch.float32 for p in state.model.parameters())


def test_clipping_returns_the_norm_before_and_leaves_the_limit() -> None:
    layer = nn.Linear(2, 1, bias=False)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(clip_gradients([layer.weight], 1.0)) == pytest.approx(5.0)
    assert float(layer.weight.grad.norm()) == pytest.approx(1.0, rel=1e-5)
    layer.weight.grad = torch.tensor([[3.0, 4.0]])
    assert float(clip_gradients([layer.weight], None)) == pytest.approx(5.0)
    assert layer.weight.grad.tolist() == [[3.0, 4.0]]


def test_evaluation_uses_the_average_and_changes_nothing(
    make_state: MakeState, make_batch: MakeBatch
) -> None:
    state, loss_fn = make_state(ema=0.5)
    run(state, loss_fn, (make_batch() for _ in range(3)), 3, ema=0.5)
    before = copy.deepcopy(state.model.state_dict())
    batch, items = make_batch(), items_of(make_batch())
    averaged = evaluate(state, [batch], items, ALONE)
    assert len(averaged.predictions) == 2
    assert all(torch.equal(before[k], v) for k, v in state.model.state_dict().items())
    state.ema = None
    live = evaluate(state, [batch], items, ALONE)
    assert not np.array_equal(averaged.predictions[0].scores, live.predictions[0].scores)
