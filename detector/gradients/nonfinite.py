"""Finds the first layer where a NaN or an infinity appears."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn

from detector.gradients.recorder import tensors


def first_bad_layer(model: nn.Module, backward: Callable[[], Tensor]) -> str | None:
    """Run a forward and a backward pass again and name the layer that went wrong.

    Leaf modules are watched in the order in which they run. Forward, the culprit is the first whose
    output is not finite: all before it were. Backward, it is the first that receives a finite gradient
    and passes on one that is not, to its input or to its own weights.

    Args:
        model: the network, with the weights at which the numbers went wrong.
        backward: computes the loss of the same batch, calls `backward()` on it and returns it.

    Returns:
        `"forward trunk.p3_4.a.norm (BatchNorm2d)"` or the like; `"loss"` if every layer is finite until
        the loss or its gradient; None if everything is finite this time.
    """
    leaves = {name: module for name, module in model.named_modules() if not any(module.children())}
    received: dict[str, bool] = {}  # whether the gradient at each leaf's output was finite
    bad_forward: list[str] = []
    bad_backward: list[str] = []

    def watch(name: str) -> Callable[..., None]:
        def at_output(grad: Tensor) -> None:
            received[name] = received.get(name, True) and is_finite(grad)

        def at_input(grad: Tensor) -> None:
            if received.get(name, False) and not is_finite(grad):
                bad_backward.append(name)

        def forward_hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if not is_finite(output):
                bad_forward.append(name)
            for tensor in tensors(output):
                if tensor.requires_grad:
                    tensor.register_hook(at_output)
            for tensor in tensors(inputs):
                if tensor.requires_grad:
                    tensor.register_hook(at_input)

        return forward_hook

    model.zero_grad(set_to_none=True)
    handles = [module.register_forward_hook(watch(name)) for name, module in leaves.items()]
    try:
        loss = backward()
    finally:
        for handle in handles:
            handle.remove()

    if bad_forward:
        return f"forward {bad_forward[0]} ({type(leaves[bad_forward[0]]).__name__})"
    if not is_finite(loss):
        return "loss"
    bad_weights = [name for name in reversed(leaves) if not is_finite(gradients(leaves[name]))]
    bad_backward += [name for name in bad_weights if received.get(name, False)]
    if bad_backward:
        return f"backward {bad_backward[0]} ({type(leaves[bad_backward[0]]).__name__})"
    return "loss" if bad_weights or not all(received.values()) else None


def is_finite(value: Any) -> bool:
    """Whether every tensor in a module's inputs or output is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors(value))


def gradients(module: nn.Module) -> list[Tensor]:
    """The gradients of a leaf module's own parameters."""
    return [p.grad for p in module.parameters(recurse=False) if p.grad is not None]
