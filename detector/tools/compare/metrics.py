"""The numbers of a run that are compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from math import inf
from typing import Any

from detector.registry import NAME
from detector.rows import Key, own_metrics

MOST_OWN = 20  # registered metrics of a run: a table has no room for more


@dataclass(frozen=True)
class Metric:
    """A number of a run that is compared."""

    key: str
    label: str
    digits: int
    signed: bool = False
    bounds: tuple[float, float] | None = None
    within: float = 0.0  # so close to a bound counts as being at it
    tested: bool = True  # whether differences from the baseline are of interest
    unit: float = 1.0  # it is shown divided by this
    short: str = ""  # its column on a terminal; only there with --wide if it has none


METRICS = (
    Metric(Key.VANISHING_INDEX + Key.INIT, "V at init", 2, signed=True, short="V init"),
    Metric(Key.VANISHING_INDEX, "V late", 2, signed=True, short="V late"),
    Metric(Key.LOSS, "final loss", 2, bounds=(0.0, inf)),
    Metric(Key.TRAIN_MAP, "train mAP50-95", 3, bounds=(0.0, 1.0), within=0.005, short="train mAP"),
    Metric(Key.VAL_MAP, "val mAP50-95", 3, bounds=(0.0, 1.0), within=0.005, short="val mAP"),
    Metric("seconds", "seconds", 0, bounds=(0.0, inf), tested=False),
)
KEYS = tuple(metric.key for metric in METRICS)
# What a network costs, of one image.
COSTS = (
    Metric(Key.PARAMETERS, "parameters (M)", 2, unit=1e6, short="params"),
    Metric(Key.FLOPS, "GFLOPs", 2, unit=1e9, short="GFLOPs"),
    Metric(Key.IMAGE_MS, "ms", 1, bounds=(0.0, inf), short="ms"),
)


def own_keys(summary: Mapping[str, Any]) -> list[str]:
    """The keys of the registered metrics in a summary, such as `train/recall` and `val/recall`."""
    names = [name for name in own_metrics(summary) if NAME.fullmatch(name)][:MOST_OWN]
    return [key for name in names for key in (f"train/{name}", f"val/{name}") if key in summary]


def with_own(measured: Iterable[str]) -> tuple[Metric, ...]:
    """`METRICS`, and one for each other key that was measured, in their order."""
    own = dict.fromkeys(key for key in measured if key not in KEYS)
    return (*METRICS, *(Metric(key, key.replace("/", " "), 3, short=key.replace("/", " ")) for key in own))
