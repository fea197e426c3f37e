"""Means, intervals and tests for a handful of seeds: exact where that is possible, plain about what is not.

Student's t is computed from its closed form for whole degrees of freedom, because a runtime dependency on
SciPy for one quantile is not worth its 100 MB; the tests compare with SciPy.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

import numpy as np

CONFIDENCE = 0.95
DESCRIBE, TEST = 5, 9  # seeds to describe what runs do, and to claim a test: see `Comparison.notes`
MAX_EXACT = 20  # pairs; 2²⁰ sign patterns are a second's work


@dataclass(frozen=True)
class Estimate:
    """A mean over seeds. `sd`, `low` and `high` are NaN for a single value, all but `n` for none."""

    n: int
    mean: float = math.nan
    sd: float = math.nan
    low: float = math.nan
    high: float = math.nan
    edge: str = ""  # floor or ceiling, where all values are at that bound and cannot spread


@dataclass(frozen=True)
class Difference(Estimate):
    """A mean of paired differences, with the sign-flip p-value before and after Holm's correction."""

    p: float = math.nan
    p_holm: float = math.nan


def t_cdf(t: float, df: int) -> float:
    """P(T ≤ t) of Student's t with a whole number of degrees of freedom.

    Abramowitz & Stegun 1964, 26.7.3 and 26.7.4: a finite sum in θ = atan(t / √df).

    Raises:
        ValueError: df is below 1.
    """
    if df < 1:
        raise ValueError(f"degrees of freedom must be at least 1, not {df}")
    theta = math.atan(t / math.sqrt(df))
    sine, cosine = math.sin(theta), math.cos(theta)
    odd = df % 2
    term, total = (cosine, 0.0) if odd else (1.0, 0.0)
    for k in range(odd + 1, df, 2):
        total += term
        term *= cosine * cosine * k / (k + 1)
    inside = 2 / math.pi * (theta + sine * total) if odd else sine * total  # P(-|t| ≤ T ≤ |t|), signed
    return (1 + inside) / 2


def t_quantile(p: float, df: int) -> float:
    """The t with P(T ≤ t) = p, by bisection of `t_cdf`.

    Raises:
        ValueError: p is not between 0 and 1.
    """
    if not 0 < p < 1:
        raise ValueError(f"p must be between 0 and 1, not {p}")
    if p < 0.5:
        return -t_quantile(1 - p, df)
    low, high = 0.0, 1.0
    while t_cdf(high, df) < p and high < 1e12:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_cdf(middle, df) < p else (low, middle)
    return (low + high) / 2


def edge_of(values: Sequence[float], bounds: tuple[float, float] | None, within: float = 0.0) -> str:
    """`floor` or `ceiling` where all values lie at that bound, or so close to it; else nothing."""
    if not values or bounds is None:
        return ""
    if max(values) <= bounds[0] + within:
        return "floor"
    return "ceiling" if min(values) >= bounds[1] - within else ""


def estimate(
    values: Sequence[float], bounds: tuple[float, float] | None = None, within: float = 0.0
) -> Estimate:
    """Mean, standard deviation (n − 1) and the t interval of the finite values.

    `bounds` cuts the interval off where the quantity ends, as mAP does at 0 and 1. That makes it no better:
    near a bound the t interval is only a guide, and where all values are `within` so much of it, the spread
    says nothing of what other seeds would do: see `Estimate.edge`.
    """
    numbers = [value for value in values if math.isfinite(value)]
    edge = edge_of(numbers, bounds, within)
    if len(numbers) < 2:
        return Estimate(len(numbers), numbers[0] if numbers else math.nan, edge=edge)
    mean, sd = fmean(numbers), stdev(numbers)
    half = t_quantile((1 + CONFIDENCE) / 2, len(numbers) - 1) * sd / math.sqrt(len(numbers))
    low, high = mean - half, mean + half
    if bounds is not None:
        low, high = max(low, bounds[0]), min(high, bounds[1])
    return Estimate(len(numbers), mean, sd, low, high, edge)


def sign_flip_p(differences: Sequence[float]) -> float:
    """The exact two-sided permutation p-value of paired differences under "the sign is a coin's".

    The share of all 2ⁿ sign patterns whose |sum| is at least the observed one (Fisher 1935). Its smallest
    value is 2/2ⁿ: .25 for three pairs, .0625 for five, so six pairs are the first that can go below .05.

    Returns:
        p; NaN without differences, and beyond 20 pairs, where enumeration stops being reasonable.
    """
    if not 0 < len(differences) <= MAX_EXACT:
        return math.nan
    sums = np.zeros(1)
    for difference in differences:
        sums = np.concatenate([sums + difference, sums - difference])
    observed = abs(math.fsum(differences))
    slack = 1e-9 * sum(map(abs, differences))  # equal sums differ in their last bits
    return float(np.mean(np.abs(sums) >= observed - slack))


def smallest_p(n: int) -> float:
    """The smallest two-sided p that `sign_flip_p` can give for n pairs."""
    return min(1.0, 2.0 ** (1 - n))


def difference(
    pairs: Sequence[tuple[float, float]], bounds: tuple[float, float] | None = None, within: float = 0.0
) -> Difference:
    """First minus second, over the pairs in which both are finite. `bounds`, `within`: of the values."""
    whole = [(a, b) for a, b in pairs if math.isfinite(a) and math.isfinite(b)]
    gaps = [a - b for a, b in whole]
    e = estimate(gaps)
    edge = edge_of([value for pair in whole for value in pair], bounds, within)
    return Difference(e.n, e.mean, e.sd, e.low, e.high, edge, p=sign_flip_p(gaps))


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) over one family of tests; NaN stays NaN and does not count."""
    order = sorted((at for at, p in enumerate(p_values) if not math.isnan(p)), key=lambda at: p_values[at])
    adjusted = [math.nan] * len(p_values)
    largest = 0.0
    for rank, at in enumerate(order):
        largest = max(largest, min(1.0, p_values[at] * (len(order) - rank)))
        adjusted[at] = largest
    return adjusted


def simple_effects(
    cells: Mapping[tuple[bool, ...], Mapping[int, float]],
    bounds: tuple[float, float] | None = None,
    within: float = 0.0,
) -> dict[int, Difference]:
    """What stripping one factor alone does to the cell in which none is stripped, paired by seed.

    Args:
        cells: as for `effects`; of the seeds those count whose value is finite in both cells.
        bounds: of the response.
        within: see `estimate`.

    Returns:
        The factor's number -> effect.
    """
    k = len(next(iter(cells)))
    base = cells[(False,) * k]
    found = {}
    for factor in range(k):
        stripped = cells[tuple(f == factor for f in range(k))]
        pairs = [(stripped[seed], base[seed]) for seed in sorted(stripped.keys() & base.keys())]
        found[factor] = difference(pairs, bounds, within)
    return found


def effects(cells: Mapping[tuple[bool, ...], Mapping[int, float]]) -> dict[tuple[int, ...], Estimate]:
    """Main effects and interactions of a 2ᵏ factorial, each estimated over seeds.

    A factor's sign is + where it is stripped, an interaction's is the product of its factors' signs. Within
    a seed, an effect is the mean of the cells with + less the mean of those with − (Box, Hunter & Hunter
    2005, ch. 5), so a two-factor interaction is half of how much stripping one changes the effect of
    stripping the other. The interval is Student's over the seeds.

    Args:
        cells: which factors are stripped -> seed -> response. All 2ᵏ cells are needed; a seed counts if
            its value is finite in every cell.

    Returns:
        The factors' numbers, (0,) or (0, 2) -> effect.
    """
    k = len(next(iter(cells)))
    if len(cells) != 2**k:
        raise ValueError(f"{len(cells)} of {2**k} cells")
    seeds = set.intersection(*({s for s, y in cell.items() if math.isfinite(y)} for cell in cells.values()))
    found = {}
    for mask in range(1, 2**k):
        factors = tuple(f for f in range(k) if mask >> f & 1)
        contrasts = [
            sum(y[seed] * math.prod(1 if cell[f] else -1 for f in factors) for cell, y in cells.items())
            / 2 ** (k - 1)
            for seed in sorted(seeds)
        ]
        found[factors] = estimate(contrasts)
    return dict(sorted(found.items(), key=lambda item: (len(item[0]), item[0])))
