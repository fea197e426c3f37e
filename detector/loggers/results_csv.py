"""results.csv with the columns of ultralytics, for whatever reads theirs: a line an evaluation.

What a run here does not measure (precision and recall at one confidence, the loss on val) is empty.
`history.jsonl` is the record; this is a view of it.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable

from detector.loggers.base import Logger
from detector.rows import Key, Row
from detector.rundir import RunDir

# ultralytics' column -> our key; "" is not measured.
COLUMNS = {
    "epoch": Key.EPOCH,  # from 1
    "time": "",  # seconds of training so far, evaluations not counted
    "train/box_loss": Key.LOSS_BOX,  # of the evaluation's step, not a mean over the epoch
    "train/cls_loss": Key.LOSS_CLS,
    "train/dfl_loss": Key.LOSS_DFL,
    "metrics/precision(B)": "",
    "metrics/recall(B)": "",
    "metrics/mAP50(B)": Key.VAL_MAP50,
    "metrics/mAP50-95(B)": Key.VAL_MAP,
    "val/box_loss": "",
    "val/cls_loss": "",
    "val/dfl_loss": "",
    **{f"lr/pg{group}": Key.LR for group in range(3)},
}


class ResultsCsv(Logger):
    """Writes a line when mAP was measured."""

    def __init__(self, run: RunDir, history: Iterable[Row] = ()) -> None:
        """Begin the file, with the evaluations of a run that is resumed. Raises OSError."""
        self._seconds, self._steps = 0.0, 0
        self._file = run.results_file.open("w", newline="", encoding="utf-8")
        self._writer = csv.writer(self._file, lineterminator="\n")
        self._writer.writerow(COLUMNS)
        for row in history:
            self.log(row)

    def log(self, row: Row) -> None:
        """Write a line if the row is an evaluation's, and keep the time in any case. Raises OSError."""
        step = int(row[Key.STEP]) + 1
        self._seconds += row.get(Key.STEP_MS, 0.0) / 1000 * (step - self._steps)
        self._steps = step
        if Key.VAL_MAP in row:
            values = {"epoch": row[Key.EPOCH] + 1, "time": f"{self._seconds:.6g}"}
            values |= {c: f"{row[key]:.6g}" for c, key in COLUMNS.items() if key in row and c not in values}
            self._writer.writerow([values.get(column, "") for column in COLUMNS])
            self._file.flush()

    def close(self, exit_code: int = 0) -> None:
        """Closing twice is fine."""
        self._file.close()
