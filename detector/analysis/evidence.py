"""What the ablations measured, in one small file: the only place that a remedy's effect may be quoted from.

`scripts/ablations.py` and `scripts/cures.py` write it from the runs they make. While it is absent nothing
is quoted.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from detector.config.experiment import experiment
from detector.config.rules import STRIPPED
from detector.config.schema import Config, ModelConfig
from detector.gradients.indices import FORWARD
from detector.rows import Key
from detector.rundir import RunDir
from detector.runtime.json_numbers import to_json

EFFECTS = Path(__file__).with_name("evidence.json")

FAILURES = "train.on_nonfinite", "train.max_skipped"  # say how one is handled: a finished run had none


@dataclass(frozen=True)
class Effect:
    """One ablation under one set of conditions, over its seeds."""

    ablation: str
    dataset: str
    settings: dict[str, Any]  # what was trained and how, see `settings`
    metric: str  # which mAP: of the training images on COCO8, else of unseen ones
    n: int
    mean: float
    sd: float | None  # None for a single seed
    vanishing_index: float | None  # median over late training, mean over seeds; None if not finite
    no_signal: int  # seeds whose signal late in training had collapsed or was dead, whatever the gradient
    commits: list[str]


def settings(config: Config) -> dict[str, Any]:
    """What must be equal for two runs to be the same measurement, besides the dataset."""
    return _same_network({key: value for key, value in experiment(config).items() if key not in FAILURES})


def _same_network(found: dict[str, Any]) -> dict[str, Any]:
    """Where nothing is stripped, every `model.scope` is the same network, and is written as the default."""
    default = ModelConfig()
    if any(found[f"model.{key}"] != getattr(default, key) for key in STRIPPED):
        return found
    return found | {"model.scope": default.scope}


def metric_of(dataset: str) -> str:
    """COCO8 has four unseen images: there, only memorisation can be compared."""
    return Key.TRAIN_MAP if dataset == "coco8" else Key.VAL_MAP


def collect(runs: Iterable[Path]) -> list[Effect]:
    """Average finished runs that differ in nothing but their seed; others are left out.

    A seed counts once: the same cell may be a part of two suites.

    Args:
        runs: run directories, each with `config.yaml` and `summary.json`.
    """
    groups: dict[str, dict[int, tuple[Config, dict[str, Any]]]] = {}
    for run in map(RunDir, runs):
        summary, _ = run.scan_summary()
        if summary.get("status") == "finished" and run.config_file.exists():
            config = run.read_config().config
            same = json.dumps([settings(config), summary["dataset"]])
            groups.setdefault(same, {}).setdefault(config.train.seed, (config, summary))
    return [_average(list(members.values())) for members in groups.values()]


def _average(members: Sequence[tuple[Config, dict[str, Any]]]) -> Effect:
    config, first = members[0]
    metric = metric_of(first["dataset"])
    values = [float(summary[metric]) for _, summary in members]
    indices = [summary[Key.VANISHING_INDEX] for _, summary in members]
    return Effect(
        ablation=first["ablation"],
        dataset=first["dataset"],
        settings=settings(config),
        metric=metric,
        n=len(members),
        mean=fmean(values),
        sd=stdev(values) if len(values) > 1 else None,
        vanishing_index=fmean(indices) if all(map(math.isfinite, indices)) else None,
        no_signal=sum(summary.get(Key.VERDICT) in FORWARD for _, summary in members),
        commits=sorted({str(summary["commit"]) for _, summary in members}),
    )


def write_effects(effects: Iterable[Effect], path: Path = EFFECTS) -> None:
    """Write the file that `read_effects` reads: today's defaults, then a line an effect with what differs."""
    defaults = settings(Config())
    lines = []
    for effect in effects:
        changed = {key: value for key, value in effect.settings.items() if defaults.get(key, ...) != value}
        lines.append(to_json(asdict(replace(effect, settings=changed))))
    body = ",\n".join(lines)
    text = f'{{"defaults": {to_json(defaults)},\n"effects": [\n{body}\n]}}\n'
    path.write_text(text, encoding="utf-8")


def read_effects(path: Path = EFFECTS) -> list[Effect]:
    """What was measured; empty where nothing was, or by another version of this file.

    A setting that did not exist when it was measured had the value that is now its default.
    """
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        known = settings(Config()) | content["defaults"]
        return [Effect(**row | {"settings": known | row["settings"]}) for row in content["effects"]]
    except (OSError, ValueError, TypeError, KeyError):
        return []


def find(effects: Iterable[Effect], config: Config, dataset: str, **model: object) -> Effect | None:
    """What was measured under a run's conditions, with its model or with parts of that swapped."""
    own = settings(config)  # without the keys that do not make it another experiment
    swapped = {f"model.{key}": value for key, value in model.items() if f"model.{key}" in own}
    # What is not stripped has lost its scope above; a part that is swapped in needs the run's own.
    wanted = _same_network(own | {"model.scope": config.model.scope} | swapped)
    return next((e for e in effects if e.dataset == dataset and e.settings == wanted), None)
