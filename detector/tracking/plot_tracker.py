"""Draws the run's plots when it has finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detector.config import ModelConfig
from detector.gradients.theory import overlay
from detector.tracking.local import read_history
from detector.tracking.plots import write_plots
from detector.tracking.tracker import Tracker


class PlotTracker(Tracker):
    """Writes `plots/*.png` from the run's own history, so that a resumed run is drawn whole."""

    def __init__(self, directory: Path, model: ModelConfig) -> None:
        """Draw the run in `directory`, and over its first step what theory expects of such a model."""
        self.directory, self.model = directory, model

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Draw. Raises OSError if a file cannot be written."""
        history = read_history(self.directory / "history.jsonl")
        first = next((row for row in history if row.get("step") == 0), {})
        prefix = "activation_grad/"
        measured = {key.removeprefix(prefix): norm for key, norm in first.items() if key.startswith(prefix)}
        write_plots(history, summary, self.directory / "plots", overlay(self.model, measured))
