"""What is read from the runs: how each ended, and the curve that its gradient had late in training."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from typing import Any

import numpy as np

from detector.jobs.display import JobDisplay
from detector.jobs.runner import COMPLETE, Job
from detector.rows import Key, by_layer
from detector.rundir import RunDir

LAST = 20  # steps that a final loss is the mean of: a single step's depends on its images
LATE = 1 / 3  # of the recorded steps: what the late curve is the median of


@dataclass(frozen=True)
class Outcome:
    """One run."""

    loss: float  # mean over the last steps; NaN where it diverged
    metric: float  # mAP50-95
    curve: Mapping[str, float]  # layer -> ‖g‖ over the last layer's, late in training
    raw: Mapping[str, float]  # the same before it was rescaled; empty where none was imposed


def read_outcome(job: Job, metric: str) -> Outcome:
    """Of a run that is complete.

    Args:
        job: that ended.
        metric: the key of the mAP that counts on this data.
    """
    if job.status != "finished":
        return Outcome(math.nan, math.nan, {}, {})
    rows = RunDir(job.directory).read_history()
    from_step = int(rows[-1][Key.STEP]) - LAST + 1
    losses = [row[Key.LOSS] for row in rows if row[Key.STEP] >= from_step and Key.SKIPPED not in row]
    value = job.summary.get(metric)
    late = rows[-max(1, round(LATE * len(rows))) :]
    return Outcome(
        fmean(losses),
        float(value) if isinstance(value, int | float) else math.nan,
        _curve(late, Key.ACTIVATION_GRAD),
        _curve(late, Key.RAW_ACTIVATION_GRAD),
    )


def _curve(rows: Sequence[Mapping[str, Any]], kind: str) -> dict[str, float]:
    """The median over the rows of each layer's norm relative to the last layer's."""
    norms = [by_layer(row, kind) for row in rows]
    norms = [found for found in norms if found and list(found.values())[-1] > 0]
    if not norms:
        return {}
    layers = list(norms[0])
    ratios = np.array([[found.get(name, math.nan) / found[layers[-1]] for name in layers] for found in norms])
    return dict(zip(layers, np.median(ratios, 0).tolist(), strict=True))


class WhyDisplay(JobDisplay):
    """Shows the loss of every cell."""

    what = "final loss"

    def glance(self, job: Job) -> str:
        """The loss, in seven columns."""
        loss = job.summary.get(Key.LOSS)
        return f"{loss:.2f}" if isinstance(loss, int | float) else "-"

    def outcome(self, job: Job) -> str:
        """The loss of the last step."""
        return f"loss {self.glance(job)}" if job.status in COMPLETE else job.status
