"""The indices and the verdict, against hand-computed cases."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.gradients.indices import (
    EXPLODING_RATE,
    FLOOR,
    SHALLOW,
    VANISHING_RATE,
    decades_per_layer,
    vanishing_index,
    verdict,
)

positive = st.floats(1e-30, 1e30)


def test_a_gradient_that_loses_half_a_decade_a_layer() -> None:
    # Nine layers, from input to output: 10^-4 … 10^0. Thirds: median 10^-3.5 against 10^-0.5.
    norms = [10 ** (-4 + 0.5 * layer) for layer in range(9)]
    assert vanishing_index(norms) == pytest.approx(-3.0)
    assert verdict(norms, -3.0, 0.9) == "vanishing"


def test_a_gradient_that_grows_towards_the_input_explodes() -> None:
    norms = [1e6, 1e5, 1e4, 1e3, 1e2, 1e1]
    assert vanishing_index(norms) == pytest.approx(4.0)
    assert verdict(norms, 4.0, 0.9) == "exploding"


@given(st.lists(positive, min_size=1, max_size=60), positive)
def test_the_index_does_not_depend_on_the_loss_s_scale(norms: list[float], scale: float) -> None:
    scaled = [norm * scale for norm in norms]
    if min(scaled) > FLOOR:
        assert vanishing_index(scaled) == pytest.approx(vanishing_index(norms), abs=1e-9)


@given(st.lists(positive, min_size=2, max_size=60))
def test_reversing_the_layers_reverses_the_index(norms: list[float]) -> None:
    assert vanishing_index(norms[::-1]) == pytest.approx(-vanishing_index(norms), abs=1e-9)


def test_one_layer_is_its_own_first_and_last_third() -> None:
    assert vanishing_index([0.3]) == 0.0


def test_zero_everywhere_is_an_underflow_not_a_crash() -> None:
    assert vanishing_index([0.0] * 6) == 0.0
    assert verdict([0.0] * 6, 0.0, 0.9) == "underflow"


def test_zero_in_the_first_third_is_an_underflow() -> None:
    norms = [0.0, 0.0, 1e-20, 1e-10, 1.0, 1.0]
    assert vanishing_index(norms) == pytest.approx(math.log10(FLOOR))
    assert verdict(norms, vanishing_index(norms), 0.9) == "underflow"


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_norm_that_is_not_finite_is_diverged(bad: float) -> None:
    norms = [1.0, bad, 1.0]
    assert math.isnan(vanishing_index(norms))
    assert verdict(norms, vanishing_index(norms), 0.9) == "diverged"


def test_the_rules_in_their_order() -> None:
    flat = [1.0] * 6
    assert verdict(flat, 0.0, 0.9) == "healthy"
    assert verdict(flat, -1.0, 0.9) == "healthy"
    assert verdict(flat, -1.01, 0.9) == "vanishing"
    assert verdict(flat, 1.2, 0.9) == "healthy"
    assert verdict(flat, 1.21, 0.9) == "exploding"
    assert verdict(flat, 0.0, 0.0019) == "collapsed"
    assert verdict(flat, 0.0, 0.0021) == verdict(flat, 0.0) == "healthy"  # no I, no verdict on it
    assert verdict(flat, -2.0, 0.001) == "vanishing"  # a signal can collapse because it vanishes


@given(st.integers(1, 200), st.floats(-0.15, 0.15))
def test_a_steady_factor_has_its_own_rate_at_every_depth(layers: int, rate: float) -> None:
    norms = [10 ** (-rate * layer) for layer in range(layers)]
    index = vanishing_index(norms)
    assert decades_per_layer(index, layers) == pytest.approx(rate if layers > 1 else 0, abs=1e-9)
    if layers >= SHALLOW and min(abs(rate - VANISHING_RATE), abs(rate - EXPLODING_RATE)) > 1e-6:
        expected = (
            "vanishing" if rate < VANISHING_RATE else "exploding" if rate > EXPLODING_RATE else "healthy"
        )
        assert verdict(norms, index) == expected


def test_one_defect_has_one_verdict_at_21_41_and_81_convolutions() -> None:
    """V of trunks without a shortcut and with one, as measured at 13, 23 and 43 recorded layers."""
    for layers, plain, residual in ((13, 0.89, 0.58), (23, 1.58, 0.58), (43, 2.95, 0.32)):
        norms = [1.0] * layers
        assert (verdict(norms, plain), verdict(norms, residual)) == ("exploding", "healthy")


def test_a_dead_signal_comes_before_what_the_gradient_does() -> None:
    flat = [1.0] * 6
    assert verdict(flat, 0.0, 0.9, 4.9e-4) == "dead forward"
    assert verdict(flat, -5.0, 0.9, 1e-7) == "dead forward"
    assert verdict([0.0] * 6, 0.0, 0.9, 0.0) == "dead forward"
    assert verdict(flat, -5.0, 0.9, 5.1e-4) == "vanishing"
    assert verdict(flat, math.nan, 0.9, 1e-7) == "diverged"


def test_no_layers_is_a_mistake_of_the_caller() -> None:
    with pytest.raises(ValueError, match="at least one"):
        vanishing_index([])
