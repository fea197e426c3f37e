"""The sections that are no part of an experiment: where its curves and its files go."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from detector.config.names import NameOf
from detector.config.section import RUNTIME, Name, Section, Text


class TrackingConfig(Section):
    """Where the curves go. `history.jsonl` is always written: it is the truth."""

    # auto: online with a key, else offline.
    wandb: Annotated[Literal["auto", "online", "offline", "disabled"], RUNTIME] = "auto"
    project: Annotated[Text, RUNTIME] = "detector-gradients"
    entity: Annotated[Text | None, RUNTIME] = None
    group: Annotated[Text | None, RUNTIME] = None  # null: the ablation's name
    tags: Annotated[tuple[Text, ...], RUNTIME] = ()
    alerts: Annotated[bool, RUNTIME] = True  # W&B tells of a run that goes wrong, by mail or Slack
    system_metrics: Annotated[bool, RUNTIME] = False  # sampled by W&B: processor, memory, GPU
    tensorboard: Annotated[bool, RUNTIME] = False
    plots: Annotated[bool, RUNTIME] = True
    loggers: Annotated[tuple[Annotated[str, NameOf("logger")], ...], RUNTIME] = ()  # of one's own
    images: Annotated[int, Field(ge=0, le=10_000), RUNTIME] = 4  # predictions drawn at an evaluation


class RunConfig(Section):
    """Where the run's files go. Never inherited from a base: a child is another run."""

    dir: Annotated[Text | None, RUNTIME] = None  # null: runs/<ablation>-s<seed>-<time>
    name: Annotated[Name | None, RUNTIME] = None  # the ablation's name; null: the config file's stem
