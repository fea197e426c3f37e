"""What a stored network of ultralytics does otherwise than the one that its description builds.

Their files hold whole modules, and these are what runs there: with an activation that somebody exchanged,
another epsilon in a norm, a skipped shortcut. None of that is in the description or in a tensor.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

Settings = dict[str, dict[str, Any]]  # a module's name -> attribute -> value; `class` exchanges the module

ACTIVATIONS: dict[str, type[nn.Module]] = {
    kind.__name__: kind
    for kind in (nn.CELU, nn.ELU, nn.GELU, nn.Hardsigmoid, nn.Hardswish, nn.Identity, nn.LeakyReLU, nn.Mish,
                 nn.ReLU, nn.ReLU6, nn.SELU, nn.SiLU, nn.Sigmoid, nn.Softplus, nn.Tanh)
}  # fmt: skip
LARGEST = 32  # of a setting: a padding or a factor of thousands asks for more memory than there is
TOLERANCE = 1e-4  # relative; the same operations on the same numbers differ by nothing

# What says how wide a layer is (its tensors do), what it is called, or how it is exported.
_NOT_SETTINGS = {
    "agnostic_nms", "c1", "c2", "dynamic", "end2end", "export", "f", "format", "i", "in_channels",
    "in_features", "inplace", "legacy", "max_det", "nc", "no", "np", "num_features", "out_channels",
    "out_features", "shape", "training", "type", "xyxy",
}  # fmt: skip


def settings_of(stored: nn.Module, built: nn.Module) -> Settings:
    """Where the modules of `stored` are set otherwise than those of `built`.

    Raises:
        ValueError: a layer is of another kind, or set to something absurd.
    """
    theirs = dict(stored.named_modules(remove_duplicate=False))  # an activation may stand in many places
    found: Settings = {}
    for name, module in built.named_modules(remove_duplicate=False):
        other = theirs.get(name)
        if other is None or not name.startswith("model."):
            continue
        mine = _plain(module)
        changed = {key: value for key, value in _plain(other).items() if value != mine.get(key, value)}
        if type(other) is not type(module):
            if not (_is_activation(other) and _is_activation(module)):
                kinds = f"{type(other).__name__}, and {type(module).__name__} in its description"
                raise ValueError(f"layer {name} is {kinds}")
            changed = _plain(other)
        if type(other) is not type(module) or (changed and _is_activation(module)):
            changed = {"class": type(other).__name__, **changed}
        if changed:
            found[name] = changed
    check_settings(found)
    return found


def check_settings(settings: Settings) -> None:
    """Raise ValueError for what `settings_of` does not find in any network that makes sense."""
    for name, values in settings.items():
        for key, value in values.items():
            parts = value if isinstance(value, list | tuple) else [value]
            numbers = [one for one in parts if one is not None and not isinstance(one, str)]
            if not all(map(_is_plain, parts)) or any(abs(number) > LARGEST for number in numbers):
                raise ValueError(f"layer {name} has {key} set to {value!s:.20}")


def apply_settings(settings: Settings, net: nn.Module) -> None:
    """Set the modules of `net` so.

    Raises:
        ValueError: they do not fit.
    """
    check_settings(settings)
    for name, values in settings.items():
        parent, _, own = name.rpartition(".")
        try:
            module = net.get_submodule(name)
            if "class" in values:  # never changed in place: all convolutions share one
                module = ACTIVATIONS[values["class"]]()
                setattr(net.get_submodule(parent), own, module)
        except (AttributeError, KeyError, TypeError):
            raise ValueError(f"layer {name} cannot be set to {values!s:.60}") from None
        for key, value in values.items():
            if key in vars(module) and key not in _NOT_SETTINGS and not key.startswith("_"):
                setattr(module, key, value)


def check_tensors(stored: nn.Module, built: nn.Module) -> None:
    """Raise ValueError for the first layer whose tensors are not the same in name and shape."""
    theirs, ours = stored.state_dict(), built.state_dict()
    for key in (*ours, *theirs):
        if key not in theirs or key not in ours or theirs[key].shape != ours[key].shape:
            found, wanted = (str([*one[key].shape]) if key in one else "none" for one in (theirs, ours))
            layer = key.rpartition(".")[0]
            kind = type(stored.get_submodule(".".join(key.split(".")[:2]))).__name__
            raise ValueError(
                f"layer {layer} (in {kind}) has {found} for {key.rpartition('.')[2]}, where its description "
                f"says {wanted}"
            )


def check_same(stored: nn.Module, built: nn.Module, side: int) -> None:
    """Run both on one fixed picture, layer by layer.

    Args:
        stored: a network of ultralytics, whose list of layers ends in the head.
        built: the same.
        side: of the picture, pixels: a multiple of the largest stride.

    Raises:
        ValueError: a layer gives something else, or cannot be run.
    """
    if not torch.equal(_layers(stored)[-1].stride, _layers(built)[-1].stride):  # type: ignore[arg-type]
        raise ValueError("its head has other strides than its description says")
    for index, (theirs, ours) in enumerate(zip(_outputs(stored, side), _outputs(built, side), strict=True)):
        for one, other in zip(theirs, ours, strict=True):
            scale = float(other.nan_to_num(0, 0, 0).abs().max()) if other.numel() else 1.0
            if one.shape != other.shape or not torch.allclose(
                one, other, rtol=TOLERANCE, atol=TOLERANCE * scale, equal_nan=True
            ):
                kind = type(_layers(stored)[index]).__name__
                raise ValueError(
                    f"layer model.{index} ({kind}) does something else than its description says"
                )


def run(net: nn.Module, side: int) -> None:
    """Run a network on a fixed picture. Raises ValueError if it cannot be, or wants too much memory."""
    _outputs(net, side)


@torch.no_grad()
def _outputs(net: nn.Module, side: int) -> list[list[Tensor]]:
    """The outputs of each layer for a fixed picture."""
    layers = _layers(net)
    found: list[list[Tensor]] = []

    def keep(_: nn.Module, __: object, output: object) -> None:
        found.append([*_tensors(output)])

    def watch(module: nn.Module, _: object, output: object) -> None:
        if any(one.dim() == 4 and max(one.shape[2:]) > side for one in _tensors(output)):
            raise ValueError(f"its {type(module).__name__} gives more than it is given")

    hooks = [module.register_forward_hook(watch) for module in net.modules()]
    hooks += [layer.register_forward_hook(keep) for layer in layers]
    net.eval()
    layers[-1].training = True  # raw predictions
    try:
        net(torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0)))
    except Exception as error:  # whatever a layer of another version stumbles over
        reason = " ".join(str(error).split())[:120]
        kind = type(layers[len(found)]).__name__
        raise ValueError(f"layer model.{len(found)} ({kind}) cannot be run: {reason}") from error
    finally:
        for hook in hooks:
            hook.remove()
    return found


def _layers(net: nn.Module) -> list[nn.Module]:
    return list(net.model)  # type: ignore[arg-type]


def _tensors(output: object) -> Iterator[Tensor]:
    if isinstance(output, Tensor):
        yield output
    elif isinstance(output, Mapping | list | tuple):
        for one in output.values() if isinstance(output, Mapping) else output:
            yield from _tensors(one)


def _is_activation(module: nn.Module) -> bool:
    return ACTIVATIONS.get(type(module).__name__) is type(module)


def _plain(module: nn.Module) -> dict[str, Any]:
    """The settings of a module."""
    return {
        key: value
        for key, value in vars(module).items()
        if not key.startswith("_")
        and key not in _NOT_SETTINGS
        and all(map(_is_plain, value if type(value) in (list, tuple) else [value]))
    }


def _is_plain(value: object) -> bool:
    if isinstance(value, float):
        return math.isfinite(value)
    return value is None or isinstance(value, bool | int | str)
