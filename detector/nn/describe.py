"""The size of a network, in the figures that papers give."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode


@dataclass(frozen=True)
class Size:
    """What one image costs."""

    convolutions: int
    parameters: int
    trainable: int
    flops: int  # a forward pass of one image; a multiplication and its addition are two

    def __str__(self) -> str:
        """One line for the terminal."""
        frozen = "" if self.trainable == self.parameters else f" ({self.trainable / 1e6:.2f} M trainable)"
        return (
            f"{self.convolutions} convolutions, {self.parameters / 1e6:.2f} M parameters{frozen}, "
            f"{self.flops / 1e9:.2f} GFLOPs an image"
        )


def measure(model: nn.Module, image_size: int) -> Size:
    """Count a model's parts and the operations of one square image, without changing its state."""
    parameters = list(model.parameters())
    training = model.training
    image = torch.zeros(1, 3, image_size, image_size, device=parameters[0].device)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model.eval()(image)
    model.train(training)
    return Size(
        convolutions=sum(isinstance(module, nn.Conv2d) for module in model.modules()),
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        flops=counter.get_total_flops(),
    )
