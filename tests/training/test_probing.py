"""Probing a run's trunk leaves no trace in the run."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch

from detector.config.schema import TrainConfig
from detector.data.loader import Batch
from detector.gradients.recorder import GradientRecorder
from detector.models.loss import DetectionLoss
from detector.training.callbacks import Row
from detector.training.probing import ProbeTrunk
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from tests.training.harness import train_steps

MakeState = Callable[..., tuple[TrainState, DetectionLoss]]
MakeBatch = Callable[..., Batch]


class Images:
    """Stands for a loader: six images, four at a time."""

    def __init__(self, make_batch: MakeBatch) -> None:
        self.batches = [make_batch(seed=0, images=4), make_batch(seed=1, images=2)]

    def eval_batches(self, *, batch: int, workers: int) -> Iterator[Batch]:
        assert (batch, workers) == (4, 0)
        yield from self.batches


def trained(make_state: MakeState, make_batch: MakeBatch, *, probed: bool) -> tuple[TrainState, list[Row]]:
    state, loss_fn = make_state(ema=0.9)
    schedule, rows = Schedule(3, 1, 1, 1, None), list[Row]()
    probe = ProbeTrunk(state, schedule, Images(make_batch), 4)  # type: ignore[arg-type]
    if probed:
        probe.on_train_begin(state)
    recorder = GradientRecorder(state.model.backbone_layers())
    batches = iter([make_batch(seed=s) for s in range(3)])
    config, callbacks = TrainConfig(ema=0.9), [probe] if probed else []
    train_steps(state, loss_fn, batches, schedule, config, recorder, rows.append, callbacks=callbacks)
    return state, rows


def test_a_probed_run_is_bit_for_bit_the_same(make_state: MakeState, make_batch: MakeBatch) -> None:
    plain, rows = trained(make_state, make_batch, probed=False)
    drawn = torch.rand(3)
    probed, with_probe = trained(make_state, make_batch, probed=True)
    assert torch.equal(torch.rand(3), drawn)
    for a, b in zip(plain.model.state_dict().values(), probed.model.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    added = [row.keys() - other.keys() for row, other in zip(with_probe, rows, strict=True)]
    levels = {f"signal/probe_auc_{level}{of}" for level in ("p3", "p4", "p5") for of in ("", "_position")}
    layers = probed.model.backbone_layers()
    units = {f"{kind}/{layer}" for kind in ("dead_units", "saturation") for layer in layers}
    assert added[0] == added[2] == levels | units | {"gradient/autocorrelation"}
    assert added[1] == set()
    for row, other in zip(with_probe, rows, strict=True):
        assert {k: row[k] for k in other if k != "time/step_ms"} == {
            k: v for k, v in other.items() if k != "time/step_ms"
        }
    for key in added[0]:
        assert -1 <= with_probe[0][key] <= 1
    assert probed.model.training == plain.model.training


def test_what_is_measured_does_not_depend_on_the_order_of_measuring(
    make_state: MakeState, make_batch: MakeBatch
) -> None:
    state, _ = make_state()
    probe = ProbeTrunk(state, Schedule(3, 1, 1, 1, None), Images(make_batch), 4)  # type: ignore[arg-type]
    assert probe.measure() == probe.measure()
    assert not any(module._forward_hooks for module in state.model.modules())
