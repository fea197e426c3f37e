"""The statistics against SciPy, against least squares, and against cases worked out by hand."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest

from detector.analysis.statistics import (
    difference,
    effects,
    estimate,
    holm,
    sign_flip_p,
    simple_effects,
    smallest_p,
    t_cdf,
    t_quantile,
)


@pytest.mark.parametrize("df", [1, 2, 3, 4, 5, 8, 9, 30, 101])
def test_students_t_is_scipys(df: int) -> None:
    from scipy import stats

    for t in (-40.0, -2.5, -0.1, 0.0, 0.7, 3.0, 12.7):
        assert t_cdf(t, df) == pytest.approx(stats.t.cdf(t, df), abs=1e-13)
    for p in (0.005, 0.3, 0.5, 0.9, 0.975, 0.9995):
        assert t_quantile(p, df) == pytest.approx(stats.t.ppf(p, df), rel=1e-9, abs=1e-12)


def test_the_tables_everyone_knows() -> None:
    assert t_quantile(0.975, 1) == pytest.approx(12.706, abs=5e-4)
    assert t_quantile(0.975, 2) == pytest.approx(4.303, abs=5e-4)
    assert t_quantile(0.975, 4) == pytest.approx(2.776, abs=5e-4)


def test_an_interval_is_scipys() -> None:
    from scipy import stats

    values = [0.51, 0.62, 0.57, 0.44]
    e = estimate(values)
    low, high = stats.t.interval(0.95, 3, np.mean(values), stats.sem(values))
    assert (e.n, e.mean, e.sd) == (4, pytest.approx(np.mean(values)), pytest.approx(np.std(values, ddof=1)))
    assert (e.low, e.high) == (pytest.approx(low), pytest.approx(high))


def test_too_little_gives_no_interval() -> None:
    assert estimate([]).n == 0
    assert math.isnan(estimate([]).mean)
    one = estimate([math.nan, 3.0, math.inf])
    assert (one.n, one.mean) == (1, 3.0)
    assert math.isnan(one.low)


def test_bounds_cut_the_interval_and_nothing_else() -> None:
    free, bound = estimate([0.97, 0.99, 1.0]), estimate([0.97, 0.99, 1.0], (0.0, 1.0))
    assert free.high > 1.0
    assert (bound.high, bound.low, bound.mean, bound.sd) == (1.0, free.low, free.mean, free.sd)


@pytest.mark.parametrize("n", [2, 3, 5, 8])
def test_the_sign_flip_test_is_scipys(n: int) -> None:
    from scipy import stats

    gaps = np.random.default_rng(n).normal(0.6, 1.0, n)
    result = stats.permutation_test(
        (gaps,), np.sum, permutation_type="samples", alternative="two-sided", n_resamples=np.inf
    )
    assert sign_flip_p(gaps.tolist()) == pytest.approx(result.pvalue)


def test_sign_flips_by_hand() -> None:
    assert sign_flip_p([1.0, 2.0, 3.0]) == 2 / 8  # only +++ and --- reach 6
    assert sign_flip_p([1.0, -2.0, 3.0]) == 6 / 8  # all but the two patterns that sum to 0
    assert sign_flip_p([0.1, 0.2, 0.3]) == 2 / 8
    assert sign_flip_p([0.0, 0.0]) == 1.0
    assert math.isnan(sign_flip_p([]))


def test_three_pairs_cannot_be_significant_and_six_can() -> None:
    assert [smallest_p(n) for n in (1, 3, 5, 6)] == [1.0, 0.25, 0.0625, 0.03125]
    for n in range(1, 9):
        assert sign_flip_p([1.0] * n) == smallest_p(n)


def test_a_difference_uses_complete_pairs_only() -> None:
    d = difference([(3.0, 1.0), (math.nan, 1.0), (5.0, 2.0)])
    assert (d.n, d.mean, d.p) == (2, 2.5, 0.5)


def test_holm_by_hand() -> None:
    # Sorted .01 .02 .03 .04, times 4 3 2 1: .04 .06 .06 .04; never below the one before: .04 .06 .06 .06
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    adjusted = holm([0.01, math.nan])
    assert adjusted[0] == 0.01  # a test that was not made does not count
    assert math.isnan(adjusted[1])


@pytest.mark.parametrize("k", [2, 3])
def test_effects_are_least_squares_on_coded_factors(k: int) -> None:
    rng = np.random.default_rng(k)
    keys = list(itertools.product((False, True), repeat=k))
    cells = {key: {seed: float(rng.normal()) for seed in range(4)} for key in keys}
    found = effects(cells)
    assert len(found) == 2**k - 1
    signs = np.where(np.array(keys), 1.0, -1.0)  # (cells, k)
    for factors, e in found.items():
        columns = [signs[:, f].prod(axis=1) for f in map(list, found)]
        design = np.column_stack([np.ones(len(keys)), *columns])
        slopes = [
            np.linalg.lstsq(design, np.array([cells[key][seed] for key in keys]), rcond=None)[0]
            for seed in range(4)
        ]
        per_seed = [2 * slope[1 + list(found).index(factors)] for slope in slopes]
        assert (e.mean, e.sd, e.n) == (
            pytest.approx(np.mean(per_seed)),
            pytest.approx(np.std(per_seed, ddof=1)),
            4,
        )


def test_effects_by_hand() -> None:
    # V: nothing stripped .5, the shortcut 1.5, batch norm 2.5, both -2.5
    cells = {
        (False, False): {0: 0.5},
        (True, False): {0: 1.5},
        (False, True): {0: 2.5},
        (True, True): {0: -2.5},
    }
    found = effects(cells)
    assert found[(0,)].mean == pytest.approx((1.5 - 0.5) / 2 + (-2.5 - 2.5) / 2)
    assert found[(1,)].mean == pytest.approx((2.5 - 0.5) / 2 + (-2.5 - 1.5) / 2)
    assert found[(0, 1)].mean == pytest.approx(((-2.5 - 2.5) - (1.5 - 0.5)) / 2)


def test_a_seed_counts_if_all_its_cells_do() -> None:
    cells = {(False, False): {0: 1.0, 1: 1.0}, (True, False): {0: 2.0}, (False, True): {0: 1.0, 1: 1.0}}
    cells[True, True] = {0: 2.0, 1: math.nan}
    assert effects(cells)[(0,)].n == 1
    del cells[True, True]
    with pytest.raises(ValueError, match="3 of 4 cells"):
        effects(cells)


def test_all_at_a_bound_is_an_edge_and_one_that_is_not_is_none() -> None:
    assert estimate([0.0, 0.004], (0, 1), 0.005).edge == "floor"
    assert estimate([0.996, 1.0], (0, 1), 0.005).edge == "ceiling"
    assert estimate([0.0, 0.006], (0, 1), 0.005).edge == estimate([0.0, 0.0]).edge == ""
    assert estimate([0.0], (0, 1)).edge == "floor"
    assert estimate([math.nan], (0, 1)).edge == ""
    assert difference([(0.0, 0.0), (0.001, 0.0)], (0, 1), 0.005).edge == "floor"
    assert difference([(0.5, 0.0), (0.001, 0.0)], (0, 1), 0.005).edge == ""


def test_a_simple_effect_is_a_paired_difference_from_the_whole_network() -> None:
    cells = {
        (False, False): {0: 1.0, 1: 2.0}, (True, False): {0: 4.0, 1: 5.5, 2: 9.0},
        (False, True): {0: 0.0, 1: math.nan}, (True, True): {0: 100.0, 1: 100.0},
    }  # fmt: skip
    found = simple_effects(cells)
    assert (found[0].n, found[0].mean) == (2, 3.25)
    assert (found[1].n, found[1].mean) == (1, -1.0)
