"""Probes the trunk before the first step and after the last, without leaving a trace in the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

from detector.data.batch import Batch
from detector.data.loader import Loader
from detector.gradients.probe import gradient_autocorrelation, outputs_of, probe_levels
from detector.gradients.units import watch_units
from detector.rows import Key
from detector.runtime.random_state import preserve_random_state
from detector.training.callbacks import Callback, Row
from detector.training.schedule import Schedule
from detector.training.state import TrainState

IMAGES = 16  # at most: half a second on one core, at 256 px


class ProbeTrunk(Callback):
    """Adds the probe's AUC, the gradient's autocorrelation and the dead units to the first row and the last.

    Weights, running statistics and the random generators are afterwards as they were. Several processes do
    not probe: norms that are synchronised would make them wait for each other.
    """

    def __init__(self, state: TrainState, schedule: Schedule, loader: Loader, batch: int) -> None:
        """`loader` has the images, of which `batch` are passed on at a time."""
        self.state, self.schedule, self.loader = state, schedule, loader
        self.batch = min(batch, IMAGES)
        self._first: dict[str, float] = {}

    def on_train_begin(self, state: TrainState) -> None:
        """At initialisation."""
        if state.step == 0:
            self._first = self.measure()

    def on_record(self, row: Row) -> None:
        """Add what was measured before the first step; measure again after the last."""
        if row[Key.STEP] == 0:
            row |= self._first
        elif self.state.step == self.schedule.steps:
            row |= self.measure()

    def measure(self) -> dict[str, float]:
        """The row's keys; a number that does not exist is left out."""
        state, model = self.state, self.state.model
        layers, levels = model.backbone_layers(), model.level_ends()
        if not levels:  # a model of one's own, of which nothing more is known
            return {}
        batches = self._batches()
        with untouched(state), torch.no_grad():
            maps: dict[str, list[Tensor]] = {level: [] for level in levels}
            state.train_mode()  # the norms' own statistics mean nothing before they have seen anything
            with watch_units(layers) as units:
                for batch in batches:
                    with state.autocast(), outputs_of({v: layers[n] for v, n in levels.items()}) as kept:
                        model(state.preprocess(batch.images))
                    for level, output in kept.items():
                        maps[level].append(output.detach().float().cpu())
            images = torch.cat([batch.images for batch in batches]).to(state.device)
            smooth = math.nan
            if len(images) > 1:
                ends = state.preprocess(images[:2])
                smooth = gradient_autocorrelation(model, list(layers.values()), ends[0], ends[1])
        starts = range(0, self.batch * len(batches), self.batch)  # all but the last are full
        index = torch.cat([batch.batch_idx + start for batch, start in zip(batches, starts, strict=True)])
        boxes = torch.cat([batch.boxes for batch in batches])
        whole = {level: torch.cat(parts) for level, parts in maps.items() if parts}
        found = probe_levels(whole, boxes, index)
        keys = {f"{Key.PROBE_AUC}_{name}": value for name, value in found.items()}
        return keys | ({Key.AUTOCORRELATION: smooth} if math.isfinite(smooth) else {}) | units()

    def _batches(self) -> list[Batch]:
        batches: list[Batch] = []
        seen = 0
        for batch in self.loader.eval_batches(batch=self.batch, workers=0):
            seen += len(batch.images)
            if seen > IMAGES or (batches and len(batch.images) == 1):  # no batch norm of a single image
                break
            batches.append(batch)
        return batches


@contextmanager
def untouched(state: TrainState) -> Iterator[None]:
    """Leave the model's buffers and mode, and the random generators, as they are now."""
    model, training = state.model, state.model.training
    kept = [(buffer, buffer.clone()) for buffer in model.buffers()]
    with preserve_random_state(state.device):
        try:
            yield
        finally:
            model.train(training)
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)
