"""Which layers of somebody's network are watched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn

from detector.errors import UserError
from detector.gradients.layers import layers_of, numbered, trainable_weights
from detector.gradients.points import Calls, no_such, points
from detector.integrations.surroundings import unwrapped
from detector.models.strip import kind_name

Layers = str | Sequence[str] | Mapping[str, nn.Module]
"""`layers`, `blocks`, `convs`, a pattern or names of modules, or the layers by the names of their curves."""


def choose_layers(model: nn.Module, layers: Layers = "layers", example: Any = None) -> dict[str, nn.Module]:
    """The layers of a network that are watched, in its order, each under a name such as `03_layer2.0`.

    The words are those of `gradients.points`, and so are the names: a run of `train.py` has the same.

    Args:
        model: the network, wrapped or not.
        layers: `layers` (or `auto`) are the backbone's: what ultralytics' description lists as such, what
            torchvision and others hold as `backbone` (without the pyramid on top of it), or else the blocks
            of the whole (see `layers_of`). `blocks`, `convs` and patterns: see `gradients.points.points`.
            Names are taken in their order.
        example: what the model is called with, a tensor or a tuple of arguments. A forward pass of it, in
            evaluation mode, gives the order of the modules, which `blocks` and `convs` rest on; ultralytics'
            networks take an empty image. Without one a pattern's are in the order of their definition.

    Raises:
        UserError: nothing of it is trained, or no such layer is there.
    """
    model = unwrapped(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"watch: no parameter of {type(model).__name__} needs a gradient: nothing is trained")
    if isinstance(layers, Mapping):
        if not layers:
            raise UserError("watch: layers={}: there is none in it")
        return dict(layers)
    if layers in ("auto", "layers"):
        return _ultralytics(model) or _backbone(model)
    if not isinstance(layers, str):
        names = dict(model.named_modules())
        if unknown := [name for name in layers if name not in names]:
            raise no_such(unknown[0], Calls(model).as_defined(), "watch: layers")
        return numbered(model, list(layers))
    calls = _calls(model, example)
    if calls is None and layers in ("blocks", "convs"):
        raise UserError(
            f"watch: layers={layers}: which these are follows from a forward pass: say by example= what the "
            "model is called with, such as one image"
        )
    found = points(calls or Calls(model).as_defined(), layers, "watch: layers")
    trained = {name: part for name, part in found.items() if trainable_weights(part)}
    if not trained:
        raise UserError(f"watch: layers={layers}: none of these is trained")
    return trained


@torch.no_grad()
def _calls(model: nn.Module, example: Any) -> Calls | None:
    """Those of a forward pass that changes nothing; None where it is not known what the model takes."""
    if example is None and _ultralytics(model):
        channels = getattr(model, "yaml", {}).get("channels", 3)
        example = next(model.parameters()).new_zeros(1, channels, 64, 64)
    if example is None:
        return None
    training = {module: module.training for module in model.modules()}
    model.eval()
    try:
        with Calls(model) as calls:
            model(*example) if isinstance(example, tuple) else model(example)
    finally:
        for module, was in training.items():
            module.training = was
    return calls


def levels_of(model: nn.Module) -> dict[str, str]:
    """Of an ultralytics network the layers whose outputs leave the backbone, by level; of others nothing.

    As `YoloModel.level_ends`: p3 is where the pyramid has stride 8.
    """
    model = unwrapped(model)
    names, head = list(_ultralytics(model)), getattr(model, "stride", None)
    if not names or head is None:
        return {}
    read = {len(names) - 1}
    for index, layer in enumerate(model.model):  # type: ignore[arg-type]
        sources = [layer.f] if isinstance(layer.f, int) else layer.f
        if index >= len(names):
            read |= {at for at in (f if f >= 0 else index + f for f in sources) if at < len(names)}
    strides = sorted((int(stride) for stride in head), reverse=True)
    levels = zip(strides, sorted(read, reverse=True), strict=False)
    return {f"p{stride.bit_length() - 1}": names[at] for stride, at in reversed(list(levels))}


def _ultralytics(model: nn.Module) -> dict[str, nn.Module]:
    """The backbone's layers under the names of a run of `train.py`; empty for other networks."""
    description, layers = getattr(model, "yaml", None), getattr(model, "model", None)
    if not isinstance(description, Mapping) or not isinstance(layers, nn.Sequential):
        return {}
    backbone = list(layers)[: len(description.get("backbone", ()))]
    return {f"{at:02d}_{at}.{kind_name(layer).lower()}": layer for at, layer in enumerate(backbone)}


def _backbone(model: nn.Module) -> dict[str, nn.Module]:
    for path in ("backbone.body", "backbone.features", "backbone"):
        try:
            part = model.get_submodule(path)
        except AttributeError:
            continue
        if trainable_weights(part):
            inside = {id(module): f"{path}.{name}" for name, module in part.named_modules()}
            return numbered(model, [inside[id(module)] for module in layers_of(part).values()])
    return layers_of(model)
