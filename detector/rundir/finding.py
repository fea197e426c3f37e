"""How a run is found: by its directory, a file in it or its folder of checkpoints."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from detector.errors import UserError
from detector.rundir.directory import RunDir


def run_directory(path: Path) -> Path:
    """The run that is meant by its directory, a file in it, its folder of checkpoints or one of these.

    Raises:
        UserError: it is a folder of several runs.
    """
    if path.is_file():
        path = path.absolute().parent
    if not path.name or path.name == "..":  # `.` has its name from where one stands
        path = Path(os.path.abspath(path)) if Path(os.path.abspath(path)).name == "checkpoints" else path
    path = path.parent if path.name == "checkpoints" else path
    if not RunDir(path).exists() and (inside := _run_inside(path)):
        raise UserError(f"{path}: is a folder of runs; name one of them, such as {inside}")
    return path


def checkpoint_at(path: Path) -> Path:
    """`best.pt` of a run's directory, or of its folder of checkpoints; any other path is itself one.

    Raises:
        UserError: it is a folder of several runs.
    """
    if not path.is_dir():
        return path
    return RunDir(run_directory(path)).best


def _run_inside(folder: Path) -> Path | None:
    """The first run in a folder of them."""
    with suppress(OSError):
        return next((child for child in sorted(folder.iterdir()) if RunDir(child).exists()), None)
    return None


def run_name(checkpoint: Path) -> str:
    """The name of the run's directory that a checkpoint lies in; of a file that lies elsewhere, its own."""
    folder = checkpoint.absolute().parent
    return folder.parent.name if folder.name == "checkpoints" and folder.parent.name else checkpoint.stem


def load_run(path: Path | str) -> RunDir:
    """A run that is there, to be read: finished, still running, or killed.

    >>> from detector import load_run
    >>> run = load_run("runs/baseline")
    >>> run.read_config().config.train.steps
    4
    >>> [row["step"] for row in run.read_history()]
    [0, 3]
    >>> run.read_summary()["gradient/verdict_init"]
    'healthy'
    >>> run.best  # for `Predictor`
    PosixPath('runs/baseline/checkpoints/best.pt')

    Raises:
        UserError: there is no run in that directory.
    """
    run = RunDir(path)
    if not run.exists():
        example = _run_inside(run.path) or _run_inside(run.path.parent) or "runs/baseline-s0"
        raise UserError(f"{run}: is not a run's directory; name one such as {example}")
    return run
