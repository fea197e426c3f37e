"""What the engine asks of a detector, whoever wrote its layers."""

from __future__ import annotations

from typing import Any, TypedDict

from torch import Tensor, nn

from detector.config.schema import ModelConfig


class Predictions(TypedDict):
    """Raw outputs; A is the number of anchor points, summed over the scales."""

    boxes: Tensor  # (B, 4·reg_max, A): logits of the distances to left, top, right, bottom
    scores: Tensor  # (B, classes, A): class logits
    feats: list[Tensor]  # one (B, c, H/stride, W/stride) a scale: only their height and width are used


class DetectionModel(nn.Module):
    """A detector that predicts boxes and class scores at every cell of a few scales.

    There are `Detector`, our own, `YoloModel`, any detection network of ultralytics, and what a plugin
    registers. Everything after them (loss, decoding, recorder, checkpoints) reads only what is declared here.
    A model of one's own sets the first three, and implements `forward` and `backbone_layers`.
    """

    strides: tuple[int, ...]  # pixels a cell of each scale
    num_classes: int
    reg_max: int  # bins of each box side's distribution; 1: the distance itself is predicted
    config: ModelConfig  # what it was built from
    stripped: tuple[dict[str, Any], ...] = ()  # what was taken out of it as built: see `models.strip`
    end2end: bool = False  # trained with a second head, which assigns each object to a single cell

    def backbone_layers(self) -> dict[str, nn.Module]:
        """The backbone's layers in network order, under the names that every curve carries."""
        raise NotImplementedError

    def backbone_modules(self) -> list[nn.Module]:
        """What a lower learning rate or `model.freeze=backbone` is for."""
        return list(self.backbone_layers().values())

    def body(self) -> nn.Module:
        """What holds the modules under the names that users know them by."""
        return self

    def level_ends(self) -> dict[str, str]:
        """The layers whose outputs leave the backbone, by level (p3 has stride 2³); empty if not known."""
        return {}

    def class_layers(self) -> set[str]:
        """The names of the layers whose outputs are the classes: new wherever the classes are."""
        return set()

    def architecture(self) -> dict[str, Any]:
        """Plain data from which `detector.models.build.rebuild` makes the same network, weights aside."""
        return {"kind": self.config.name, "model": self.config.model_dump(mode="json")}


def freeze(model: DetectionModel, layers: str | int) -> None:
    """Take weights out of training.

    Args:
        model: changed in place.
        layers: "none", "backbone", or how many of the first layers of `backbone_layers`.
    """
    if layers == "backbone":
        frozen = model.backbone_modules()
    else:
        frozen = list(model.backbone_layers().values())[: 0 if layers == "none" else int(layers)]
    for module in frozen:
        module.requires_grad_(False)
