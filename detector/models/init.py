"""Weight initialisation, itself an axis of the ablations."""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from detector.models.blocks import Gated, Unit


def init_weights(model: nn.Module, scheme: str, std: float = 0.01) -> None:
    """Initialise every `Unit`'s convolution in place, in network order, from torch's generator.

    | scheme    | weights                       | keeps constant                   | source                  |
    |-----------|-------------------------------|----------------------------------|-------------------------|
    | `he`      | N(0, 2 / fan_in)              | E[x²] forward through ReLU       | He et al. 2015          |
    | `lecun`   | N(0, 1 / fan_in)              | E[x²] forward, identity          | LeCun et al. 1998       |
    | `xavier`  | N(0, 2 / (fan_in + fan_out))  | a compromise of both directions  | Glorot & Bengio 2010    |
    | `default` | U(±1/√fan_in), biases as well | nothing: variance 1 / (3 fan_in) | `nn.Conv2d`             |
    | `naive`   | N(0, std²)                    | nothing                          | He et al. 2015, table 2 |

    fan_in = c_in·k², fan_out = c_out·k². Biases start at 0, except under `default`. A norm starts at
    scale 1 and shift 0 under every scheme; a highway gate at weight 0 and bias -1.

    Args:
        model: any module built from `Unit`s.
        scheme: one of the table's first column.
        std: the deviation of `naive`.
    """
    for module in model.modules():
        if isinstance(module, Gated):
            nn.init.zeros_(module.gate.weight)
            nn.init.constant_(_bias(module.gate), -1.0)
        elif isinstance(module, Unit) and scheme != "default":
            nn.init.normal_(module.conv.weight, 0.0, weight_std(module.conv, scheme, std))
            if module.conv.bias is not None:
                nn.init.zeros_(module.conv.bias)


def weight_std(conv: nn.Conv2d, scheme: str, std: float) -> float:
    """The deviation that a scheme of `init_weights` gives this convolution's weights."""
    fan_in = conv.weight[0].numel()
    fan_out = conv.weight[:, 0].numel()
    return {
        "he": math.sqrt(2 / fan_in),
        "lecun": math.sqrt(1 / fan_in),
        "xavier": math.sqrt(2 / (fan_in + fan_out)),
        "naive": std,
    }[scheme]


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


def _bias(conv: nn.Conv2d) -> Tensor:
    assert conv.bias is not None
    return conv.bias
