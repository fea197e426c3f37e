"""The numbers of a run that are compared."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Metric:
    """A number of a run that is compared."""

    key: str
    label: str
    digits: int
    signed: bool = False
    bounds: tuple[float, float] | None = None
    tested: bool = True  # whether differences from the baseline are of interest


METRICS = (
    Metric("gradient/vanishing_index_init", "V at init", 2, signed=True),
    Metric("gradient/vanishing_index", "V late", 2, signed=True),
    Metric("train/loss", "final loss", 2),
    Metric("train/mAP50-95", "train mAP50-95", 3, bounds=(0.0, 1.0)),
    Metric("val/mAP50-95", "val mAP50-95", 3, bounds=(0.0, 1.0)),
    Metric("seconds", "seconds", 0, tested=False),
)
