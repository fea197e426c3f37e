"""The probe against pairs counted one by one, and the autocorrelation against series whose own is known."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from detector.gradients.probe import (
    auc,
    gradient_autocorrelation,
    inside,
    lag_one,
    position,
    probe_auc,
    probe_levels,
)


@given(st.lists(st.tuples(st.integers(0, 5), st.booleans()), min_size=1, max_size=40))
def test_the_auc_is_the_share_of_pairs_in_order(cells: list[tuple[int, bool]]) -> None:
    scores = torch.tensor([float(score) for score, _ in cells])
    positive = torch.tensor([label for _, label in cells])
    pairs = [(a, b) for a, good in cells if good for b, bad in cells if not bad]
    won = [1.0 if a > b else 0.5 if a == b else 0.0 for a, b in pairs]
    expected = sum(won) / len(won) if won else math.nan
    assert auc(scores, positive) == pytest.approx(expected, nan_ok=True)


def cells(images: int, each: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    rng = torch.Generator().manual_seed(seed)
    features = torch.randn(images * each, 6, generator=rng, dtype=torch.float64)
    positive = torch.rand(images * each, generator=rng) < 0.3
    return features, positive, torch.arange(images).repeat_interleave(each)


def test_a_probe_finds_what_is_linear_and_nothing_in_noise() -> None:
    features, positive, image = cells(8, 200)
    assert probe_auc(features, positive, image) == pytest.approx(0.5, abs=0.06)
    features[:, 2] += 10 * positive
    assert probe_auc(features, positive, image) > 0.999
    assert probe_auc(1e-30 * features + 5, positive, image) == pytest.approx(0.5)  # it drowns in the mean


def test_a_probe_is_judged_on_other_images_than_it_was_fitted_to() -> None:
    """A feature that gives the answer away in another direction in every image helps with none."""
    features, positive, image = cells(2, 500)
    sign = torch.where(image == 0, 1.0, -1.0)
    features[:, 0] = sign * positive
    assert probe_auc(features, positive, image) < 0.1


def test_a_probe_is_ridge_regression() -> None:
    """Against NumPy's least squares with the penalty as rows of its own, on one fold."""
    features, positive, image = cells(2, 60, seed=3)
    x, y = features.numpy(), positive.numpy().astype(float)
    found = []
    for held_out in (0, 1):
        fit, test = image.numpy() != held_out, image.numpy() == held_out
        mean, deviation = x[fit].mean(0), x[fit].std(0)
        z = (x - mean) / deviation
        penalty = math.sqrt(1e-3 * fit.sum()) * np.eye(6)
        target = np.concatenate([y[fit] - y[fit].mean(), np.zeros(6)])
        weights = np.linalg.lstsq(np.concatenate([z[fit], penalty]), target, rcond=None)[0]
        found.append(auc(torch.from_numpy(z[test] @ weights), positive[image == held_out]))
    assert probe_auc(features, positive, image) == pytest.approx(sum(found) / 2)


def test_what_cannot_be_probed_is_nan() -> None:
    features, positive, image = cells(4, 10)
    assert math.isnan(probe_auc(features, torch.zeros_like(positive), image))
    assert math.isnan(probe_auc(features, positive, torch.zeros_like(image)))  # nothing left to fit to
    assert math.isnan(probe_auc(features / 0, positive, image))


def test_cells_whose_middle_is_in_a_box() -> None:
    boxes = torch.tensor([[0.5, 0.5, 0.5, 1.0], [0.25, 0.25, 0.1, 0.1]])
    found = inside(boxes, torch.tensor([0.0, 2.0]), images=3, height=2, width=4)
    assert found[0].tolist() == [[False, True, True, False]] * 2
    assert not found[1].any()
    assert not found[2].any()  # the small box lies between the cells' middles


def test_levels_are_probed_beside_the_place_alone() -> None:
    """Objects at the left give themselves away by their place; elsewhere only the features know them."""
    boxes = torch.tensor([[0.25, 0.5, 0.5, 1.0]] * 4)
    index = torch.arange(4.0)
    noise = torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    found = probe_levels({"p3": noise}, boxes, index)
    assert found["p3_position"] == pytest.approx(1.0)
    assert found["p3"] == pytest.approx(0.5, abs=0.1)
    assert probe_levels({"p3": noise}, boxes[:0], index[:0]) == {}  # data without objects
    assert position(2, 1, 2).tolist() == [[0, 0, 0, 0, 0], [1, 0, 1, 0, 0]] * 2


def test_the_autocorrelation_of_known_series() -> None:
    rng = torch.Generator().manual_seed(0)
    white = torch.randn(4000, 3, generator=rng, dtype=torch.float64)
    assert lag_one(white) == pytest.approx(0, abs=0.05)
    brown = torch.zeros_like(white)
    for t in range(1, len(brown)):
        brown[t] = 0.9 * brown[t - 1] + white[t]
    assert lag_one(brown) == pytest.approx(0.9, abs=0.02)
    assert lag_one(torch.tensor([[1.0], [-1.0], [1.0], [-1.0]])) == pytest.approx(-1.0)  # -3/4 · 4/3
    assert math.isnan(lag_one(torch.ones(4, 2)))


def test_a_smooth_network_s_gradient_is_alike_and_a_shattered_one_s_is_not() -> None:
    """Of a square the gradient follows the input along the line; of a fast sine it does not."""

    class Wave(nn.Module):
        def __init__(self, rate: float) -> None:
            super().__init__()
            self.inner, self.rate = nn.Identity(), rate

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = self.inner(x)
            out: torch.Tensor = y.square() if self.rate == 0 else torch.sin(self.rate * y)
            return out

    def measured(rate: float) -> float:
        model = Wave(rate)
        first = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(0))
        second = torch.rand(3, 96, 96, generator=torch.Generator().manual_seed(1))
        return gradient_autocorrelation(model, [model.inner, model], first, second)

    assert measured(0) > 0.85  # linear in t: 1 less what the ends of 32 points cost
    assert abs(measured(1000)) < 0.1
