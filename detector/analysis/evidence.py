"""What the ablations measured, in one small file: the only place that a remedy's effect may be quoted from.

`scripts/ablations.py` writes it from the runs it makes. While it is absent nothing is quoted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import yaml

from detector.config.schema import YOLO_KEYS, Config

EFFECTS = Path(__file__).with_name("evidence.json")

# Settings of a run that do not change what it measures.
_IRRELEVANT = (
    "seed", "threads", "device", "eval_every", "eval_train", "on_nonfinite", "max_skipped", "channels_last",
)  # fmt: skip


@dataclass(frozen=True)
class Effect:
    """One ablation under one set of conditions, over its seeds."""

    ablation: str
    model: dict[str, Any]  # the whole section
    conditions: dict[str, Any]  # everything else that matters, see `conditions`
    metric: str  # which mAP: of the training images on COCO8, else of unseen ones
    n: int
    mean: float
    sd: float | None  # None for a single seed
    vanishing_index: float | None  # median over late training, mean over seeds; None if not finite
    commits: list[str]


def conditions(config: Config, dataset: str) -> dict[str, Any]:
    """What must be equal for two runs' mAP to be compared: the data and the training, but not the model."""
    plain = json.loads(config.model_dump_json())
    train = {key: value for key, value in plain["train"].items() if key not in _IRRELEVANT}
    data = {key: plain["data"][key] for key in ("image_size", "fliplr", "translate", "scale")}
    if config.data.uses_yolo_augmentation:
        data |= {key: plain["data"][key] for key in (*YOLO_KEYS, "close_mosaic")}
    return {"dataset": dataset, "data": data, "train": train}


def metric_of(dataset: str) -> str:
    """COCO8 has four unseen images: there, only memorisation can be compared."""
    return "train/mAP50-95" if dataset == "coco8" else "val/mAP50-95"


def collect(runs: Iterable[Path]) -> list[Effect]:
    """Average finished runs that differ in nothing but their seed; others are left out.

    Args:
        runs: run directories, each with `config.yaml` and `summary.json`.
    """
    groups: dict[str, list[tuple[Config, dict[str, Any]]]] = {}
    for run in runs:
        if not ((run / "summary.json").exists() and (run / "config.yaml").exists()):
            continue
        summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
        config = Config.model_validate(yaml.safe_load((run / "config.yaml").read_text(encoding="utf-8")))
        if summary["status"] != "finished":
            continue
        same = [conditions(config, summary["dataset"]), config.model.model_dump(mode="json")]
        groups.setdefault(json.dumps(same, sort_keys=True), []).append((config, summary))
    return [_average(members) for members in groups.values()]


def _average(members: Sequence[tuple[Config, dict[str, Any]]]) -> Effect:
    config, first = members[0]
    metric = metric_of(first["dataset"])
    values = [float(summary[metric]) for _, summary in members]
    indices = [summary["gradient/vanishing_index"] for _, summary in members]
    finite = all(isinstance(index, int | float) and math.isfinite(index) for index in indices)
    return Effect(
        ablation=first["ablation"],
        model=json.loads(config.model.model_dump_json()),
        conditions=conditions(config, first["dataset"]),
        metric=metric,
        n=len(members),
        mean=fmean(values),
        sd=stdev(values) if len(values) > 1 else None,
        vanishing_index=fmean(indices) if finite else None,
        commits=sorted({str(summary["commit"]) for _, summary in members}),
    )


def write_effects(runs: Iterable[Path], path: Path = EFFECTS) -> list[Effect]:
    """Collect, and write the file that `read_effects` reads."""
    effects = collect(runs)
    text = json.dumps([asdict(effect) for effect in effects], indent=1, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
    return effects


def read_effects(path: Path = EFFECTS) -> list[Effect]:
    """What was measured; empty where nothing was, or by another version of this file."""
    try:
        return [Effect(**row) for row in json.loads(path.read_text(encoding="utf-8"))]
    except (OSError, ValueError, TypeError):
        return []


def find(effects: Iterable[Effect], config: Config, dataset: str, **model: object) -> Effect | None:
    """What was measured under a run's conditions, with its model or with parts of that swapped."""
    wanted = json.loads(config.model.model_dump_json()) | model
    same = conditions(config, dataset)
    return next((e for e in effects if e.conditions == same and e.model == wanted), None)
