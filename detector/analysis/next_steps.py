"""What to look at next where the gradient is healthy: a low mAP then has another reason."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any

from detector.analysis.evidence import metric_of
from detector.config.schema import Config
from detector.rows import Key

POOR = 0.1  # mAP: hardly anything was learnt
LEARNT = 0.5  # mAP on the training images: what is missing is data
HARDLY_FELL = 0.5  # of the first loss
NO_BETTER = 0.02  # AUC
HARD_CLIPPED = 0.1  # median factor


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
    hints = [hint for hint in (_frozen(config), _clipping(rows), _features(summary), _loss(rows)) if hint]
    seen = _known(summary.get(Key.TRAIN_MAP))
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


def _loss(rows: Sequence[Mapping[str, float]]) -> str:
    losses = [row[Key.LOSS] for row in rows if Key.LOSS in row and math.isfinite(row[Key.LOSS])]
    if len(losses) < 2:
        return ""
    first, last = losses[0], losses[-1]
    fell = f"fell from {first:.3g} to {last:.3g}"
    if last > HARDLY_FELL * first:
        return f"train.lr and train.steps, since the loss only {fell}"
    return f"train.steps, since the loss {fell} and may fall further"


def _known(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
