"""Weights & Biases, kept at arm's length: it never asks, never blocks a step and never raises."""

from __future__ import annotations

import math
import os
import queue
import re
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from detector.config.schema import Config
from detector.errors import say
from detector.loggers.base import PredictionImage, Row, Tracker, describe
from detector.loggers.wandb_session import (
    Start,
    kill_service,
    open_run,
    reset,
    set_aside_earlier,
    wanted_mode,
)

if TYPE_CHECKING:
    import wandb

_BEST = ("val/mAP50-95", "train/mAP50-95")
_EVALUATION = "val/mAP50-95"  # a row with this key is an evaluation
_PER_LAYER = ("activation_grad/", "weight_grad/", "update_ratio/")
_CURVES = ("train/*", "val/*", "gradient/*", "signal/*", "time/*")
_MOST_WAITING = 5_000  # rows: about 50 MB; W&B takes 2,000 a second, so it is dead by then
_SLOW = 3.0  # seconds for a chart, which takes 8 ms
_GRACE = 5.0  # seconds beyond W&B's own time limits before it is given up


class WandbTracker(Tracker):
    """Mirrors the run to W&B: online where a key is known, else offline for `wandb sync`.

    Every call only hands work to a thread of its own, which imports wandb, starts the run and talks to
    it. A dead network, a killed service process or a full disk therefore costs the training loop
    nothing; after the first failure the tracker is quiet. Only `close` waits, for a bounded time.

    A run that was killed leaves W&B behind the local history, by all that was waiting to be written or
    sent. One that goes on makes up for it: online with the rows that the server lacks, offline with all of
    them, so that the newest offline file is the whole run.

    Where wandb goes on: `<directory>/wandb/`. The API key is read by wandb alone and stored nowhere.
    """

    def __init__(
        self,
        directory: Path,
        config: Config,
        *,
        ablation: str,
        dataset: str,
        job_type: str = "train",
        resume_id: str | None = None,
        history: Sequence[Row] = (),
        report: Callable[[str], None] = say,
        init_timeout: float = 30.0,
        finish_timeout: float = 60.0,
    ) -> None:
        """Only prepare the run: it is started with the first row, not beside the imports and the first step.

        Args:
            directory: the run's directory.
            config: the resolved configuration; all of it is recorded.
            ablation: names the run and, unless `tracking.group` says otherwise, its group.
            dataset: the data's name, a tag.
            job_type: what W&B files the run under, within its group.
            resume_id: the `id` of the run to continue.
            history: the rows kept when a run is continued: they hold its beginning and its best, and
                those that W&B does not have are sent again.
            report: gets the lines a human should see, from another thread.
            init_timeout: seconds to wait for the server before recording offline.
            finish_timeout: seconds to wait at the end for uploads.
        """
        self._id = resume_id or os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        self._report = report
        self._run: wandb.Run | None = None
        self._first: Row | None = None
        self._best: dict[str, float] = {}
        self._defined: set[str] = set()
        self._slow = False
        self._exit_code = 0
        self._jobs: queue.SimpleQueue[Callable[[wandb.Run], None] | None] = queue.SimpleQueue()
        self._started = threading.Event()
        self._quiet = threading.Event()
        self._init_timeout, self._finish_timeout = init_timeout, finish_timeout
        for row in history:
            self._remember(row)
        self._earlier = list(history)

        mode = wanted_mode(config.tracking.wandb)
        self._thread: threading.Thread | None = None
        if mode == "disabled":
            self._quiet.set()
            return
        if config.data.workers:
            # Loader processes are forked: one forked while another thread is inside an import can hang.
            _import_wandb()
        name = f"{ablation}-s{config.train.seed}"
        facts = {"ablation": ablation, "seed": config.train.seed, "dataset": dataset}
        start = Start(
            directory=Path(directory),
            id=self._id,
            project=config.tracking.project,
            entity=config.tracking.entity,
            group=config.tracking.group or ablation,
            name=name,
            tags=tuple(dict.fromkeys((ablation, dataset, *config.tracking.tags))),
            config=facts | config.model_dump(mode="json"),
            resume=resume_id is not None,
            init_timeout=init_timeout,
            finish_timeout=finish_timeout,
            job_type=job_type,
        )
        self._name = name
        self._jobs.put(self._catch_up)
        self._thread = threading.Thread(
            target=self._work, args=(lambda: open_run(start, mode, self._say),), name="wandb", daemon=True
        )

    @property
    def id(self) -> str:
        """What `resume_id` takes to continue this run."""
        return self._id

    def wait_started(self, timeout: float) -> bool:
        """Start the run, and wait until that is done or given up; False if neither happened in time."""
        self._begin()
        return self._thread is None or self._started.wait(timeout)

    @property
    def url(self) -> str | None:
        """The run's page, once it is started online."""
        return self._run.url if self._run is not None else None

    def log(self, row: Row) -> None:
        """Send a row; at an evaluation also a chart of gradient norm against depth."""
        self._remember(row)
        for job in self._jobs_of(dict(row)):
            self._submit(job)

    def predictions(self, step: int, images: Sequence[PredictionImage]) -> None:
        """Send pictures with predicted and true boxes, as `predictions/<split>`."""
        kept = list(images)

        def send(run: wandb.Run) -> None:
            from detector.loggers.wandb_media import pictures

            splits = dict.fromkeys(image.split for image in kept)
            run.log(
                {f"predictions/{s}": pictures([image for image in kept if image.split == s]) for s in splits},
                step=step,
            )

        self._submit(self._while_quick(send))

    def send(self, job: Callable[[wandb.Run], None]) -> None:
        """Do something else with the run, in its thread."""
        self._submit(job)

    def finish(self, summary: Mapping[str, object], checkpoint: Path | None) -> None:
        """Send the summary with the best mAPs, then the checkpoint as an artifact of type "model"."""
        result = {f"best/{key}": value for key, value in self._best.items()} | dict(summary)
        self._submit(lambda run: run.summary.update(result))
        if checkpoint is None:
            return
        path = Path(checkpoint)

        def send(run: wandb.Run) -> None:
            import wandb

            name = re.sub(r"[^\w.-]", "-", f"{self._name}-{self._id}", flags=re.ASCII)[:128]
            artifact = wandb.Artifact(name, type="model")
            artifact.add_file(str(path), name="best.pt")
            run.log_artifact(artifact, aliases=["best"])

        self._submit(self._while_quick(send))

    def close(self, exit_code: int = 0) -> None:
        """End the run, waiting at most for W&B's time limits to start and to upload."""
        self._begin()  # a run that failed before its first row is to be seen there, too
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._exit_code = exit_code
        self._jobs.put(None)
        thread.join(2.0)
        if thread.is_alive():
            self._report("W&B: waiting for the upload; the run itself is complete.")
        # An unreachable server costs wandb twice its limit, and the offline run after it starts once more.
        if self._started.wait(3 * self._init_timeout + _GRACE):
            thread.join(self._finish_timeout + 2 * _GRACE)
        if thread.is_alive():
            hint = f". {_sync(self._run)}" if self._run is not None else ""
            self._give_up(f"given up: it did not end in time{hint}")
            kill_service()
            thread.join(_GRACE)  # it now fails quickly, and clears what would complain at exit
            if thread.is_alive():  # else wandb would do that at exit, with a traceback
                clearing = threading.Thread(target=reset, name="wandb reset", daemon=True)
                clearing.start()
                clearing.join(_GRACE)

    # Below: the run's own thread, and what it shares with the others.

    def _work(self, start: Callable[[], wandb.Run]) -> None:
        try:
            self._run = start()
            self._id = self._run.id  # a sweep chooses it
            self._define(self._run)
            self._say(self._where(self._run))
        except (Exception, SystemExit) as error:
            self._give_up(f"not started: {describe(error)}")
        self._started.set()
        while (job := self._jobs.get()) is not None:
            if self._run is None or self._quiet.is_set():
                continue
            try:
                job(self._run)
            except (Exception, SystemExit) as error:
                self._give_up(f"stopped: {describe(error)}")
        if self._run is not None:
            try:
                self._run.finish(exit_code=self._exit_code)
            except TimeoutError:
                self._give_up(f"not all was uploaded in time. {_sync(self._run)}")
            except (Exception, SystemExit) as error:
                self._give_up(f"not finished: {describe(error)}")
            reset()

    def _jobs_of(self, row: Row) -> list[Callable[[wandb.Run], None]]:
        first = self._first

        def send(run: wandb.Run) -> None:
            self._define_layers(run, row)
            run.log(dict(row), step=_step(row))

        def send_chart(run: wandb.Run) -> None:
            from detector.loggers.wandb_media import depth_chart

            chart = depth_chart(first, row) if first is not None else None
            if chart is not None:
                run.log({"depth_profile/activation_grad": chart}, step=_step(row))

        return [send, self._while_quick(send_chart)] if _EVALUATION in row else [send]

    def _catch_up(self, run: wandb.Run) -> None:
        """Send the earlier rows that W&B does not have: `starting_step` is the first of those."""
        rows, self._earlier = self._earlier, []
        if run.offline and rows and not set_aside_earlier(run):
            return
        for row in rows:
            if (_step(row) or 0) >= run.starting_step and not self._quiet.is_set():
                for job in self._jobs_of(row):
                    job(run)

    def _submit(self, job: Callable[[wandb.Run], None]) -> None:
        if self._quiet.is_set():
            return
        if self._jobs.qsize() >= _MOST_WAITING:
            self._give_up("stopped: it does not keep up with the rows")
            return
        self._jobs.put(job)
        self._begin()

    def _begin(self) -> None:
        if self._thread is not None and self._thread.ident is None:
            self._thread.start()

    def _give_up(self, why: str) -> None:
        if not self._quiet.is_set():
            self._quiet.set()
            self._report(f"W&B {why} (nothing local is lost)")

    def _say(self, text: str) -> None:
        if not self._quiet.is_set():
            self._report(text)

    def _remember(self, row: Row) -> None:
        if self._first is None and any(key.startswith("activation_grad/") for key in row):
            self._first = dict(row)
        for key in _BEST:
            value = row.get(key, math.nan)
            if math.isfinite(value):
                self._best[key] = max(value, self._best.get(key, value))

    @staticmethod
    def _define(run: wandb.Run) -> None:
        run.define_metric("step", hidden=True)
        for glob in _CURVES:
            run.define_metric(glob, step_metric="step")

    def _define_layers(self, run: wandb.Run, row: Row) -> None:
        """Keep layers out of the table of runs, where a column each would bury the rest.

        One by one: W&B's globs do not match the dots in our names, which it reads as nesting.
        """
        for key in row:
            if key.startswith(_PER_LAYER) and key not in self._defined:
                self._defined.add(key)
                run.define_metric(key.replace(".", r"\."), step_metric="step", summary="none")

    def _while_quick(self, job: Callable[[wandb.Run], None]) -> Callable[[wandb.Run], None]:
        """The job, left out once one like it was slow.

        Charts, pictures and checkpoints wait for the server, unlike rows: with a server that went away
        each would hold up the rows behind it through all of its retries.
        """

        def quick(run: wandb.Run) -> None:
            if self._slow:
                return
            began = time.monotonic()
            job(run)
            if time.monotonic() - began > _SLOW:
                self._slow = True
                self._say("W&B: the server is slow: charts, pictures and checkpoints stay local from here on")

        return quick

    @staticmethod
    def _where(run: wandb.Run) -> str:
        return f"W&B: offline. {_sync(run)}" if run.offline else f"W&B: {run.url}"


def _sync(run: wandb.Run) -> str:
    folder = Path(run.settings.sync_dir)
    return f"Look: wandb leet {folder.parent}   Upload: wandb sync {folder}"


def _step(row: Mapping[str, Any]) -> int | None:
    return int(row["step"]) if "step" in row else None


def _import_wandb() -> None:
    try:
        import wandb  # noqa: F401
    except Exception:
        return  # the thread will say what is wrong
