"""Weight initialisation, itself an axis of the ablations."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor, nn

from detector.registry import lookup


class Convolution(Protocol):
    """What an initialisation draws: `nn.Conv2d`, `nn.Linear` and their like."""

    weight: Tensor
    bias: Tensor | None


Draw = Callable[[Convolution], None]  # initialises weights and bias as the configuration says


def init_weights(model: nn.Module, scheme: str, std: float = 0.01) -> None:
    """Initialise a model's convolutions in place, in network order, from torch's generator.

    | scheme    | weights                       | keeps constant                   | source                  |
    |-----------|-------------------------------|----------------------------------|-------------------------|
    | `he`      | N(0, 2 / fan_in)              | E[x²] forward through ReLU       | He et al. 2015          |
    | `lecun`   | N(0, 1 / fan_in)              | E[x²] forward, identity          | LeCun et al. 1998       |
    | `xavier`  | N(0, 2 / (fan_in + fan_out))  | a compromise of both directions  | Glorot & Bengio 2010    |
    | `default` | U(±1/√fan_in), biases as well | nothing: variance 1 / (3 fan_in) | `nn.Conv2d`             |
    | `naive`   | N(0, std²)                    | nothing                          | He et al. 2015, table 2 |

    Two more draw whole matrices, which keep lengths: see `orthogonal` and `delta_orthogonal`.

    fan_in = c_in·k², fan_out = c_out·k². Biases start at 0, except under `default`. A norm starts at
    scale 1 and shift 0 under every scheme; a highway gate at weight 0 and bias -1.

    Args:
        model: whichever of its modules has a method `init_weights` is given the function that draws: see
            `detector.models.blocks.Block`. Everything else stays as PyTorch made it.
        scheme: one of the table's first column, or a registered one.
        std: the deviation of `naive`.
    """
    draw = drawing(scheme, std)
    for module in model.modules():
        if callable(start := getattr(module, "init_weights", None)):
            start(draw)


def drawing(scheme: str, std: float = 0.01) -> Draw:
    """The function that initialises one layer by a scheme of `init_weights`."""
    fill = lookup("init", scheme, SCHEMES | {"naive": lambda weight: nn.init.normal_(weight, 0.0, std)})

    def draw(layer: Convolution) -> None:
        if scheme != "default":
            with torch.no_grad():
                fill(layer.weight)
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)

    return draw


def fans(weight: Tensor) -> tuple[int, int]:
    """fan_in and fan_out of a weight (c_out, c_in, …): how many numbers go into one output, and reversed."""
    return weight[0].numel(), weight[:, 0].numel()


def he(weight: Tensor) -> None:
    """He et al. 2015, arXiv:1502.01852."""
    nn.init.normal_(weight, 0.0, math.sqrt(2 / fans(weight)[0]))


def lecun(weight: Tensor) -> None:
    """LeCun et al. 1998, "Efficient BackProp"."""
    nn.init.normal_(weight, 0.0, math.sqrt(1 / fans(weight)[0]))


def xavier(weight: Tensor) -> None:
    """Glorot & Bengio 2010."""
    nn.init.normal_(weight, 0.0, math.sqrt(2 / sum(fans(weight))))


def orthogonal(weight: Tensor) -> None:
    """A random orthogonal matrix (c_out, fan_in): W·Wᵀ = 1 (Saxe et al. 2014, arXiv:1312.6120).

    Where there are more outputs than inputs, Wᵀ·W = c_out / fan_in: so E[x²] of a unit stays the same either
    way (the "scaled-corrected" orthogonal weights of Martens et al. 2021, arXiv:2110.01765).
    """
    fan_in = fans(weight)[0]
    nn.init.orthogonal_(weight, gain=max(1.0, math.sqrt(weight.shape[0] / fan_in)))


def delta_orthogonal(weight: Tensor) -> None:
    """Orthogonal across channels, and only at the kernel's centre: the convolution keeps an image's norm.

    Xiao et al. 2018, arXiv:1806.05393, algorithm 1. Where the number of channels changes the weights are
    `orthogonal` instead: in the trunk these are the stride-2 convolutions, and of a kernel that is its centre
    alone they would see one pixel in four.
    """
    if weight.shape[0] != weight.shape[1]:
        orthogonal(weight)
        return
    nn.init.zeros_(weight)
    centre = weight
    for size in weight.shape[:1:-1]:  # the kernel's, the last first
        centre = centre[..., size // 2]
    nn.init.orthogonal_(centre)


def leave(weight: Tensor) -> None:
    """PyTorch has drawn it already."""


SCHEMES: dict[str, Callable[[Tensor], object]] = {
    "he": he,
    "lecun": lecun,
    "xavier": xavier,
    "default": leave,
    "orthogonal": orthogonal,
    "delta_orthogonal": delta_orthogonal,
}


@torch.no_grad()
def init_predictors(
    box: nn.ModuleList, cls: nn.ModuleList, strides: tuple[int, ...], num_classes: int
) -> None:
    """Initialise the last convolutions of the head, one a scale: the same in every ablation.

    Small weights, so that the first predictions are nearly uniform; the class bias expects 5 objects
    in a 640 px image spread over the classes (ultralytics' `Detect.bias_init`).
    """
    for box_branch, cls_branch, stride in zip(box, cls, strides, strict=True):
        for branch in (box_branch, cls_branch):
            conv = branch[-1]  # type: ignore[index]
            nn.init.normal_(conv.weight, 0.0, 0.3 / math.sqrt(conv.in_channels))
        nn.init.constant_(box_branch[-1].bias, 1.0)  # type: ignore[index]
        nn.init.constant_(cls_branch[-1].bias, math.log(5 / num_classes / (640 / stride) ** 2))  # type: ignore[index]
