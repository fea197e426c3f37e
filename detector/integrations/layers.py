"""Which layers of somebody's network are watched."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase

from torch import nn

from detector.errors import UserError, shorten
from detector.gradients.layers import layers_of, numbered, trainable_weights

Layers = str | Sequence[str] | Mapping[str, nn.Module]
"""`auto`, a pattern or names of submodules, or the layers themselves by the names of their curves."""


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and `torch.compile`."""
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model


def choose_layers(model: nn.Module, layers: Layers = "auto") -> dict[str, nn.Module]:
    """The layers of a network that are watched, in its order, each under a name such as `03_layer2.0`.

    `auto` is the backbone: what ultralytics' description lists as such, what torchvision and others hold as
    `backbone` (without the pyramid on top of it), or else the blocks of the whole (see `layers_of`).

    Raises:
        UserError: nothing of it is trained, or no such layer is there.
    """
    model = unwrapped(model)
    if not any(p.requires_grad for p in model.parameters()):
        raise UserError(f"watch: no parameter of {type(model).__name__} needs a gradient: nothing is trained")
    if isinstance(layers, Mapping):
        found = dict(layers)
    elif layers == "auto":
        found = _ultralytics(model) or _backbone(model)
    elif isinstance(layers, str):
        names = [name for name, part in model.named_modules() if name and fnmatchcase(name, layers)]
        found = numbered(model, [name for name in names if trainable_weights(model.get_submodule(name))])
    else:
        known = dict(model.named_modules())
        if unknown := [name for name in layers if name not in known]:
            raise UserError(f"watch: layers={shorten(unknown[0])}: {_no_such(model, unknown[0])}")
        found = numbered(model, list(layers))
    if not found:
        raise UserError(f"watch: layers={shorten(str(layers))}: {_no_such(model, str(layers))}")
    return found


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
    return {f"{at:02d}_{at}.{type(layer).__name__.lower()}": layer for at, layer in enumerate(backbone)}


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


def _no_such(model: nn.Module, wanted: str) -> str:
    names = [name for name, part in model.named_modules() if name and trainable_weights(part)]
    near = difflib.get_close_matches(wanted, names, n=3, cutoff=0) or names[:3]
    return f"no trained layer of {type(model).__name__} is called that; it has {', '.join(near)}, …"
