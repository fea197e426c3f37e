"""The run's own record on disk: history.jsonl, summary.json and pictures of the predictions."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from detector.errors import describe_error
from detector.loggers.base import Logger, PredictionImage
from detector.rows import Key, Row
from detector.rundir import RunDir

_log = logging.getLogger(__name__)


class JsonlLogger(Logger):
    """Writes what happened where nothing but the disk can fail."""

    essential = True

    def __init__(
        self,
        run: RunDir,
        *,
        keep_before_step: int | None = None,
        report: Callable[[str], None] = _log.warning,
    ) -> None:
        """Open the history in the run's directory, which is created; see `RunDir.open_history`.

        `report` gets a line where something optional, a picture, fails.
        """
        self.run = run
        self._report = report
        self._pictures: dict[str, list[PredictionImage]] = {}
        self._history = run.open_history(keep_before_step, report=report)

    def log(self, row: Row) -> None:
        """Append one row; an evaluation's, which a checkpoint follows, is on the disk before that.

        Raises:
            OSError: the row could not be written whole; the file is as it was before.
        """
        self._history.append(row, sync=Key.VAL_MAP in row)

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """Keep the newest pictures of each split; they are drawn at the end."""
        for split in {image.split for image in images}:
            self._pictures[split] = [image for image in images if image.split == split]

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Write summary.json atomically, then draw the pictures.

        Raises:
            OSError: the summary could not be written.
        """
        self.run.write_summary(summary)
        for split, images in self._pictures.items():
            target = self.run.plots / f"predictions_{split}.png"
            try:
                from detector.loggers.images import save_grid

                save_grid(images, target)
            except Exception as error:  # a picture is a convenience, the summary above is the result
                self._report(f"{target}: not drawn: {describe_error(error)}")

    def close(self, exit_code: int = 0) -> None:
        """Close the history. Closing twice is fine."""
        self._history.close()
