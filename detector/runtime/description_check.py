"""A stranger's description of a network, checked before ultralytics builds it.

Their parser takes any class by its name and passes it whatever the file says: some of those download
files, and numbers without bounds ask for more memory than there is.
"""

from __future__ import annotations

import ast
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from torch import nn

MOST_ROWS, MOST_REPEATS, MOST_CHANNELS, MOST_CLASSES = 500, 100, 10_000, 100_000
MOST_LAYERS = 2000  # rows times repeats, before a depth multiplies them
_DOWNLOADS = {"TorchVision"}  # fetches weights into the user's home


def check_description(description: Mapping[str, Any], modules: ModuleType) -> None:
    """Check what ultralytics' parser would only stumble over, or do.

    Args:
        description: a network as in ultralytics' YAML files.
        modules: `ultralytics.nn.modules`, whose layers it may name, besides those of `torch.nn`.

    Raises:
        ValueError: why it is refused, in words for the user.
    """
    nc = description.get("nc")
    if type(nc) is not int or not 1 <= nc <= MOST_CLASSES:
        raise ValueError(f"nc must be 1 to {MOST_CLASSES} classes")
    for key, most in (("depth_multiple", 10), ("width_multiple", 10), ("reg_max", 1024), ("channels", 3)):
        if key in description:
            _check_number(description[key], most, key)
    scales = description.get("scales") or {}
    if not isinstance(scales, Mapping):
        raise ValueError("scales must be a mapping")
    for name, sizes in scales.items():
        if not isinstance(sizes, list | tuple) or len(sizes) != 3:
            raise ValueError(f"scales: {name!s:.20} must be depth, width and most channels")
        for size, most in zip(sizes, (10, 10, MOST_CHANNELS), strict=True):
            _check_number(size, most, "scales")
    rows = built = 0
    for part in ("backbone", "head"):
        layers = description.get(part)
        if not isinstance(layers, list | tuple):
            raise ValueError(f"{part} must be a list of layers")
        rows += len(layers)
        for layer in layers:
            _check_layer(layer, modules)
            built += layer[1]
    if built > MOST_LAYERS:
        raise ValueError(f"it repeats its layers to {built}, and at most {MOST_LAYERS} are accepted")
    if rows > MOST_ROWS:
        raise ValueError(f"it has {rows} layers, and at most {MOST_ROWS} are accepted")


def _check_layer(layer: object, modules: ModuleType) -> None:
    if not isinstance(layer, list | tuple) or len(layer) != 4:
        raise ValueError("each layer must be [from, repeats, module, args]")
    source, repeats, module, args = layer
    for index in source if isinstance(source, list | tuple) else [source]:
        if type(index) is not int or abs(index) > MOST_ROWS:
            raise ValueError("a layer's 'from' must be the number of another layer")
    if type(repeats) is not int or not 1 <= repeats <= MOST_REPEATS:
        raise ValueError(f"a layer's repeats must be 1 to {MOST_REPEATS}")
    known = isinstance(module, str) and module not in _DOWNLOADS
    found = None
    if known:
        found = getattr(nn, module[3:], None) if module.startswith("nn.") else getattr(modules, module, None)
    if not (isinstance(found, type) and issubclass(found, nn.Module)):
        raise ValueError(f"{module!r:.60} is no layer that it may name")
    if not isinstance(args, list | tuple):
        raise ValueError("a layer's args must be a list")
    _check_args(args)


def _check_args(args: object, depth: int = 0) -> None:
    if isinstance(args, list | tuple):
        if depth > 3 or len(args) > 100:
            raise ValueError("a layer's args are nested too deeply, or too many")
        for value in args:
            _check_args(value, depth + 1)
    elif isinstance(args, str):
        if len(args) > 100:
            raise ValueError("a layer's arg is too long")
        try:
            value = ast.literal_eval(args)  # as their parser will
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            return  # a name, such as nearest
        if not isinstance(value, str):
            _check_args(value, depth + 1)
    elif args is not None and not isinstance(args, bool):
        _check_number(args, MOST_CHANNELS, "a layer's arg")


def _check_number(value: object, most: float, what: str) -> None:
    if not isinstance(value, int | float) or not -most <= value <= most:  # which no NaN is
        raise ValueError(f"{what} must be a number of at most {most}")
