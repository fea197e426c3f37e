"""Draws the first batch when a run begins, and its plots when it has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.analysis.trunk_theory import overlay
from detector.config.schema import ModelConfig
from detector.loggers.base import Logger, PredictionImage
from detector.loggers.plots import write_plots
from detector.models.curve import curve_of
from detector.rows import Key, by_layer
from detector.rundir import RunDir


class PlotLogger(Logger):
    """Writes `plots/*.png` from the run's own history, so that a resumed run is drawn whole."""

    def __init__(self, run: RunDir, model: ModelConfig) -> None:
        """Draw this run, and over its first step what theory expects of such a model."""
        self.run, self.model = run, model

    def first_batch(self, images: Sequence[PredictionImage]) -> None:
        """Draw `plots/train_batch.png`. Raises OSError if it cannot be written."""
        from detector.loggers.images import draw_labels, save_grid

        save_grid(images, self.run.plots / "train_batch.png", draw=draw_labels)

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Draw. Raises OSError if a file cannot be written."""
        history = self.run.rows()
        first = next((row for row in history if row.get(Key.STEP) == 0), {})
        measured = by_layer(first, Key.ACTIVATION_GRAD)
        expected = overlay(self.model, measured, curve_of(self.model.act, self.model))
        write_plots(history, summary, self.run.plots, expected)
