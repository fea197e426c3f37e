"""Draws the run's plots when it has finished."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from detector.tracking.local import read_history
from detector.tracking.plots import write_plots
from detector.tracking.tracker import Tracker


class PlotTracker(Tracker):
    """Writes `plots/*.png` from the run's own history, so that a resumed run is drawn whole."""

    def __init__(self, directory: Path) -> None:
        """Draw the run in `directory`."""
        self.directory = directory

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Draw. Raises OSError if a file cannot be written."""
        write_plots(read_history(self.directory / "history.jsonl"), summary, self.directory / "plots")
