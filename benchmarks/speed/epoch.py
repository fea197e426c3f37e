"""An epoch of four images: how much of it is neither the step nor the evaluation."""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

from benchmarks.speed import peer
from benchmarks.speed.row import Row

SIZE, BATCH, EPOCHS, WARM, ROUNDS = 320, 4, 80, 20, 4
# Nothing is augmented: that belongs to the batch, and has a benchmark of its own.
PLAIN = ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr")


class Clock:
    """Seconds spent in some functions, those called by others of them counted once."""

    def __init__(self) -> None:
        self.seconds, self._depth = 0.0, 0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        """The same function, timed."""

        @wraps(function)
        def timed(*arguments: Any, **keywords: Any) -> Any:
            started, self._depth = time.perf_counter(), self._depth + 1
            try:
                return function(*arguments, **keywords)
            finally:
                self._depth -= 1
                if not self._depth:
                    self.seconds += time.perf_counter() - started

        return timed


def ours(folder: Path) -> tuple[float, float]:
    """A run with an evaluation each epoch, W&B offline: seconds an epoch, and the share beside the work.

    The work is what a bare loop on the same batches would do as well: preparing a batch, forward, loss,
    backward, clipping, optimizer, average and the evaluation. The rest is recording, reports, pictures,
    checkpoints, and what W&B's own thread and process take from the core.
    """
    from benchmarks.speed.step import our_steps
    from detector.config.loading import load_config
    from detector.data.sources import PROJECT
    from detector.fit import fit
    from detector.training import callbacks

    clock = Clock()
    marks: list[tuple[float, float]] = []  # when, and how long evaluations had taken until then

    class Marks(callbacks.Callback):
        """One after the first epochs, in which W&B starts, and one before the last, which ends a run."""

        def on_record(self, row: dict[str, float]) -> None:
            if row["step"] + 1 in (WARM, EPOCHS):
                marks.append((time.perf_counter(), clock.seconds))

    keys = ["data.path=datasets/coco8.yaml", f"data.image_size={SIZE}", f"train.batch={BATCH}",
            f"train.epochs={EPOCHS + 1}", "train.eval_every=1", "train.threads=1", "train.device=cpu",
            "tracking.wandb=offline", f"run.dir={folder}", *(f"data.{key}=0.0" for key in PLAIN)]  # fmt: skip
    plain, callbacks.evaluate = callbacks.evaluate, clock.around(callbacks.evaluate)
    try:
        ended = fit(load_config(PROJECT / "configs" / "from_scratch.yaml", keys), callbacks=[Marks()])
    finally:
        callbacks.evaluate = plain
    if ended.exit_code:
        raise SystemExit(f"the run ended with {ended.exit_code}")
    (begun, before), (done, after) = marks
    steps = our_steps(EPOCHS - WARM)
    started = time.perf_counter()
    steps()
    work = after - before + time.perf_counter() - started
    return (done - begun) / (EPOCHS - WARM), (done - begun - work) / (done - begun)


def theirs(data: Path, folder: Path) -> tuple[float, float]:
    """Their trainer with its defaults, plots off: the same two figures, the work timed where it is done."""
    made = peer.trainer(data, folder, imgsz=SIZE, batch=BATCH, nbs=BATCH, epochs=EPOCHS + 1,
                        **dict.fromkeys(PLAIN, 0.0))  # fmt: skip
    clock = Clock()
    marks: list[tuple[float, float]] = []
    made.model.forward = clock.around(made.model.forward)
    made.preprocess_batch, made.optimizer_step = map(
        clock.around, (made.preprocess_batch, made.optimizer_step)
    )
    made.validate = clock.around(made.validate)
    scale = made.scaler.scale

    class Backward:
        """What `scaler.scale(loss)` gives, with its backward pass timed."""

        def __init__(self, loss: Any) -> None:
            self.backward = clock.around(scale(loss).backward)

    made.scaler.scale = Backward
    made.add_callback("on_fit_epoch_end", lambda _: marks.append((time.perf_counter(), clock.seconds)))
    made._setup_train = made.final_eval = lambda: None
    made._do_train()
    (begun, before), (done, after) = marks[WARM - 1], marks[EPOCHS - 1]
    return (done - begun) / (EPOCHS - WARM), (done - begun - after + before) / (done - begun)


def measure() -> list[Row]:
    """Whole runs in turns: seconds an epoch, and the share of it that is neither step nor evaluation."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = peer.coco8(folder)
        mine, other = [], []
        for round_ in range(ROUNDS):
            mine.append(ours(folder / f"ours-{round_}"))
            other.append(theirs(data, folder / f"theirs-{round_}"))
    what = f"an epoch of COCO8, the same yolov8n, {SIZE} px: train, validate, checkpoint, log"
    peer_name = "ultralytics' trainer"
    shares = [[100 * share for _, share in side] for side in (mine, other)]
    return [
        Row(f"{what}; beside step and evaluation", peer_name, "%", *shares, 5, absolute=True,
            note="nothing augmented; W&B (offline) only in ours, its start not counted"),
        Row(what, peer_name, "s", [s for s, _ in mine], [s for s, _ in other], 1.0),
    ]  # fmt: skip
