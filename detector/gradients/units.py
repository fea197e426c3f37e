"""Dead and saturated units: where an activation has no slope, so that no gradient comes through it.

The gradient in front of an activation φ is the gradient behind it times φ'(x). Where φ'(x) is (nearly) 0 for
every image, the weights in front of the unit cannot change any more, whatever the loss asks for.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from detector.config.names import TORCH
from detector.models.tailored import TailoredTanh
from detector.rows import Key

FLAT = 0.01  # a slope below this passes on less than a hundredth of the gradient
# Leaky ReLU and its like have a slope everywhere, and RReLU draws another one at every pass.
NEVER_FLAT = "Identity", "LeakyReLU", "PReLU", "RReLU"
CAN_BE_FLAT = (TailoredTanh, *(getattr(nn, name) for name in TORCH["activation"] if name not in NEVER_FLAT))


def slope(activation: nn.Module, x: Tensor) -> Tensor:
    """φ'(x) of an activation that works on each number by itself; any shape, float32."""
    with torch.enable_grad():
        copy = x.detach().float().clone().requires_grad_()  # an inplace activation would overwrite it
        # `forward`, so that no hook sees it; and not of the leaf itself, which may not be written to.
        (found,) = torch.autograd.grad(activation.forward(copy * 1.0).sum(), copy)
    return found


class Units(NamedTuple):
    """What one activation did in all passes so far."""

    dead: Tensor  # (c,) bool: flat at every position of every image
    flat: Tensor  # how many of its numbers were flat
    seen: int  # of how many

    @classmethod
    def of(cls, slopes: Tensor) -> Units:
        """Of one pass: (B, c, …)."""
        flat = slopes.abs() < FLAT
        return cls(flat.transpose(0, 1).flatten(1).all(1), flat.sum(), flat.numel())

    def __add__(self, other: tuple[Any, ...]) -> Units:
        dead, flat, seen = other
        return Units(self.dead & dead, self.flat + flat, self.seen + seen)


@contextmanager
def watch_units(points: Mapping[str, nn.Module]) -> Iterator[Callable[[], dict[str, float]]]:
    """Watch the activations in these layers, in the passes inside; what it yields is called for the result.

    A unit is a channel, dimension 1 of what an activation gets. For each layer that has activations which can
    be flat (`CAN_BE_FLAT`: not leaky ReLU), over all of these and all passes:

    - `dead_units/NN_name`: the share of units with |φ'(x)| < 0.01 at every position of every image. Of a ReLU
      these put out zero for all of the batch; of a sigmoid they are saturated for all of it.
    - `saturation/NN_name`: the share of all units, positions and images with |φ'(x)| < 0.01. A ReLU has half
      of them where its inputs are symmetric about 0, which is no fault.
    """
    found: dict[tuple[str, int], Units] = {}
    running: list[str] = []  # the layers whose forward pass is going on: networks share one activation module
    calls: Counter[str] = Counter()

    def enter(name: str) -> Any:
        def hook(module: nn.Module, inputs: Any) -> None:
            running.append(name)
            calls[name] = 0

        return hook

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        running.pop()

    def look(module: nn.Module, inputs: Any) -> None:
        if running and inputs[0].dim() > 1:
            key = running[-1], calls[running[-1]]
            calls[running[-1]] += 1
            units = Units.of(slope(module, inputs[0]))
            found[key] = found[key] + units if key in found else units

    activations = {m for point in points.values() for m in point.modules() if isinstance(m, CAN_BE_FLAT)}
    handles = [activation.register_forward_pre_hook(look) for activation in activations]
    for name, point in points.items():
        # Outermost on both sides, for a layer that is itself an activation.
        handles.append(point.register_forward_pre_hook(enter(name), prepend=True))
        handles.append(point.register_forward_hook(leave, always_call=True))

    def report() -> dict[str, float]:
        dead, saturated = {}, {}
        for name in points:
            units = [value for (layer, _), value in found.items() if layer == name]
            if units:
                dead[Key.DEAD_UNITS + name] = float(torch.cat([u.dead for u in units]).float().mean())
                flat, seen = sum(float(u.flat) for u in units), sum(u.seen for u in units)
                saturated[Key.SATURATION + name] = flat / seen
        return dead | saturated

    try:
        yield report
    finally:
        for handle in handles:
            handle.remove()
