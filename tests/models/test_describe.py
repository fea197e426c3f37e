"""The size of a network, against PyTorch's own counter."""

from __future__ import annotations

import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from detector.config.schema import ModelConfig
from detector.models.build import build_model
from detector.models.size import FlopCounter, measure


@pytest.mark.parametrize("pretrained", [None, "yolov8n.yaml", "yolo11n.yaml", "yolo12n.yaml", "yolo26n.yaml"])
def test_operations_are_those_that_pytorch_counts(pretrained: str | None) -> None:
    model = build_model(ModelConfig(pretrained=pretrained), ["a", "b", "c"]).model
    with torch.no_grad(), FlopCounterMode(display=False) as reference:
        model.eval()(torch.zeros(1, 3, 64, 64))
    assert measure(model, 64).flops == reference.get_total_flops() > 0


def test_every_kind_of_operation_is_counted() -> None:
    x = torch.randn(2, 4, 6, 6)
    query, longer = torch.randn(2, 3, 5, 8), torch.randn(2, 3, 7, 8)

    def work() -> None:
        nn.Conv2d(4, 8, 3, groups=2, stride=2)(x)
        nn.ConvTranspose2d(4, 6, 3, groups=2, stride=2)(x)
        nn.Linear(6, 5)(x)
        x @ x, torch.matmul(x, x), torch.bmm(x[0], x[1])
        nn.functional.scaled_dot_product_attention(query, longer, longer)

    with FlopCounterMode(display=False) as reference:
        work()
    with FlopCounter() as counter:
        work()
    assert counter.flops == reference.get_total_flops()
