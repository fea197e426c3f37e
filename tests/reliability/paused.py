"""Runs that stand still for ever once they have come to a chosen place, so that they can be killed there."""

from __future__ import annotations

import io
import json
import os
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, Any


class Pause:
    """Counts how often the run comes by, and stops it at the right time."""

    def __init__(self, count: int, flag: Path) -> None:
        self.left, self.flag = count, flag

    def due(self) -> bool:
        self.left -= 1
        return self.left < 0

    def wait(self) -> None:
        self.flag.touch()
        time.sleep(300)
        os._exit(99)  # the test is gone


def half_a_checkpoint(pause: Pause) -> None:
    import torch

    save = torch.save

    def half(state: object, file: IO[bytes]) -> None:
        stream = io.BytesIO()
        save(state, stream)
        data = stream.getvalue()
        if pause.due():
            file.write(data[: len(data) // 2])
            file.flush()
            pause.wait()
        file.write(data)

    torch.save = half


def before_naming(pause: Pause, suffix: str) -> None:
    replace = os.replace

    def patched(source: Path, target: Path) -> None:
        if target.name.endswith(suffix) and pause.due():
            pause.wait()
        replace(source, target)

    os.replace = patched  # type: ignore[assignment]


def after_naming(pause: Pause, suffix: str) -> None:
    replace = os.replace

    def patched(source: Path, target: Path) -> None:
        replace(source, target)
        if target.name.endswith(suffix) and pause.due():
            pause.wait()

    os.replace = patched  # type: ignore[assignment]


def evaluation(pause: Pause) -> None:
    from detector.training import evaluation

    predict = evaluation.predict_split

    def patched(forward: Any, model: Any, batches: Iterable[Any], items: Any) -> Any:
        def watched() -> Iterator[Any]:
            for batch in batches:
                if pause.due():
                    pause.wait()
                yield batch

        return predict(forward, model, watched(), items)

    evaluation.predict_split = patched


def row(pause: Pause, written: str) -> None:
    from detector.rundir.lines import HistoryWriter

    append = HistoryWriter.append

    def patched(self: HistoryWriter, row: Any, **options: Any) -> None:
        if written == "half" and pause.due():
            data = json.dumps({key: float(value) for key, value in row.items()}).encode()
            self._file.write(data[: len(data) // 2])
            pause.wait()
        append(self, row, **options)
        if written == "whole" and "val/mAP50-95" in row and pause.due():
            pause.wait()

    HistoryWriter.append = patched  # type: ignore[method-assign]


PLACES = {
    "half-a-checkpoint": half_a_checkpoint,
    "evaluation": evaluation,
    "checkpoint-without-name": lambda pause: before_naming(pause, ".pt"),
    "checkpoint-just-named": lambda pause: after_naming(pause, ".pt"),
    "half-a-row": lambda pause: row(pause, "half"),
    "row-without-checkpoint": lambda pause: row(pause, "whole"),
    "history-being-cut": lambda pause: before_naming(pause, "history.jsonl"),  # only where a run is resumed
    "result-without-name": lambda pause: before_naming(pause, "summary.json"),
}


def pause_at(place: str, count: str, flag: str) -> None:
    """Stand still for ever the COUNT-th time (from 0) that the run comes to PLACE, once FLAG is there."""
    from detector.training.checkpoints import Checkpointing

    Checkpointing.offer = Checkpointing.save  # type: ignore[method-assign]  # as in a run of ordinary length
    PLACES[place](Pause(int(count), Path(flag)))
