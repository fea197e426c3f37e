"""A run's directory: the one place that knows, writes and reads its files. What stands in a row: `rows`.

    run = RunDir("runs/baseline-s0")
    run.read_config().config.train.lr
    [row[Key.LOSS] for row in run.read_history()]
    run.read_summary()[Key.VERDICT]

Files are written whole or not at all, and read within bounds, since a run may come from a stranger. Methods
named `read_…` are strict: what is damaged is an error that names the file. Those named `scan_…` take what can
be read and say in words what is wrong with the rest.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from detector.errors import UserError
from detector.rundir.history import Rows
from detector.rundir.lines import HistoryWriter, drop_rows_from, newest_row, read_rows, scan_rows
from detector.runtime.files import TRAIN, read_bytes, write_text
from detector.runtime.json_numbers import from_json, to_json
from detector.runtime.lock import FolderLock

# What checks a configuration takes a tenth of a second to import: late, where there is one to check.
if TYPE_CHECKING:
    from detector.config.loading import LoadedConfig
    from detector.config.schema import Config
    from detector.runtime.checkpoint_check import CheckpointState, FailureState

_log = logging.getLogger(__name__)

MAX_LEDGER = 50_000_000  # a deep trunk's has one
MAX_SUMMARY = 1_000_000
MOST_PLUGINS = 9  # that an error names


class RunDir:
    """One run's directory, which need not exist yet."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        self.config_file = self.path / "config.yaml"  # complete; repeats the run
        self.history_file = self.path / "history.jsonl"  # one JSON object a logged step
        self.summary_file = self.path / "summary.json"  # the run on one page
        self.results_file = self.path / "results.csv"  # the evaluations, in the columns of ultralytics
        self.ledger_file = self.path / "ledger.json"  # every operation's backward factor
        self.checkpoints = self.path / "checkpoints"
        self.last = self.checkpoints / "last.pt"  # what a run resumes from
        self.best = self.checkpoints / "best.pt"  # of all evaluations
        self.plots = self.path / "plots"
        self.failure = self.path / "failure"
        self.failure_state = self.failure / "state.pt"  # the newest step that was not finite, to be replayed
        self.failure_report = self.failure / "failure.json"  # the same to be read
        self.wandb = self.path / "wandb"
        self.tensorboard = self.path / "tensorboard"
        # There from before the summary until all loggers are closed.
        self.finishing = self.path / ".finishing"

    @property
    def written(self) -> tuple[Path, ...]:
        """All that a run writes itself."""
        files = self.config_file, self.history_file, self.summary_file, self.results_file, self.ledger_file
        return *files, self.checkpoints, self.plots, self.failure, self.wandb, self.tensorboard

    def __str__(self) -> str:
        return str(self.path)

    def exists(self) -> bool:
        """Whether there is anything of a run."""
        return any(file.exists() for file in (self.config_file, self.history_file, self.summary_file))

    @classmethod
    def create(cls, path: Path | str, config: Config, lock: FolderLock | None = None) -> RunDir:
        """Make the directory of a new run, lock it, and save its configuration there.

        Raises:
            UserError: it holds a run, or files that look like one's; another process has it; or it cannot be
                made.
        """
        from detector.config.loading import save

        run = cls(path)
        run._check_unused()
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            if lock is not None:
                lock.acquire(run.path)
                run._check_unused()  # another run can have begun in between, and ended
            save(config, run.config_file)
        except OSError as error:
            raise UserError(f"run.dir={run} cannot be made: {error.strerror}; name another") from error
        return run

    @classmethod
    def create_watched(cls, path: Path, settings: Mapping[str, Any]) -> RunDir:
        """Make the directory of a run that another training loop does, and save what is known of it.

        Args:
            path: of the directory.
            settings: by key, such as `data.image_size`; `watch.model` tells it from a run of `train.py`.

        Raises:
            UserError: it holds a run, or files that look like one's, or it cannot be made.
        """
        from detector.config.safe_yaml import dump

        run = cls(path)
        if os.path.lexists(run.history_file):
            raise UserError(f"{run}: holds a run already; name another directory, or remove it")
        run._check_unused()
        sections: dict[str, Any] = {}
        for key, value in settings.items():
            *outer, last = key.split(".")
            into = sections
            for name in outer:
                into = into.setdefault(name, {})
            into[last] = value
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            write_text(
                run.config_file, "# What is known of a training loop that was watched.\n" + dump(sections)
            )
        except OSError as error:
            raise UserError(f"{run}: cannot be made: {error.strerror}; name another") from error
        return run

    def _check_unused(self) -> None:
        if os.path.lexists(self.history_file):
            raise UserError(f"run.dir={self} holds a run already; --resume {self} continues it")
        for name in (file.name for file in self.written if os.path.lexists(file)):
            raise UserError(f"run.dir={self} already holds {name}, which the run would write; name another")

    def read_config(self) -> LoadedConfig:
        """The configuration it was started with. Raises UserError if there is none, or it is not valid."""
        from pydantic import ValidationError

        from detector.config.loading import load_config
        from detector.config.names import plugin_needed

        if not os.path.isdir(self.path):
            raise UserError(f"{self}: there is no such directory")
        try:
            return load_config(self.config_file)
        except UserError as error:  # names are looked for in plugins first, not among those that are here
            files = self.scan_summary()[0].get("plugins")
            names = list(files)[:MOST_PLUGINS] if isinstance(files, dict) else []
            cause = error.__context__
            if not isinstance(cause, ValidationError) or not (need := plugin_needed(cause, files=names)):
                raise
            raise UserError(f"{self.config_file}: {need}") from None

    def wandb_id(self) -> str | None:
        """What W&B knows the run by; None if it was not logged there."""
        folders = sorted(path.name for path in self.wandb.glob("*run-*-*"))  # [offline-]run-DATE_TIME-ID
        return folders[-1].rpartition("-")[2] if folders else None

    # --- history.jsonl ---

    def open_history(
        self, keep_before_step: int | None = None, *, report: Callable[[str], None] = _log.warning
    ) -> HistoryWriter:
        """Open the history to append to it; the directory is created.

        Args:
            keep_before_step: resume a run: rows at that step or later are dropped first, since they will be
                logged again. None for a new run.
            report: gets a line where lines that are no rows are dropped too, and where a copy of them is.

        Raises:
            UserError: the directory holds a history already and no `keep_before_step` is given.
            OSError: the directory or the file cannot be written.
        """
        path = self.history_file
        self.path.mkdir(parents=True, exist_ok=True)
        if os.path.lexists(path) and not path.is_file():  # a pipe would block, a device swallow it
            raise UserError(f"{path}: is not a file; remove it")
        if keep_before_step is not None:
            drop_rows_from(path, keep_before_step, report)
        elif path.exists() and path.stat().st_size:
            raise UserError(
                f"{path}: holds another run's history. Choose another run.dir, or continue that run "
                f"with --resume {self}."
            )
        return HistoryWriter(path)

    def read_history(self, *, report: Callable[[str], None] = _log.warning) -> list[dict[str, Any]]:
        """All rows of the history, in order, with NaN and infinities as floats.

        A run that was killed can leave half a last line: it is left out, and `report` gets a line saying so.

        Raises:
            UserError: the file does not exist, or a line before the last one is not a row.
        """
        rows: list[dict[str, Any]] = []
        read_rows(self.history_file, rows.append, report)
        return rows

    def rows(self, *, report: Callable[[str], None] = _log.warning) -> Rows:
        """The same rows in a ninth of the memory, for histories of any length. Raises as `read_history`."""
        rows = Rows()
        read_rows(self.history_file, rows.append, report)
        return rows

    def scan_history(self) -> tuple[Rows, list[str]]:
        """Every row that can be read, in order of steps, and what is wrong with the others.

        A value that is no number is NaN. Raises OSError if the file cannot be read.
        """
        rows = Rows()
        return rows, scan_rows(self.history_file, rows.append)

    def last_row(self) -> dict[str, Any]:
        """The newest whole row of a history that is being written; empty before the first."""
        return newest_row(self.history_file)

    # --- summary.json ---

    def write_summary(self, summary: Mapping[str, object]) -> None:
        """Write it whole. Raises OSError if it cannot be written."""
        write_text(self.summary_file, to_json(summary, indent=2) + "\n")

    def read_summary(self) -> dict[str, Any]:
        """The summary, empty for a run that has not ended. Raises UserError if it is damaged."""
        summary, problem = self.scan_summary()
        if problem and os.path.exists(self.summary_file):
            raise UserError(f"{self.path}/{problem}")
        return summary

    def scan_summary(self) -> tuple[dict[str, Any], str | None]:
        """The summary, or an empty one and what is wrong with it."""
        try:
            content = from_json(read_bytes(self.summary_file, MAX_SUMMARY))
        except FileNotFoundError:
            return {}, "it has no summary.json: it is still running, or was killed"
        except OSError as error:
            return {}, f"summary.json cannot be read: {error.strerror}"
        except ValueError:
            return {}, "summary.json is not valid JSON"
        return (content, None) if isinstance(content, dict) else ({}, "summary.json does not hold an object")

    # --- ledger.json ---

    def write_ledger(self, rows: Iterable[Mapping[str, object]]) -> None:
        """Write the ledger's rows, one a line; `detector.gradients.entries` has what they mean."""
        write_text(self.ledger_file, "[\n" + ",\n".join(map(to_json, rows)) + "\n]\n")

    def read_ledger(self) -> list[dict[str, Any]]:
        """The ledger's rows; empty if there are none that can be read."""
        return self.scan_ledger()[0]

    def scan_ledger(self) -> tuple[list[dict[str, Any]], str | None]:
        """The ledger's rows, or none and what is wrong with them. A run need not have a ledger."""
        try:
            rows = from_json(read_bytes(self.ledger_file, MAX_LEDGER))
        except FileNotFoundError:
            return [], None
        except (OSError, ValueError):
            rows = None
        if isinstance(rows, list) and all(map(_is_ledger_row, rows)):
            return rows, None
        return [], "ledger.json is not a list of {step, block, operation, factor}, and left out"

    # --- checkpoints and the step that was not finite: see docs/checkpoint.md ---

    def write_checkpoint(self, name: str, state: CheckpointState) -> None:
        """Write `last` or `best`. Raises OSError if it cannot be written: the one before is still there."""
        from detector.runtime.checkpoint_file import write

        write(state, self.checkpoints / f"{name}.pt")

    def read_checkpoint(self, name: str) -> CheckpointState:
        """Read `last` or `best`. Raises UserError if it is missing, broken, or not one of this project."""
        from detector.runtime.checkpoint_file import read

        path = self.checkpoints / f"{name}.pt"
        if not os.path.lexists(path):
            raise UserError(
                f"{path}: no checkpoint found (the run ended before its first step); start again with: "
                f"{TRAIN} --config {self.config_file} run.dir=ANOTHER"
            )
        try:
            return cast("CheckpointState", read(path))
        except UserError as error:
            hint = ""
            if path != self.best:
                with suppress(UserError):  # nobody's history is cut back to there without being asked
                    best = read(self.best)
                    if best.get("optimizer"):  # else it is what a run that ended has left of it
                        hint = f"; {self.best} is whole: copy it there to go on from its step {best['step']}"
            raise UserError(f"{error}{hint}") from None

    def write_failure(self, state: FailureState) -> None:
        """Keep a step that was not finite, in place of an earlier one. Raises OSError if that fails."""
        from detector.runtime.checkpoint_file import write

        self.failure.mkdir(exist_ok=True)
        write(state, self.failure_state)
        write_text(self.failure_report, to_json(state["failure"], indent=2) + "\n")

    def read_failure(self) -> FailureState:
        """The step that was not finite. Raises UserError if the run has none, or it is damaged."""
        from detector.runtime.checkpoint_check import FailureState
        from detector.runtime.checkpoint_file import read

        path = self.failure_state
        if not path.exists():
            is_run = self.config_file.exists()
            why = "its numbers were always finite" if is_run else "this is no run's directory"
            raise UserError(f"{self}: there is no {path.relative_to(self.path)}: {why}")
        saved = read(path)
        if not FailureState.__required_keys__ <= saved.keys():
            raise UserError(f"{path}: not a step saved for replay")
        return cast("FailureState", saved)


def _is_ledger_row(row: object) -> bool:
    if not isinstance(row, dict):
        return False
    named = all(isinstance(row.get(key), str) for key in ("block", "operation"))
    return named and type(row.get("step")) is int and type(row.get("factor", "")) in (int, float, type(None))
