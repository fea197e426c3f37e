"""Draws the first batch when a run begins, and its plots when it has finished."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from detector.analysis.theory import overlay
from detector.config.schema import ModelConfig
from detector.loggers.base import PredictionImage, Tracker
from detector.loggers.jsonl import read_history
from detector.loggers.plots import write_plots
from detector.models.curve import curve_of


class PlotTracker(Tracker):
    """Writes `plots/*.png` from the run's own history, so that a resumed run is drawn whole."""

    def __init__(self, directory: Path, model: ModelConfig) -> None:
        """Draw the run in `directory`, and over its first step what theory expects of such a model."""
        self.directory, self.model = directory, model

    def first_batch(self, images: Sequence[PredictionImage]) -> None:
        """Draw `plots/train_batch.png`. Raises OSError if it cannot be written."""
        from detector.loggers.images import draw_labels, save_grid

        save_grid(images, self.directory / "plots" / "train_batch.png", draw=draw_labels)

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Draw. Raises OSError if a file cannot be written."""
        history = read_history(self.directory / "history.jsonl")
        first = next((row for row in history if row.get("step") == 0), {})
        prefix = "activation_grad/"
        measured = {key.removeprefix(prefix): norm for key, norm in first.items() if key.startswith(prefix)}
        expected = overlay(self.model, measured, curve_of(self.model.act))
        write_plots(history, summary, self.directory / "plots", expected)
