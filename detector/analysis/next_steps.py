"""What to look at next where the gradient is healthy: a low mAP then has another reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, NamedTuple

from detector.analysis.evidence import metric_of
from detector.config.schema import Config
from detector.rows import Key

POOR = 0.1  # mAP: hardly anything was learnt
LEARNT = 0.5  # mAP on the training images: what is missing is data
HARDLY_FELL = 0.5  # of the first loss
NO_BETTER = 0.02  # AUC
HARD_CLIPPED = 0.1  # median factor
ROWS = 3  # of the history at either end, whose median is compared: one batch is no trend


class LossCourse(NamedTuple):
    """Where the loss began and where it ended."""

    start: float
    end: float
    rows: int  # whose median `start` is; 1: the first row alone

    @property
    def rose(self) -> bool:
        """Whether it ended above where it began."""
        return self.end > self.start

    @property
    def stayed(self) -> bool:
        """Whether it ended where it began, to the three digits that are shown."""
        return f"{self.start:.3g}" == f"{self.end:.3g}"

    def __str__(self) -> str:
        """`fell from 11.6 to 2.78`."""
        if self.stayed:
            return f"stayed at {self.start:.3g}"
        return f"{'rose' if self.rose else 'fell'} from {self.start:.3g} to {self.end:.3g}"


def loss_course(
    rows: Sequence[Mapping[str, float]], summary: Mapping[str, Any], config: Config
) -> LossCourse | None:
    """The loss at the start and at the end of a history; None with fewer than two finite losses.

    Batches are not alike: one with a single image, or with objects that no cell hits yet, may have a third
    of the loss of the next. So the last batch of an epoch, which may be short, is left out where there are
    rows enough without it; the end is a median; and the start is the first row, before any step, or the
    median of the first rows, if that is higher: then the first batch was an easy one.
    """
    known = [
        (row.get(Key.STEP), row[Key.LOSS])  # not the rows, of which there may be a million
        for row in rows
        if Key.LOSS in row and math.isfinite(row[Key.LOSS]) and Key.SKIPPED not in row
    ]
    batches = _batches_per_epoch(summary, config)
    alike = [loss for step, loss in known if not _ends_an_epoch(step, batches, config.train.accumulate)]
    losses = alike if len(alike) >= 2 * ROWS else [loss for _, loss in known]
    if len(losses) < 2:
        return None
    count = min(ROWS, len(losses) // 2)  # the two ends share no row
    first, early, end = losses[0], median(losses[:count]), median(losses[-count:])
    return LossCourse(early, end, count) if early > first else LossCourse(first, end, 1)


def _batches_per_epoch(summary: Mapping[str, Any], config: Config) -> int | None:
    steps, epochs = _known(summary.get("steps")), _known(summary.get("epochs"))
    return max(1, round(steps * config.train.accumulate / epochs)) if steps and epochs else None


def _ends_an_epoch(step: float | None, batches: int | None, accumulate: int) -> bool:
    """Whether a step had the last batch of an epoch, which holds what is left."""
    if step is None or batches is None:
        return False
    return (int(step) + 1) * accumulate // batches > int(step) * accumulate // batches


def next_steps(summary: Mapping[str, Any], rows: Sequence[Mapping[str, float]], config: Config) -> str:
    """One sentence about a run with a healthy gradient, with what to look at next if it learnt little.

    Args:
        summary: with `dataset` and the mAPs.
        rows: the history.
        config: of the run.
    """
    metric = metric_of(str(summary.get("dataset")))
    value = _known(summary.get(metric))
    if value is None:
        return "The gradient is not the problem here; how well the detector works was not measured."
    began = summary.get(Key.VERDICT + Key.INIT) or "healthy"
    if value >= LEARNT:
        if began == "healthy":
            return f"The gradient is not what holds this run back; its {metric} is {value:.2f}."
        return f"Late in training the gradient is healthy, and {metric} is {value:.2f}."
    seen = _known(summary.get(Key.TRAIN_MAP))
    loss = _loss(loss_course(rows, summary, config), seen)
    hints = [hint for hint in (_frozen(config), _clipping(rows), _features(summary), loss) if hint]
    if metric == Key.VAL_MAP and seen is not None and seen >= LEARNT:
        hints = [f"the data, since the images trained on were learnt ({Key.TRAIN_MAP} {seen:.2f})"]
    hints.append(f"the labels (detector check {config.data.path})")
    if began != "healthy":
        judged = f"What its start ({began}) costs is not shown by one run; {metric} is {value:.2f}"
    elif value < POOR:
        judged = f"The gradient is not the problem, though {metric} is {value:.2f}"
    else:
        judged = f"The gradient is healthy, which by itself explains no {metric} of {value:.2f}"
    return f"{judged}. Look next at {'; '.join(hints)}."


def _frozen(config: Config) -> str:
    return f"model.freeze={config.model.freeze}" if config.model.freeze != "none" else ""


def _clipping(rows: Sequence[Mapping[str, float]]) -> str:
    keys = Key.CLIP_FACTOR, Key.CLIP_FACTOR + Key.REST  # the latter where trunk and rest are clipped apart
    factors = [row[key] for row in rows for key in keys if key in row]
    if not factors or not (typical := median(factors)) < HARD_CLIPPED:
        return ""
    return f"train.clip, which scaled the gradient by {typical:.2g} in half of the steps or more"


def _features(summary: Mapping[str, Any]) -> str:
    """If at no level a linear probe does better than one that knows the place alone.

    On COCO8's four images nothing is said: a probe that is fitted to three of them finds too little.
    """
    if summary.get("dataset") == "coco8":
        return ""
    probed = {key: value for key, value in summary.items() if key.startswith(Key.PROBE_AUC)}
    late = {
        key: (_known(value), _known(probed.get(f"{key}_position")))
        for key, value in probed.items()
        if not key.endswith((Key.INIT, "_position"))
    }
    pairs = [(auc, zero) for auc, zero in late.values() if auc is not None and zero is not None]
    if not pairs or any(auc > zero + NO_BETTER for auc, zero in pairs):
        return ""
    best, zero = max(pairs)
    numbers = f"(AUC {best:.2f}, {zero:.2f})"
    return f"the trunk's features, in which a linear probe finds objects no better than by place {numbers}"


def _loss(course: LossCourse | None, seen: float | None) -> str:
    """Of a loss that hardly fell the learning rate may be the reason, unless something was learnt with it."""
    if course is None:
        return ""
    if course.end <= HARDLY_FELL * course.start:
        return f"train.steps, since the loss {course} and may fall further"
    if seen is not None and seen >= POOR:
        return f"train.steps, since the loss {course} while {Key.TRAIN_MAP} came to {seen:.2f}"
    only = "" if course.rose or course.stayed else "only "
    return f"train.lr and train.steps, since the loss {only}{course}"


def _known(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
