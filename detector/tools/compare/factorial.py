"""Which groups form a factorial design, and what each factor does in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from typing import Any

from detector.analysis.statistics import Difference, Estimate, effects, simple_effects
from detector.tools.compare.metrics import METRICS, Metric
from detector.tools.compare.runs import Run

# What may be factors of a factorial design: the level that a network should have, and the stripped one.
FACTORS = {
    "model.shortcut": ("residual", "none"),
    "model.norm": ("batch", "none"),
    "model.act": ("silu", "sigmoid"),
}
FACTOR_NAMES = {"model.shortcut": "shortcut", "model.norm": "batch norm", "model.act": "SiLU (→ sigmoid)"}


@dataclass(frozen=True)
class Factorial:
    """A full 2ᵏ design among the groups, and its effects."""

    factors: tuple[str, ...]
    fixed: Mapping[str, Any]  # the other candidates' common level
    cells: Mapping[tuple[bool, ...], str]  # which factors are stripped -> the group's label
    effects: Mapping[str, Mapping[tuple[int, ...], Estimate]]  # metric -> factors -> effect
    simple: Mapping[str, Mapping[int, Difference]]  # metric -> factor -> what stripping it alone does

    def name(self, effect: tuple[int, ...]) -> str:
        """An effect in words."""
        return " × ".join(FACTOR_NAMES[self.factors[f]] for f in effect)


def find_factorial(
    parts: Mapping[str, Sequence[Run]], metrics: Sequence[Metric] = METRICS
) -> Factorial | None:
    """The largest full factorial: as many factors as have all cells, the others at one common level.

    Args:
        parts: label -> the runs of a group, the baseline's first: the cells agree with it in all else.
        metrics: whose effects are of interest, if they are tested.

    Returns:
        The design, or None if not even two factors are crossed.
    """
    cells: dict[tuple[bool, ...], str] = {}
    rest: dict[str, int] = {}  # what else the groups were told: the cells must agree in it
    for label, runs in parts.items():
        levels = [
            values.index(runs[0].config.get(key)) if runs[0].config.get(key) in values else None
            for key, values in FACTORS.items()
        ]
        other = {key: value for key, value in runs[0].identity.items() if key not in FACTORS}
        if None in levels:
            continue
        key = tuple(bool(level) for level in levels)
        context = repr((runs[0].data, sorted(other.items())))
        rest.setdefault(context, len(rest))
        if rest[context] == 0:  # of the first, which is the baseline's: it is what the others strip
            cells.setdefault(key, label)
    names = tuple(FACTORS)
    for k in range(len(names), 1, -1):
        for chosen in combinations(range(len(names)), k):
            for at in product((False, True), repeat=len(names) - k):
                others = [f for f in range(len(names)) if f not in chosen]
                level = dict(zip(others, at, strict=True))
                full = {
                    key: label for key, label in cells.items() if all(key[f] == v for f, v in level.items())
                }
                if len(full) == 2**k:
                    picked = {tuple(key[f] for f in chosen): label for key, label in sorted(full.items())}
                    fixed = {names[f]: FACTORS[names[f]][v] for f, v in level.items()}
                    factors = tuple(names[f] for f in chosen)
                    return Factorial(factors, fixed, picked, *_effects(picked, parts, metrics))
    return None


def _effects(
    cells: Mapping[tuple[bool, ...], str], parts: Mapping[str, Sequence[Run]], metrics: Sequence[Metric]
) -> tuple[dict[str, Mapping[tuple[int, ...], Estimate]], dict[str, Mapping[int, Difference]]]:
    averaged: dict[str, Mapping[tuple[int, ...], Estimate]] = {}
    simple: dict[str, Mapping[int, Difference]] = {}
    for metric in (m for m in metrics if m.tested):
        responses = {
            key: {run.seed: run.value(metric.key) for run in parts[label] if run.seed is not None}
            for key, label in cells.items()
        }
        averaged[metric.key] = effects(responses)
        simple[metric.key] = simple_effects(responses, metric.bounds, metric.within)
    return averaged, simple
