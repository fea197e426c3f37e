"""What a network takes is known before it is taken."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from detector.runtime import memory_check
from detector.runtime.memory_check import check_activations, count_numbers, without_content


def test_nothing_is_allocated_but_given_numbers_are_there() -> None:
    with without_content():
        layer = nn.Linear(10**6, 10**6)  # 4 TB
        stride = torch.tensor([8.0, 16.0])
    assert count_numbers(layer) == 10**12 + 10**6
    assert layer.weight.device.type == "meta" and stride.tolist() == [8, 16]


def test_tensors_count_as_long_as_they_live(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "MOST_ACTIVATIONS", 1000)
    kept: list[torch.Tensor] = []

    def one_after_the_other() -> None:
        for _ in range(100):
            torch.zeros(200)  # 800 bytes

    def at_once() -> None:
        kept.extend(torch.zeros(100) for _ in range(3))

    check_activations(one_after_the_other, 0)
    with pytest.raises(ValueError, match="takes more than"):
        check_activations(at_once, 0)
    check_activations(at_once, 50)  # 200 bytes of weights are allowed besides


def test_an_inner_tensor_counts_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Attention's matrix is no layer's output."""
    monkeypatch.setattr(memory_check, "MOST_ACTIVATIONS", 10_000)

    def attend() -> None:
        x = torch.zeros(1, 100, 2)
        (x @ x.transpose(1, 2)).softmax(-1) @ x

    with pytest.raises(ValueError, match="takes more than"):
        check_activations(attend, 0)


def test_operations_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_check, "MOST_OPERATIONS", 10)
    with pytest.raises(ValueError, match="more than 10 operations"):
        check_activations(lambda: [torch.zeros(1) for _ in range(11)], 0)
