"""The compact detector: a deep trunk, an FPN+PAN neck and a decoupled anchor-free head."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from detector.config.schema import ModelConfig
from detector.models.base import DetectionModel, Predictions, freeze
from detector.models.blocks import BLOCKS, Block, Components, ConvNormAct, components
from detector.models.fixup import FixupBlock
from detector.models.init import init_predictors, init_weights
from detector.registry import lookup


class Backbone(nn.Sequential):
    """A stem and four stages of a stride-2 unit and blocks, as one chain in network order.

    With the shortcut off this is a true plain chain: no concatenation smuggles a skip back in.
    Most depth sits at stride 8, because at initialisation the box loss reaches the network there.
    """

    def __init__(
        self,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        parts: Components,
        block: Callable[[int, Components], nn.Module],
    ) -> None:
        super().__init__()
        self.add_module("stem", ConvNormAct(3, widths[0], parts, stride=2))
        self.ends: list[str] = []  # the last module of each stage
        for stage, depth in enumerate(depths):
            name = f"p{stage + 2}"  # the pyramid level: p3 has stride 2³
            c_in, c_out = widths[stage], widths[stage + 1]
            # "." cannot be part of a module's name, so the children are called p3_down, p3_0, …
            self.add_module(f"{name}_down", ConvNormAct(c_in, c_out, parts, stride=2))
            for index in range(depth):
                self.add_module(f"{name}_{index}", block(c_out, parts))
            self.ends.append(f"{name}_{depth - 1}")

    def forward(self, x: Tensor) -> list[Tensor]:
        """(B, 3, H, W) -> the ends of the stages at strides 4, 8, 16, 32."""
        ends = []
        for name, module in self.named_children():
            x = module(x)
            if name in self.ends:
                ends.append(x)
        return ends


class Neck(nn.Module):
    """FPN (Lin et al. 2017) down, then PAN (Liu et al. 2018) up, at one width."""

    def __init__(self, widths: tuple[int, ...], width: int, parts: Components) -> None:
        super().__init__()
        self.lateral = nn.ModuleList(ConvNormAct(c, width, parts, kernel=1) for c in widths)
        self.top_down = nn.ModuleList(ConvNormAct(2 * width, width, parts) for _ in range(2))
        self.down = nn.ModuleList(ConvNormAct(width, width, parts, stride=2) for _ in range(2))
        self.bottom_up = nn.ModuleList(ConvNormAct(2 * width, width, parts) for _ in range(2))

    def forward(self, features: list[Tensor]) -> list[Tensor]:
        """Three of (B, c, H, W) at strides 8, 16, 32 -> three of (B, width, H, W)."""
        p3, p4, p5 = (lateral(f) for lateral, f in zip(self.lateral, features, strict=True))
        p4 = self.top_down[0](torch.cat((p4, upsample(p5)), 1))
        p3 = self.top_down[1](torch.cat((p3, upsample(p4)), 1))
        p4 = self.bottom_up[0](torch.cat((p4, self.down[0](p3)), 1))
        p5 = self.bottom_up[1](torch.cat((p5, self.down[1](p4)), 1))
        return [p3, p4, p5]


class Head(nn.Module):
    """Decoupled branches for boxes and classes, one pair a scale."""

    def __init__(self, width: int, num_classes: int, reg_max: int, parts: Components) -> None:
        super().__init__()

        def branch(outputs: int) -> nn.Sequential:
            units = ConvNormAct(width, width, parts), ConvNormAct(width, width, parts)
            return nn.Sequential(*units, nn.Conv2d(width, outputs, 1))

        self.box = nn.ModuleList(branch(4 * reg_max) for _ in range(3))
        self.cls = nn.ModuleList(branch(num_classes) for _ in range(3))

    def forward(self, feats: list[Tensor]) -> Predictions:
        """Three of (B, width, H, W) -> `Predictions`, the scales concatenated along A."""
        boxes = [branch(f).flatten(2) for branch, f in zip(self.box, feats, strict=True)]  # (B, 4·R, H·W)
        scores = [branch(f).flatten(2) for branch, f in zip(self.cls, feats, strict=True)]  # (B, C, H·W)
        return {"boxes": torch.cat(boxes, 2), "scores": torch.cat(scores, 2), "feats": feats}


class Detector(DetectionModel):
    """Images in, raw predictions out.

    >>> import torch
    >>> from torch import nn
    >>> from detector import Detector
    >>> from detector.models.blocks import Components, residual
    >>> parts = Components(act=nn.SiLU, norm=nn.BatchNorm2d, shortcut=residual)
    >>> sizes = {"depths": (1, 2, 1, 1), "widths": (8,) * 5, "neck_width": 8, "reg_max": 4}
    >>> model = Detector(3, **sizes, parts=parts, rest=parts)
    >>> model(torch.zeros(2, 3, 64, 64))["scores"].shape  # 8·8 + 4·4 + 2·2 cells
    torch.Size([2, 3, 84])
    >>> list(model.backbone_layers())[:4]
    ['00_stem', '01_p2.down', '02_p2.0', '03_p3.down']

    Args:
        num_classes: how many classes the head scores.
        depths: blocks in each stage, at strides 4, 8, 16, 32.
        widths: channels of the stem and of each stage.
        neck_width: channels of the neck and the head.
        reg_max: bins of the distribution over each box side's distance, in strides.
        parts: the injected activation, norm and shortcut of the trunk.
        rest: those of the neck and the head.
        block: makes one block of the stages from its channels and the parts.
    """

    strides = (8, 16, 32)

    def __init__(
        self,
        num_classes: int,
        depths: tuple[int, ...],
        widths: tuple[int, ...],
        neck_width: int,
        reg_max: int,
        parts: Components,
        rest: Components,
        block: Callable[[int, Components], nn.Module] = Block,
    ) -> None:
        super().__init__()
        self.num_classes, self.reg_max = num_classes, reg_max
        self.backbone = Backbone(depths, widths, parts, block)
        self.neck = Neck(widths[2:], neck_width, rest)
        self.head = Head(neck_width, num_classes, reg_max, rest)

    def forward(self, images: Tensor) -> Predictions:
        """(B, 3, H, W) in [0, 1], H and W multiples of 32 -> `Predictions`."""
        out: Predictions = self.head(self.neck(self.backbone(images)[1:]))
        return out

    def backbone_layers(self) -> dict[str, nn.Module]:
        """The trunk's modules in network order, under the names that every curve carries.

        The number is the position in the architecture, so that removing a component renames nothing.
        """
        children = self.backbone.named_children()
        return {f"{depth:02d}_{name.replace('_', '.', 1)}": m for depth, (name, m) in enumerate(children)}

    def level_ends(self) -> dict[str, str]:
        """See `DetectionModel.level_ends`: what the neck gets."""
        names = dict(zip(self.backbone._modules, self.backbone_layers(), strict=True))
        return {end[:2]: names[end] for end in self.backbone.ends[1:]}

    def class_layers(self) -> set[str]:
        """See `DetectionModel.class_layers`."""
        return {f"head.cls.{scale}.2" for scale in range(len(self.head.cls))}


def build_detector(config: ModelConfig, num_classes: int) -> Detector:
    """Build and initialise the detector from torch's global generator: seed it first."""
    sizes = config.depths, config.widths, config.neck_width, config.reg_max
    parts, rest = components(config.part("trunk")), components(config.part("neck_and_head"))
    blocks = BLOCKS | {"fixup": partial(FixupBlock, blocks=sum(config.depths))}
    model = Detector(num_classes, *sizes, parts, rest, lookup("block", config.block, blocks))
    model.config = config
    init_weights(model, config.init, config.init_std)
    init_predictors(model.head.box, model.head.cls, model.strides, num_classes)
    freeze(model, config.freeze)
    return model


def upsample(x: Tensor) -> Tensor:
    """(B, c, H, W) -> (B, c, 2H, 2W), nearest."""
    return F.interpolate(x, scale_factor=2.0, mode="nearest")
