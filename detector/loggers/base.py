"""The one interface between training and everything that watches it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.errors import describe_error
from detector.rows import Row as Row

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True, eq=False)
class PredictionImage:
    """One image with what the detector found on it and what is really there.

    Boxes are corners in pixels of `image`: left, top, right, bottom.
    """

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    boxes: NDArray[Any]  # (N, 4) predictions
    classes: NDArray[Any]  # (N,) indices into class_names
    scores: NDArray[Any]  # (N,) in 0..1
    truth_boxes: NDArray[Any]  # (M, 4)
    truth_classes: NDArray[Any]  # (M,)
    name: str  # the file's name, for a caption
    class_names: tuple[str, ...]
    split: str  # "train" or "val"

    def class_name(self, index: int) -> str:
        """The class's name, or its number where the dataset names none."""
        index = int(index)
        return self.class_names[index] if 0 <= index < len(self.class_names) else str(index)


class Logger:
    """Watches a run and changes nothing: every method here does nothing, so that a run may have none.

    The calls come in this order: `first_batch` at most once, `log`, `predictions` and `message` any
    number of times, `finish` once when training ended by itself, `close` once, always.
    """

    essential: bool = False
    """True for the record that a run must not continue without: its errors reach the engine."""

    def first_batch(self, images: Sequence[PredictionImage]) -> None:
        """Take the first training batch as the model will see it: augmented, with no predictions."""

    def log(self, row: Row) -> None:
        """Take one logged step."""

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """Take the predictions of one evaluation on some images of one or more splits."""

    def message(self, text: str) -> None:
        """Show a line to a human."""

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Take the run's result, and the checkpoint worth keeping, if there is one."""

    def close(self, exit_code: int = 0) -> None:
        """Release everything; the run ended with this exit code."""


class LoggerList(Logger):
    """Several loggers as one.

    One that fails is told nothing more, and the others say so: a full dashboard quota or a closed
    terminal must not end a training run. Only an essential logger's error is raised, after the
    others have had the same call.
    """

    essential = True

    def __init__(self, loggers: Iterable[Logger]) -> None:
        """Fan out to `loggers`, in this order."""
        self._loggers = list(loggers)
        self._failed: set[int] = set()  # by position: a logger may define equality

    def first_batch(self, images: Sequence[PredictionImage]) -> None:
        """See `Logger.first_batch`."""
        self._each(lambda logger: logger.first_batch(images))

    def log(self, row: Row) -> None:
        """See `Logger.log`. Raises OSError if the local history cannot be written."""
        self._each(lambda logger: logger.log(row))

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """See `Logger.predictions`."""
        self._each(lambda logger: logger.predictions(step, images))

    def message(self, text: str) -> None:
        """See `Logger.message`."""
        self._each(lambda logger: logger.message(text))

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """See `Logger.finish`. Raises OSError if the summary cannot be written."""
        self._each(lambda logger: logger.finish(summary, checkpoint))

    def close(self, exit_code: int = 0) -> None:
        """See `Logger.close`. Reaches failed loggers too: they may still hold a file or a thread."""
        self._failed.clear()
        self._each(lambda logger: logger.close(exit_code))

    def _each(self, call: Callable[[Logger], None]) -> None:
        fatal: Exception | None = None
        news: list[str] = []
        for position, logger in enumerate(self._loggers):
            if position in self._failed:
                continue
            try:
                call(logger)
            except Exception as error:
                if logger.essential:
                    fatal = fatal or error
                    continue
                self._failed.add(position)
                news.append(f"{type(logger).__name__} stopped: {describe_error(error)} (training continues)")
        for text in news:
            self.message(text)  # ends: each round of news silences a logger
        if fatal is not None:
            raise fatal
