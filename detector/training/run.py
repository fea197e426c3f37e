"""One run as a whole: its directory, what watches it, its first words and its last."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

from detector.analysis.evidence import read_effects
from detector.analysis.explain import explain
from detector.config.loading import LoadedConfig, parse_overrides
from detector.data.dataset import Dataset
from detector.data.loader import Loader
from detector.errors import UserError, say
from detector.gradients.entries import Entry, read_ledger, write_ledger
from detector.gradients.nonfinite import NonFiniteOrigin
from detector.loggers.base import Logger
from detector.loggers.build import build_loggers
from detector.loggers.tensorboard import check_installed
from detector.models.build import describe
from detector.models.curve import curve_of
from detector.models.size import measure
from detector.registry import with_plugins
from detector.rows import Key
from detector.rundir import RunDir
from detector.runtime.checkpoint_check import CheckpointState, Metadata
from detector.runtime.distributed import SingleProcess
from detector.runtime.files import TRAIN, new_folder
from detector.runtime.lock import FolderLock
from detector.runtime.process import EXIT_DIVERGED, EXIT_INTERRUPTED_BY_SYSTEM
from detector.runtime.random_state import preserve_random_state
from detector.training import nonfinite_guard
from detector.training.checkpoints import Checkpointing, load_state
from detector.training.engine import Status
from detector.training.examples import batch_images
from detector.training.pointers import pointers
from detector.training.prepare import notes
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from detector.training.summary import cost_of, summarize

SHOWN = 4  # differences from the base in a line; those of the command line are always there


@dataclass(frozen=True)
class FinishedRun:
    """What `fit` leaves behind."""

    directory: Path
    status: Status
    exit_code: int  # 0; 3 if training diverged unexpectedly; 128 + the signal that stopped it
    summary: Mapping[str, Any]  # as in summary.json; empty on all processes but the main one


@dataclass
class Run:
    """A run's files and its loggers. As a context it closes the loggers, whatever happens."""

    files: RunDir
    loaded: LoadedConfig
    dataset: Dataset
    logger: Logger
    metadata: Metadata  # kept with each checkpoint
    is_main: bool  # whether this process is the one that writes
    where: str  # device, precision, processes
    label: str  # of the ablation, and of the data if that is another than usual
    world_size: int
    resumed: bool
    exit_code: int = EXIT_INTERRUPTED_BY_SYSTEM  # unless the end is reached

    def __enter__(self) -> Run:
        """Nothing is to be done before."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the loggers."""
        self.logger.close(self.exit_code)
        if kind is None and self.is_main:
            self.files.finishing.unlink(missing_ok=True)

    def write_ledger(self, step: int, entries: Sequence[Entry]) -> None:
        """Write one step's entries."""
        if self.is_main:
            write_ledger(self.files, step, entries)

    def save_nonfinite_step(self, step: nonfinite_guard.NonFiniteStep) -> None:
        """Report a step that was rejected, and keep it to be replayed."""
        if self.is_main:
            nonfinite_guard.save_nonfinite_step(
                step, self.files, self.dataset, self.metadata, self.where, self.logger.message
            )

    def checkpointing(self, state: TrainState, schedule: Schedule) -> Checkpointing:
        """What writes this run's checkpoints; all processes take part."""
        monitor = self.loaded.config.train.monitor
        return Checkpointing(state, schedule, self.files, self.metadata, monitor, writes=self.is_main)

    def announce(
        self, state: TrainState, schedule: Schedule, loaders: Mapping[str, Loader], weights_note: str
    ) -> None:
        """Say what is about to be trained."""
        config, tell = self.loaded.config, self.logger.message
        counts = ", ".join(f"{len(loader)} {split}" for split, loader in loaders.items())
        tell(f"{self.label} on {self.dataset.name} ({counts} images), seed {config.train.seed}, {self.where}")
        tell(f"{measure(state.model, config.data.image_size)}; {schedule.steps} steps, to {self.files}")
        if self.loaded.path != self.files.config_file:  # else it is resumed: that file is its own base
            tell(self._difference())
        if self.resumed:
            tell(f"resumed at step {state.step} of {schedule.steps}")
        for line in filter(None, (weights_note, *notes(config, self.dataset, schedule))):
            tell(line)

    def _difference(self) -> str:
        """What makes the experiment another than its base, in a line; the command line's part comes first."""
        typed = parse_overrides(self.loaded.overrides)
        changes = sorted(self.loaded.difference, key=lambda change: change.partition(":")[0] not in typed)
        if not changes:
            return "no changes from the base configuration"
        shown = changes[: max(SHOWN, sum(change.partition(":")[0] in typed for change in changes))]
        more = f"; and {len(changes) - len(shown)} more, see {self.files.config_file}"
        return f"differs from the base in: {'; '.join(shown)}{more * (len(shown) < len(changes))}"

    def show_first_batch(
        self, state: TrainState, schedule: Schedule, loader: Loader, dist: SingleProcess
    ) -> None:
        """Draw the first training batch as the network will see it."""
        config = self.loaded.config
        if not config.tracking.plots or state.step > 0:
            return
        with preserve_random_state(state.device), dist.raise_together():
            first = loader.train_batches(
                batch=config.train.batch, seed=config.train.seed, stop=1, epochs=schedule.epochs, workers=0
            )
            images = batch_images(next(first), self.dataset)
        self.logger.first_batch([image for part in dist.gather_object(images) for image in part])

    def finish(
        self,
        status: Status,
        state: TrainState,
        schedule: Schedule,
        origin: NonFiniteOrigin | None,
        checkpoints: Checkpointing,
        resume_command: str,
        stop_code: int,
    ) -> FinishedRun:
        """Leave the last checkpoint and the summary behind, and say how the run ended."""
        config, exit_code = self.loaded.config, 0
        if status == "stopped":
            exit_code = stop_code
            checkpoints.save()
            self.logger.message(f"interrupted; resume with: {resume_command}")
        elif status == "diverged":
            exit_code = 0 if config.train.on_nonfinite == "record" else EXIT_DIVERGED
            checkpoints.save_best()
            if state.skipped_in_a_row:
                limit = f"train.max_skipped={config.train.max_skipped}"
                self.logger.message(f"stopped: {limit} steps skipped in a row")
        if status == "finished":
            if state.step < schedule.steps:
                checkpoints.save()
            checkpoints.finish()
        summary: dict[str, Any] = {}
        if self.is_main:
            rows = self.files.rows()
            lost = schedule.lost(rows, state.step)
            summary = summarize(
                self.loaded.name,
                config.train.seed,
                self.dataset,
                status,
                origin,
                state,
                schedule,
                rows,
                self.world_size,
            )
            ledger, act = read_ledger(self.files), curve_of(config.model.act, config.model)
            if lost:
                summary[Key.STEPS_LOST] = lost
            if config.model.pretrained is not None:
                summary[Key.MODEL] = Path(config.model.pretrained).name
            summary |= cost_of(state, config.data.image_size)
            if status == "finished" and state.step < schedule.steps:
                summary["stopped_early"] = state.best_step
            summary |= explain(summary, rows, ledger, config, read_effects(), act)
            self.files.finishing.touch()
            self.logger.finish(summary, self._checkpoint(status, state))
            rest = resume_command if status == "stopped" else ""
            for line in pointers(self.files, self.loaded, self.dataset.name, rest):
                self.logger.message(line)
        self.exit_code = exit_code
        return FinishedRun(self.files.path, status, exit_code, summary)

    def _checkpoint(self, status: Status, state: TrainState) -> Path | None:
        """The one worth keeping: the best, or of a run that was stopped before any evaluation the last."""
        if status == "stopped" and not state.best:
            return self.files.last
        return self.files.best if self.files.best.exists() else None


def finished_before(
    resume: Path, saved: CheckpointState | None, schedule: Schedule, dist: SingleProcess
) -> FinishedRun | None:
    """A run that has nothing left to resume, after a line that says so; None for any other."""
    files = RunDir(resume)
    ended = dist.is_main_process and not files.finishing.exists()
    summary = dist.broadcast_object(files.scan_summary()[0] if ended else {})
    if saved is None or summary.get("status") != "finished" or saved["step"] != summary.get("steps"):
        return None
    steps = f"{saved['step']}/{schedule.steps} steps"
    early = ", stopped early by train.patience" if saved["step"] < schedule.steps else ""
    if dist.is_main_process:
        longer = f"{TRAIN} --config {files.config_file} train.steps=N run.dir=ANOTHER"
        say(
            f"{files}: finished already ({steps}{early}), nothing is changed; "
            f"to train longer, start a new run: {with_plugins(longer)}"
        )
    return FinishedRun(files.path, "finished", 0, summary if dist.is_main_process else {})


def open_run(
    loaded: LoadedConfig,
    dataset: Dataset,
    schedule: Schedule,
    state: TrainState,
    saved: CheckpointState | None,
    resume: Path | None,
    dist: SingleProcess,
    lock: FolderLock,
) -> Run:
    """Make a new run's directory, or bring `state` to where an interrupted run's checkpoint was.

    Raises:
        UserError: the directory holds another run, or the data is not what the run was trained on.
    """
    config = loaded.config
    label = loaded.name if dataset.name in ("coco8", loaded.name) else f"{loaded.name}-{dataset.name}"
    with dist.raise_together():
        new = None
        if config.tracking.tensorboard and dist.is_main_process:
            check_installed()  # before there is a directory
        if resume is None and dist.is_main_process:
            new = config.run.dir or str(new_folder(None, f"runs/{label}-s{config.train.seed}", "run.dir"))
            RunDir.create(new, config, lock)
    directory = resume or dist.broadcast_object(new)
    assert directory is not None
    files = RunDir(directory)
    interrupted, lost = None, list[int]()
    if saved is not None:
        if saved["extra"]["data_fingerprint"] != dataset.fingerprint:
            raise UserError(f"{config.data.path}: the data changed since {files} was trained on it")
        load_state(saved, state)
        interrupted = state.step, str(saved["extra"]["wandb_id"])
        if dist.is_main_process:
            rows = files.scan_history()[0] if files.history_file.is_file() else ()
            lost = schedule.lost(rows, state.step)
    logger, wandb_id = Logger(), ""
    with preserve_random_state(state.device), dist.raise_together():
        if dist.is_main_process:
            logger, wandb_id = build_loggers(files, config, label, dataset.name, schedule.steps, interrupted)
    metadata: Metadata = {
        "config": config.model_dump(mode="json"),
        "names": list(dataset.names),
        "architecture": describe(state.model),
        "data_fingerprint": dataset.fingerprint,
        "pixel_fingerprint": dataset.pixels,
        "wandb_id": wandb_id,
    }
    if lost:
        steps = ", ".join(map(str, lost[:5])) + (", …" if len(lost) > 5 else "")
        logger.message(
            f"{files.history_file}: rows are lost, of {len(lost)} step(s): {steps}; training goes on, and "
            "the summary's steps_lost and detector compare will say so"
        )
    many = f", {dist.world_size} processes" if dist.world_size > 1 else ""
    where = f"{state.device_summary}{many}"
    return Run(
        files,
        loaded,
        dataset,
        logger,
        metadata,
        dist.is_main_process,
        where,
        label,
        dist.world_size,
        resumed=saved is not None,
    )
