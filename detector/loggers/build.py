"""Everyone who watches a run, put together."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from detector.config.schema import Config
from detector.loggers.base import Tracker, Trackers
from detector.loggers.console import ConsoleTracker
from detector.loggers.jsonl import LocalTracker, read_history
from detector.loggers.plot_logger import PlotTracker
from detector.loggers.wandb_logger import WandbTracker
from detector.runtime.ranks import ALONE, Ranks


class Watch(NamedTuple):
    """The trackers as one, and what a checkpoint must remember to continue the W&B run."""

    tracker: Tracker
    wandb_id: str


def watch(
    directory: Path,
    config: Config,
    label: str,
    dataset: str,
    steps: int,
    resume: tuple[int, str] | None,
    ranks: Ranks = ALONE,
) -> Watch:
    """Open the run's history, its progress display and its W&B run.

    Args:
        directory: of the run.
        config: the resolved configuration.
        label: names the run and its group on W&B.
        dataset: the data's name.
        steps: how many the run has in all.
        resume: where an interrupted run goes on: its step and W&B id; None for a new run.
        ranks: of several processes only the first has anyone watching.
    """
    if not ranks.first:
        return Watch(Tracker(), "")
    first_step, wandb_id = resume if resume is not None else (0, None)
    console = ConsoleTracker(steps, start_step=first_step)
    local = LocalTracker(
        directory, keep_before_step=None if resume is None else first_step, report=console.message
    )
    wandb = WandbTracker(
        directory,
        config,
        ablation=label,
        dataset=dataset,
        resume_id=wandb_id,
        history=read_history(local.path),
        report=console.message,
    )
    plots = [PlotTracker(directory, config.model)] if config.tracking.plots else []
    return Watch(Trackers([local, console, wandb, *plots]), wandb.id)
