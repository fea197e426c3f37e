"""The size of a network, in the figures that papers give."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode


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
    with torch.no_grad(), FlopCounter() as counter:
        model.eval()(image)
    model.train(training)
    return Size(
        convolutions=sum(isinstance(module, nn.Conv2d) for module in model.modules()),
        parameters=sum(p.numel() for p in parameters),
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        flops=counter.flops,
    )


PASSES, SECONDS = 20, 1.0  # at most, of measuring an image's time


@torch.no_grad()
def image_ms(forward: Callable[[Tensor], object], image: Tensor) -> float:
    """Milliseconds of a forward pass of one image, (1, 3, S, S).

    The fastest of up to 20, as `timeit` does it: what else the machine is doing only makes a pass slower.
    """
    fastest, began = float("inf"), time.perf_counter()
    for number in range(PASSES + 1):
        start = time.perf_counter()
        forward(image)
        if image.device.type == "cuda":
            torch.cuda.synchronize(image.device)
        now = time.perf_counter()
        if number:  # the first one sets up
            fastest = min(fastest, now - start)
        if number >= 2 and now - began > SECONDS:
            break
    return 1000 * fastest


CONVOLUTIONS = torch.conv1d, torch.conv2d, torch.conv3d
TRANSPOSED = torch.conv_transpose1d, torch.conv_transpose2d, torch.conv_transpose3d
PRODUCTS = torch.matmul, torch.bmm, torch.mm, Tensor.matmul, Tensor.__matmul__, Tensor.bmm, Tensor.mm
ATTENTION = nn.functional.scaled_dot_product_attention


class FlopCounter(TorchFunctionMode):
    """Adds up the operations of convolutions, linear layers, matrix products and attention in `flops`.

    What `torch.utils.flop_counter` finds in a detection network, without its imports: with triton and
    torch.compile's compiler they take longer than everything else before the first step.
    """

    def __init__(self) -> None:
        super().__init__()
        self.flops = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function and count it: two operations for each multiplication."""
        out = func(*args, **(kwargs or {}))
        if func in CONVOLUTIONS:
            self.flops += 2 * out.numel() * args[1][0].numel()  # weight (out, in / groups, k, k)
        elif func in TRANSPOSED:
            self.flops += 2 * args[0].numel() * args[1][0].numel()  # weight (in, out / groups, k, k)
        elif func in PRODUCTS or func is nn.functional.linear:
            self.flops += 2 * out.numel() * args[0].shape[-1]
        elif func is ATTENTION:  # Q·Kᵀ, then the product with V
            query, key, value = args[:3]
            self.flops += 2 * query[..., 0].numel() * key.shape[-2] * (query.shape[-1] + value.shape[-1])
        return out
