"""The curves for TensorBoard, as event files in the run's directory: `tensorboard --logdir runs`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

from detector.errors import UserError
from detector.loggers import curves
from detector.loggers.base import Logger, PredictionImage, Row
from detector.loggers.throttle import Throttle
from detector.rows import Key

_SECONDS = 30.0  # between pictures, whose encoding takes longer than a step of a small network


def check_installed() -> None:
    """Raise UserError where TensorBoard is missing."""
    if find_spec("tensorboard") is None:
        raise UserError(
            "tracking.tensorboard: tensorboard is not installed: pip install 'gradient-detector[tensorboard]'"
        )


class TensorboardLogger(Logger):
    """Writes rows, pictures of predictions and the diagnosis; also useful without the rest of a run.

    A row is in the file when `log` returns, so that a killed process loses none. Norms of layers are written
    as log10, under one prefix, and mAP and loss come first: see `detector.loggers.curves`.
    """

    def __init__(
        self, directory: Path, *, first_step: int | None = None, history: Iterable[Row] = ()
    ) -> None:
        """Open a new event file in the directory, which is created.

        Args:
            directory: what `tensorboard --logdir` shows as one run.
            first_step: resume: what earlier files say of this step and later ones counts no more.
            history: the rows before that, written if there is no earlier file.

        Raises:
            UserError: TensorBoard is not installed.
        """
        check_installed()
        from torch.utils.tensorboard import SummaryWriter

        resumed = first_step is not None and any(directory.glob("*tfevents*"))
        self._writer = SummaryWriter(str(directory), purge_step=first_step if resumed else None)
        self._pictures: tuple[int, Sequence[PredictionImage]] = 0, ()
        self._throttle = Throttle(_SECONDS)
        self._step = 0
        for row in () if resumed else history:
            self.log(row)

    def log(self, row: Row) -> None:
        """Write a row's numbers. Raises OSError if the disk is full."""
        from tensorboard.compat.proto.summary_pb2 import Summary

        self._step = int(row.get(Key.STEP, self._step))
        plain = {k: v for k, v in row.items() if k != Key.STEP and not k.startswith(curves.KINDS)}
        named = curves.glance(row) | plain | curves.layers(row)
        # As one event: `add_scalar` would write one a number, and take ten times as long.
        values = [Summary.Value(tag=key, simple_value=value) for key, value in named.items()]
        self._writer._get_file_writer().add_summary(Summary(value=values), self._step)
        self._writer.flush()

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """Write pictures of the predictions: at most every 30 seconds, and the last ones."""
        self._pictures = step, images
        if self._throttle.ready():
            self._draw()

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Write the last pictures and the diagnosis."""
        self._draw()
        if (diagnosis := summary.get(Key.DIAGNOSIS)) is not None:
            self._writer.add_text("diagnosis", str(diagnosis), self._step)

    def close(self, exit_code: int = 0) -> None:
        """Close the file. Closing twice is fine."""
        self._writer.close()

    def _draw(self) -> None:
        from detector.loggers.images import draw, grid

        step, images = self._pictures
        for split in dict.fromkeys(image.split for image in images):
            sheet = grid([draw(image) for image in images if image.split == split])
            self._writer.add_image(f"predictions/{split}", sheet, step, dataformats="HWC")
        self._pictures = step, ()
