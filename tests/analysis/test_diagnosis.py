"""What is concluded from a history, on rows made by hand."""

import math

import pytest

from detector.analysis.diagnosis import diagnose, late_rows, median_of


def row(step: int, *norms: float, dependence: float = 0.9) -> dict[str, float]:
    from detector.gradients.indices import vanishing_index

    layers = {f"activation_grad/{i:02d}_layer": norm for i, norm in enumerate(norms)}
    index = vanishing_index(list(norms))
    return {
        "step": step,
        **layers,
        "gradient/vanishing_index": index,
        "gradient/weight_index": -index,
        "signal/input_dependence": dependence,
    }


def test_exploding_at_first_and_vanishing_late() -> None:
    rows = [row(0, 1e2, 1e1, 1.0), row(50, 1.0, 1.0, 1.0), row(80, 1e-3, 1e-2, 1.0), row(99, 1e-2, 1e-1, 1.0)]
    found = diagnose(rows, steps=100)
    assert found["gradient/vanishing_index_init"] == pytest.approx(2)
    assert found["gradient/weight_index_init"] == pytest.approx(-2)
    assert found["gradient/verdict_init"] == "exploding"
    assert found["gradient/vanishing_index"] == pytest.approx(-2.5)  # the median of -3 and -2
    assert found["gradient/verdict"] == "vanishing"
    assert found["gradient/decades_per_layer_init"] == pytest.approx(1)
    assert found["gradient/decades_per_layer"] == pytest.approx(-1.25)


def test_late_is_the_last_third_of_what_was_reached() -> None:
    rows = [row(step, 1.0, 1.0, 1.0) for step in range(0, 150, 5)]
    assert min(r["step"] for r in late_rows(rows, 150)) == 100
    assert [r["step"] for r in late_rows(rows[:12], 150)] == [40, 45, 50, 55]  # stopped after step 55
    assert [r["step"] for r in late_rows(rows[:1], 150)] == [0]


def test_a_run_that_broke_is_diverged_whatever_came_before() -> None:
    rows = [row(0, 1.0, 1.0, 1.0), row(3, math.inf, 1.0, 1.0)]
    found = diagnose(rows, steps=100, diverged=True)
    assert found["gradient/verdict_init"] == "healthy"
    assert found["gradient/verdict"] == "diverged"
    assert math.isnan(found["gradient/vanishing_index"])


def test_one_unlucky_row_does_not_decide_an_underflow() -> None:
    """The floor is asked of the last row, the index of the median."""
    rows = [row(0, 1.0, 1.0, 1.0), row(70, 0.0, 0.0, 1.0), row(80, 1.0, 1.0, 1.0), row(99, 1.0, 1.0, 1.0)]
    assert diagnose(rows, steps=100)["gradient/verdict"] == "healthy"


def test_without_step_0_nothing_is_said_about_the_initialisation() -> None:
    found = diagnose([row(5, 1.0, 1.0, 1.0)], steps=10)
    assert found["gradient/verdict_init"] is None
    assert found["gradient/vanishing_index_init"] is None
    assert found["gradient/verdict"] == "healthy"


def test_rows_without_gradients_are_passed_over() -> None:
    assert diagnose([{"step": 0, "train/loss": 1.0}], steps=10) == {}
    assert diagnose([], steps=10) == {}


def test_late_begins_at_two_thirds_exactly() -> None:
    rows = [row(step, 1.0, 1.0, 1.0) for step in (0, 5, 6, 8)]  # the end is step 9: two thirds are 6
    assert [r["step"] for r in late_rows(rows, 9)] == [6, 8]


def test_a_collapse_is_judged_by_the_late_median() -> None:
    even = [1.0, 1.0, 1.0]
    rows = [row(step, *even, dependence=0.0005 if step >= 70 else 0.9) for step in range(0, 100, 10)]
    found = diagnose(rows, steps=100)
    assert found["signal/input_dependence"] == 0.0005
    assert (found["gradient/verdict_init"], found["gradient/verdict"]) == ("healthy", "collapsed")


def test_a_median_of_what_is_missing_or_broken_is_nan() -> None:
    rows = [{"step": 0, "x": 1.0}, {"step": 1}, {"step": 2, "x": 3.0}, {"step": 3, "x": 8.0}]
    assert median_of(rows, "x") == 3.0
    assert math.isnan(median_of(rows, "y"))
    assert math.isnan(median_of([*rows, {"step": 4, "x": math.nan}], "x"))


def test_a_dead_signal_is_judged_by_its_weakest_level_and_reported_with_it() -> None:
    rows = [row(step, 1e-4, 1e-2, 1.0) for step in (0, 70, 99)]
    for at, r in enumerate(rows):
        r |= {"signal/rms_p3": 1e-2, "signal/rms_p4": 10.0 ** -(4 + at)}
    found = diagnose(rows, steps=100)
    assert found["gradient/verdict_init"] == found["gradient/verdict"] == "dead forward"
    assert found["signal/rms_p4_init"] == 1e-4
    assert found["signal/rms_p4"] == pytest.approx((1e-5 + 1e-6) / 2)
    assert found["signal/rms_p3"] == found["signal/rms_p3_init"] == 1e-2
    unmeasured = diagnose([row(step, 1e-4, 1e-2, 1.0) for step in (0, 70, 99)], steps=100)  # an older run
    assert unmeasured["gradient/verdict"] == "vanishing"
    assert not any("rms" in key for key in unmeasured)


def test_a_batch_of_one_image_has_no_dependence_and_can_still_be_judged() -> None:
    single = row(0, 1.0, 1.0, 1.0)
    del single["signal/input_dependence"]
    found = diagnose([single], steps=1)
    assert found["gradient/verdict_init"] == found["gradient/verdict"] == "healthy"
    assert math.isnan(found["signal/input_dependence"])  # type: ignore[arg-type]
