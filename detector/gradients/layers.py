"""The layers of any network that are worth a curve, and what is measured of each."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from torch import Tensor, nn

CONTAINERS = nn.Sequential, nn.ModuleList, nn.ModuleDict
ENOUGH = 6  # layers: fewer make no curve


def layers_of(model: nn.Module) -> dict[str, nn.Module]:
    """The layers of any model that are worth a curve, such as `02_layer1.0` of a ResNet.

    A model of this project says what they are. Of another they are the parts with weights that its
    `nn.Sequential`, `nn.ModuleList` and `nn.ModuleDict` hold, and what stands beside these. Where that gives
    fewer than six, its modules are opened too, first those that hold such lists further inside. The order is
    that in which the model defines them, so that is taken to be the network's.
    """
    own = getattr(model, "backbone_layers", None)
    if callable(own):
        return dict(own())
    found: list[tuple[str, nn.Module]] = [("", model)]
    while opened := _to_open([module for _, module in found]):
        found = [
            (name, module)
            for outer, parent in found
            for name, module in (_inside(outer, parent) if parent in opened else [(outer, parent)])
            if trainable_weights(module)
        ]
    return numbered(model, [name for name, _ in found])


def _to_open(modules: Sequence[nn.Module]) -> list[nn.Module]:
    lists: list[nn.Module] = [module for module in modules if isinstance(module, CONTAINERS)]
    if lists or len(modules) >= ENOUGH:
        return lists
    composed = [module for module in modules if next(module.children(), None) is not None]
    return [m for m in composed if any(isinstance(part, CONTAINERS) for part in m.modules())] or composed


def _inside(name: str, module: nn.Module) -> list[tuple[str, nn.Module]]:
    return [(f"{name}.{child}".lstrip("."), part) for child, part in module.named_children()]


def numbered(model: nn.Module, names: Sequence[str]) -> dict[str, nn.Module]:
    """A model's submodules under their names with a number in front, as every curve is called."""
    layers = [(name or type(model).__name__, model.get_submodule(name)) for name in names]
    return {f"{position:02d}_{name}": module for position, (name, module) in enumerate(layers)}


def trainable_weights(module: nn.Module) -> list[nn.Parameter]:
    """The module's weights that are multiplied with activations: trainable, of two or more dimensions."""
    return [p for p in module.parameters() if p.requires_grad and p.dim() > 1]


def tensors(output: Any) -> Iterator[Tensor]:
    """Every floating-point tensor in a module's output, whatever it is wrapped in."""
    if isinstance(output, Tensor):
        if output.is_floating_point():
            yield output
    elif isinstance(output, Mapping):
        for value in output.values():
            yield from tensors(value)
    elif isinstance(output, list | tuple):
        for value in output:
            yield from tensors(value)
