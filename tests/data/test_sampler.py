"""The order of an epoch, and how often each image is in it."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from detector.data.sampler import EpochSampler, order_of, repeat_factors

CLASSES = [np.array(ids, np.int64) for ids in ([0], [0, 0, 1], [0], [], [0, 2], [0], [0], [1])]


def test_repeat_factors_by_hand() -> None:
    # Of 8 images 6 show class 0, 2 class 1 and 1 class 2; two boxes on an image are one image.
    rare, rarest = np.sqrt(0.5 / (2 / 8)), np.sqrt(0.5 / (1 / 8))
    assert repeat_factors(CLASSES, 0.5) == pytest.approx([1, rare, 1, 1, rarest, 1, 1, rare])
    assert repeat_factors(CLASSES, 0.1) == pytest.approx(np.ones(8))  # no class is that rare


def test_images_come_as_often_as_their_weights_say() -> None:
    weights = repeat_factors(CLASSES, 0.5)
    expected = weights * 8 / weights.sum()
    counts: Counter[int] = Counter()
    epochs = 4000
    for epoch in range(epochs):
        seen = Counter((order_of(8, 3, epoch, weights) % 8).tolist())
        assert all(np.floor(expected[i]) <= seen[i] <= np.ceil(expected[i]) for i in range(8))
        counts += seen
    # Systematic sampling rounds at random: a binomial deviation of at most 0.5 / sqrt(4000), times four.
    assert [counts[i] / epochs for i in range(8)] == pytest.approx(expected, abs=4 * 0.5 / np.sqrt(epochs))


def test_equal_weights_show_every_image_once() -> None:
    assert sorted(order_of(9, 0, 5, np.ones(9))) == list(range(9))


def test_an_image_that_comes_again_has_another_number() -> None:
    order = order_of(4, 0, 0, np.array([1.0, 1.0, 1.0, 9.0]))
    assert len({*order.tolist()}) == 4 and sorted(order % 4)[-3:] == [3, 3, 3]


@pytest.mark.parametrize("weights", [None, repeat_factors(CLASSES, 0.9)])
def test_a_resumed_or_shared_order_is_the_same(weights: np.ndarray | None) -> None:
    def batches(start: int = 0, shard: tuple[int, int] = (0, 1)) -> list[list[tuple[int, int]]]:
        return list(EpochSampler(8, 3, 7, start, 12, shard, weights))

    whole = batches()
    assert batches(5) == whole[5:]
    parts = zip(batches(shard=(0, 2)), batches(shard=(1, 2)), strict=True)
    assert [one + other for one, other in parts] == whole
    assert whole[:3] != whole[3:6]  # another epoch, another order
