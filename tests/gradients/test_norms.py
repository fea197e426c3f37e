"""Norms, against the same sums in float64."""

from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor

from detector.gradients.norms import ROW, SMALL, Copies, joint_norm, joint_squares, norm, norms


def reference(*parts: Tensor) -> float:
    return math.sqrt(sum(float(part.double().square().sum()) for part in parts))


def tensors() -> dict[str, Tensor]:
    torch.manual_seed(0)
    large = torch.randn(4, 32, 40, 40)  # 204,800 values: many rows and no rest
    return {
        "nothing": torch.zeros(0),
        "a scalar": torch.tensor(-3.0),
        "small": torch.randn(7, 5),
        "just not small": torch.randn(SMALL + 1),
        "rows and a rest": torch.randn(SMALL + ROW + 17) + 5,
        "large": large,
        "channels last": large.to(memory_format=torch.channels_last),
        "transposed": large.transpose(0, 3),
        "every second value": large[:, ::2],
        "expanded": torch.tensor(0.1).expand(SMALL * 3),
        "one sign, like a mean": torch.full((1_000_000,), 0.1) + torch.rand(1_000_000) / 100,
        "bf16": large.bfloat16(),
        "fp16": large.half(),
        "float64": large.double(),
    }


@pytest.mark.parametrize("name", list(tensors()))
def test_a_norm_is_that_of_float64(name: str) -> None:
    x = tensors()[name]
    value = norm(x)
    assert (value.dtype, value.shape) == (torch.float64, ())
    assert float(value) == pytest.approx(reference(x), rel=1e-12 if x.dtype == torch.float64 else 1e-6)


@pytest.mark.parametrize("scale", [1e-44, 1e-38, 1e-30, 1e-20, 1e-13, 1e-11, 1e13, 1e18, 1e30])
def test_squares_that_float32_cannot_hold_are_not_lost(scale: float) -> None:
    torch.manual_seed(0)
    x = torch.randn(2 * SMALL + 5) * scale
    assert float(norm(x)) == pytest.approx(reference(x), rel=1e-6)
    assert float(norm(x)) > 0


def test_what_is_small_beside_the_rest_may_be_lost_and_nothing_else() -> None:
    """One large value among a hundred thousand whose squares underflow: the norm is that of the large one."""
    x = torch.full((4 * SMALL,), 1e-25)
    x[5] = 1e-9
    assert float(norm(x)) == pytest.approx(1e-9, rel=1e-12)
    assert reference(x) == pytest.approx(float(norm(x)), rel=1e-12)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_nan_and_infinity_stay(bad: float) -> None:
    for count in (10, 2 * SMALL):
        x = torch.ones(count)
        x[-1] = bad
        value = float(norm(x))
        assert math.isnan(value) if math.isnan(bad) else value == math.inf


def test_zeros_have_norm_zero() -> None:
    assert float(norm(torch.zeros(2 * SMALL))) == 0.0


def layers() -> dict[str, list[Tensor]]:
    torch.manual_seed(0)
    convolution = torch.randn(8, 4, 3, 3)
    return {
        "one": [convolution, torch.randn(7, 5)],
        "two": [torch.randn(64, 32, 3, 3).to(memory_format=torch.channels_last)],
        "vanishing": [torch.randn(300) * 1e-30, torch.randn(40, 50).T * 1e-30],
    }


def test_copies_know_how_far_weights_have_moved() -> None:
    weights = layers()
    copies = Copies(weights)
    for turn in range(2):  # the memory is used again
        before = {name: [w.clone() for w in layer] for name, layer in weights.items()}
        for name, value in copies.take().items():
            assert float(value) == pytest.approx(reference(*weights[name]), rel=1e-6), name
        for layer in weights.values():
            for w in layer:
                w += torch.randn(w.shape) * float(w.abs().mean()) / 10 ** (turn + 1)
        for name, value in copies.subtract().items():
            moved = [w - b for w, b in zip(weights[name], before[name], strict=True)]
            assert float(value) == pytest.approx(reference(*moved), rel=1e-6), name


def test_copies_are_of_certain_weights_in_a_certain_order_in_memory() -> None:
    weights = layers()
    copies = Copies(weights)
    assert copies.of(weights)
    assert not copies.of({name: layer for name, layer in weights.items() if name != "one"})
    assert not copies.of(layers())
    weights["one"][0] = weights["one"][0].to(memory_format=torch.channels_last)
    assert not copies.of(weights)


def test_several_tensors_are_one() -> None:
    parts = [x for name, x in tensors().items() if name != "nothing"]
    assert float(joint_norm(parts)) == pytest.approx(reference(*parts), rel=1e-6)
    weight = torch.nn.Parameter(torch.ones(2, 2))
    assert not joint_norm([weight]).requires_grad


def test_many_at_once_are_each_for_itself() -> None:
    found = norms(list(tensors().values()))
    assert (found.dtype, found.shape) == (torch.float64, (len(tensors()),))
    for value, (name, x) in zip(found.tolist(), tensors().items(), strict=True):
        assert value == pytest.approx(reference(x), rel=1e-12 if x.dtype == torch.float64 else 1e-6), name


def test_each_layer_has_the_sum_of_its_own_squares() -> None:
    """Layers with one tensor and with several; what is not finite stays in its own layer."""
    parts = list(tensors().values())
    bad = torch.tensor([1.0, math.nan])
    found = joint_squares([parts[:3], [bad, parts[0]], parts[3:4], [torch.tensor(math.inf)], parts[4:]])
    assert math.isnan(found[1]) and float(found[3]) == math.inf
    for index, own in ((0, parts[:3]), (2, parts[3:4]), (4, parts[4:])):
        assert float(found[index]) == pytest.approx(reference(*own) ** 2, rel=2e-6)
