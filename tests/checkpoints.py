"""Checkpoints of small networks that find something, without training any."""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
from torch import nn

from detector.config.schema import Config, ModelConfig
from detector.data.geometry import Image, letterbox
from detector.models.base import DetectionModel
from detector.models.build import build_model, describe
from detector.models.detector import Detector
from detector.models.yolo import YoloModel
from detector.runtime.checkpoint_file import FORMAT, write
from detector.tools.export.graphs import check_inputs

TINY = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=16)
NAMES = ("red", "grün", "blue")


def picture(seed: int = 0, height: int = 90, width: int = 120) -> Image:
    """Blurred coloured patches, (H, W, 3): unlike noise, different everywhere at every scale."""
    coarse = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.uint8)


def confident(
    config: ModelConfig = TINY, names: tuple[str, ...] = NAMES, share: float = 0.02
) -> DetectionModel:
    """A random network whose class scores are spread out, a `share` of them above one half.

    Its batch norms have seen such pictures and what exports are checked on, so that signals neither grow nor
    shrink on their way through it: rounding errors would grow with them. Each is made once, and copied.
    """
    model, drawn = _confident(config, names, share)
    torch.set_rng_state(drawn)  # as if it had been made
    return deepcopy(model)


@cache
def _confident(
    config: ModelConfig, names: tuple[str, ...], share: float
) -> tuple[DetectionModel, torch.Tensor]:
    """The network, and where that leaves torch's generator."""
    squares = np.stack([letterbox(picture(seed), 128)[0] for seed in range(8)])
    checks = torch.from_numpy(np.concatenate(check_inputs(128, 2)))
    images = torch.cat((torch.from_numpy(squares).permute(0, 3, 1, 2) / 255, checks))
    torch.manual_seed(0)
    model = build_model(config, names).model
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = None  # a plain average
    classifiers = [module for name, module in model.named_modules() if name in model.class_layers()]
    with torch.no_grad():
        model.train()(images)
        model.eval()
        for layer in box_layers(model):  # about a cell to each side, whatever their form
            layer.weight.mul_(0.1)
            falling = -torch.arange(model.reg_max) if model.reg_max > 1 else torch.ones(1)
            layer.bias.copy_(falling.repeat(4))
        for layer in classifiers:
            layer.bias.zero_()
            layer.register_forward_hook(lambda layer, _, logits: outputs.update({layer: logits}))
        outputs: dict[nn.Module, torch.Tensor] = {}
        model(images)
        for layer in classifiers:  # each scale by itself, since they differ
            logits = outputs[layer][: len(squares)]
            gain = 2 / logits.std()
            layer.weight.mul_(gain)
            layer.bias.sub_(torch.quantile(logits * gain, 1 - share))
            layer._forward_hooks.clear()
    return model, torch.get_rng_state()


def box_layers(model: DetectionModel) -> list[nn.Conv2d]:
    if isinstance(model, YoloModel):
        branches = [*model.head.cv2, *(getattr(model.head, "one2one_cv2", None) or ())]
    else:
        assert isinstance(model, Detector)
        branches = list(model.head.box)
    return [branch[-1] for branch in branches]


def save(model: DetectionModel, path: Path, names: tuple[str, ...] = NAMES, image_size: int = 64) -> Path:
    """Write it as a run would."""
    path.parent.mkdir(parents=True, exist_ok=True)
    config = Config().model_dump(mode="json")
    config["data"]["image_size"] = image_size
    extra = {"config": config, "names": list(names), "architecture": describe(model)}
    write({"format": FORMAT, "model": model.state_dict(), "ema": None, "step": 7, "extra": extra}, path)
    return path
