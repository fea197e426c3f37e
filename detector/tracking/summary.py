"""A run on one page: what `summary.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from detector.data.yolo import Dataset
from detector.gradients.diagnosis import diagnose
from detector.tracking.provenance import provenance
from detector.training.engine import Outcome
from detector.training.learner import Learner
from detector.training.plan import Plan

METRICS = "train/mAP50-95", "train/mAP50", "val/mAP50-95", "val/mAP50", "train/loss"


def summarise(
    name: str,
    seed: int,
    dataset: Dataset,
    outcome: Outcome,
    learner: Learner,
    plan: Plan,
    rows: Sequence[Mapping[str, float]],
) -> dict[str, object]:
    """Sum up a run from its history, oldest row first. A metric that was never measured is null."""
    return {
        "ablation": name,
        "seed": seed,
        "dataset": dataset.name,
        "status": outcome.status,
        "steps": learner.step,
        "epochs": learner.step * plan.accumulate / plan.batches_per_epoch,
        "seconds": learner.seconds,
        **{key: next((row[key] for row in reversed(rows) if key in row), None) for key in METRICS},
        **diagnose(rows, plan.steps, diverged=outcome.status == "diverged"),
        "gradient/first_bad_layer": outcome.bad_layer,
        "processes": learner.ranks.world,
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "data_fingerprint": dataset.fingerprint,
        **provenance(str(learner.device)),
    }
