"""Folded networks compute what the unfolded ones do."""

from collections.abc import Callable

import pytest
import torch
from torch import nn

from detector.config.schema import ModelConfig
from detector.models.base import DetectionModel
from detector.models.detector import build_detector
from detector.models.fold import fold_norms
from detector.models.yolo import YoloModel
from detector.runtime.ultralytics_import import import_ultralytics


def compact() -> DetectionModel:
    return build_detector(ModelConfig(depths=(1, 1, 1, 1)), num_classes=3)


def yolo() -> DetectionModel:
    utils = import_ultralytics("nn.tasks")
    return YoloModel(utils.yaml_model_load("yolov8n.yaml"), 3)


def with_statistics(model: nn.Module) -> None:
    """As after training: nothing is folded into a factor of one and a shift of zero."""
    generator = torch.Generator().manual_seed(2)
    for norm in model.modules():
        if isinstance(norm, nn.BatchNorm2d):
            for values, low in (
                (norm.weight, 0.5), (norm.bias, -0.5), (norm.running_mean, -0.5), (norm.running_var, 0.5)
            ):  # fmt: skip
                values.data.copy_(torch.rand(values.shape, generator=generator) + low)


@pytest.mark.parametrize("make", [compact, yolo])
def test_folding_changes_no_output_and_not_the_original(make: Callable[[], DetectionModel]) -> None:
    torch.manual_seed(0)
    model = make()
    with_statistics(model)
    model.eval()
    images = torch.rand(2, 3, 64, 96)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    folded = fold_norms(model)
    with torch.no_grad():
        expected, found = model(images), folded(images)
    for key in ("boxes", "scores"):
        torch.testing.assert_close(found[key], expected[key], rtol=1e-3, atol=1e-3)
    assert not any(isinstance(module, nn.BatchNorm2d) for module in folded.modules())
    assert all(torch.equal(before[name], value) for name, value in model.state_dict().items())


def test_other_norms_are_left_alone() -> None:
    model = build_detector(ModelConfig(depths=(1, 1, 1, 1), norm="group"), num_classes=3)
    images = torch.rand(1, 3, 64, 64)
    with torch.no_grad():
        assert torch.equal(fold_norms(model)(images)["scores"], model.eval()(images)["scores"])
