"""Everything that watches a run, put together."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from detector.config.schema import Config
from detector.loggers.base import Logger, LoggerList
from detector.loggers.console import ConsoleLogger
from detector.loggers.jsonl import JsonlLogger
from detector.loggers.plot_logger import PlotLogger
from detector.loggers.results_csv import ResultsCsv
from detector.loggers.tensorboard import TensorboardLogger
from detector.loggers.wandb_logger import WandbLogger
from detector.loggers.wandb_session import Start
from detector.registry import lookup
from detector.rundir import RunDir

# What `tracking.loggers` may name besides those below; a plugin registers more.
LOGGERS: dict[str, Callable[[Path, Config], Logger]] = {}


class Loggers(NamedTuple):
    """The loggers as one, and what a checkpoint must remember to continue the W&B run."""

    logger: Logger
    wandb_id: str


def build_loggers(
    run: RunDir,
    config: Config,
    label: str,
    dataset: str,
    steps: int,
    interrupted: tuple[int, str] | None,
) -> Loggers:
    """Open the run's history, its progress display and its W&B run.

    Args:
        run: the directory to write to.
        config: the resolved configuration.
        label: names the run and its group on W&B.
        dataset: the data's name.
        steps: how many the run has in all.
        interrupted: where an interrupted run resumes: its step and W&B id; None for a new run.
    """
    first_step, wandb_id = interrupted if interrupted is not None else (0, None)
    console = ConsoleLogger(steps, start_step=first_step)
    local = JsonlLogger(
        run, keep_before_step=None if interrupted is None else first_step, report=console.message
    )
    history = run.rows()
    wandb = WandbLogger(
        Start(run.path, config, label, dataset, resume_id=wandb_id), history=history, report=console.message
    )
    others: list[Logger] = [PlotLogger(run, config.model)] if config.tracking.plots else []
    if config.tracking.tensorboard:
        resume_at = None if interrupted is None else first_step
        others.append(TensorboardLogger(run.tensorboard, first_step=resume_at, history=history))
    others += [lookup("logger", name, LOGGERS)(run.path, config) for name in config.tracking.loggers]
    return Loggers(LoggerList([local, console, ResultsCsv(run, history), wandb, *others]), wandb.id)
