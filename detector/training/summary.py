"""A run on one page: what `summary.json` holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch

from detector.analysis.diagnosis import diagnose
from detector.data.dataset import Dataset
from detector.training.engine import Outcome
from detector.training.provenance import provenance
from detector.training.schedule import Plan
from detector.training.state import Learner

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
        **{key: next((row[key] for row in reversed(rows) if counts(row, key)), None) for key in METRICS},
        **diagnose(rows, plan.steps, diverged=outcome.status == "diverged"),
        "gradient/first_bad_layer": outcome.culprit and outcome.culprit.where,
        "gradient/first_bad_operation": outcome.culprit and outcome.culprit.operation,
        "steps_skipped": learner.skipped,
        "processes": learner.ranks.world,
        "parameters": sum(p.numel() for p in learner.model.parameters()),
        "data_fingerprint": dataset.fingerprint,
        "precision": learner.precision_name,
        "threads": torch.get_num_threads(),  # sums come out differently on another number of them
        "cpu": torch.backends.cpu.get_cpu_capability(),  # so they do with other instructions
        **provenance(device_name(learner.device)),
    }


def device_name(device: torch.device) -> str:
    """`cpu`, or `cuda:0 (NVIDIA H100 80GB HBM3)`."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else str(device)


def counts(row: Mapping[str, float], key: str) -> bool:
    """Whether a row has the metric. The loss of a skipped step is not the run's: it was not trained on."""
    return key in row and not (key == "train/loss" and "train/skipped" in row)
