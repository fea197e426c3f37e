"""A whole network of one's own: built by its name, saved by its name, and rebuilt from a checkpoint."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.errors import UserError
from detector.models.base import DetectionModel, Predictions
from detector.models.build import build_model, load_model, rebuild
from detector.registry import register
from detector.runtime.checkpoint_file import FORMAT, write

pytestmark = pytest.mark.usefixtures("own_names")
NAMES = ("cat", "dog")


class Tiny(DetectionModel):
    """One convolution a scale."""

    strides = (8, 16, 32)
    reg_max = 4

    def __init__(self, config: ModelConfig, num_classes: int) -> None:
        super().__init__()
        self.num_classes = num_classes
        self.layers = nn.ModuleList(nn.Conv2d(3, 4 * self.reg_max + num_classes, s, s) for s in self.strides)

    def forward(self, images: Tensor) -> Predictions:
        feats: list[Tensor] = [layer(images) for layer in self.layers]
        both = torch.cat([f.flatten(2) for f in feats], 2)
        return {"boxes": both[:, : 4 * self.reg_max], "scores": both[:, 4 * self.reg_max :], "feats": feats}

    def backbone_layers(self) -> dict[str, nn.Module]:
        return {f"{at:02d}_p{at + 3}": layer for at, layer in enumerate(self.layers)}


def saved(tmp_path: Path, architecture: dict[str, Any], weights: dict[str, Tensor]) -> Path:
    extra = {"config": {"data": {"image_size": 64}}, "names": list(NAMES), "architecture": architecture}
    path = tmp_path / "best.pt"
    write({"format": FORMAT, "model": weights, "ema": None, "step": 3, "extra": extra}, path)
    return path


def test_it_is_built_frozen_and_rebuilt_by_its_name(tmp_path: Path) -> None:
    register.model("tiny")(Tiny)
    config = ModelConfig(name="tiny", freeze=1)
    model, origin = build_model(config, NAMES)
    assert isinstance(model, Tiny)
    assert origin == ""
    assert [p.requires_grad for p in model.parameters()] == [False, False, True, True, True, True]
    assert model.backbone_modules() == list(model.layers)
    assert model.class_layers() == set()
    assert model.architecture()["kind"] == "tiny"

    loaded = load_model(saved(tmp_path, model.architecture(), model.state_dict()))
    images = torch.rand(1, 3, 64, 64)
    assert torch.equal(loaded.model(images)["scores"], model(images)["scores"])


def test_without_the_plugin_its_checkpoint_says_so(tmp_path: Path) -> None:
    config = {"name": "tiny", "act": "snake", "depths": (1, 1, 1, 1)}
    path = saved(tmp_path, {"kind": "tiny", "model": config}, {})
    with pytest.raises(
        UserError, match=r"needs a plugin that brings model\.act=snake and model\.name=tiny: add"
    ):
        load_model(path)


def test_a_function_that_makes_something_else_is_named() -> None:
    register.model("linear")(lambda config, num_classes: nn.Linear(1, 1))
    with pytest.raises(UserError, match=r"model\.name=linear: must make a .*DetectionModel, not Linear"):
        build_model(ModelConfig(name="linear"), NAMES)


def test_an_architecture_that_is_damaged_is_not_taken_for_a_plugin_s() -> None:
    with pytest.raises(UserError, match="it is damaged"):
        rebuild({"kind": "compact", "model": {"act": 3}}, 2)


def test_any_size_is_its_own_business() -> None:
    register.model("tiny")(Tiny)
    assert ModelConfig(name="tiny", widths=(8192,) * 5, depths=(1000,) * 4).name == "tiny"
