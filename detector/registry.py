"""Parts of one's own: a name for them, and the plugin that brings them in.

    from detector import register

    @register.activation("snake")
    class Snake(nn.Module): ...

After that, `model.act=snake` is as good as a built-in name. In Python an import is enough; on the command
line `--plugin my_blocks.py` runs the file before the configuration is read. A configuration only ever holds
the name, never the file: a YAML from a stranger stays data. `docs/extending.md` has an example of each kind.
"""

from __future__ import annotations

import hashlib
import importlib.util
import re
import shlex
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple, TypeVar

from detector.config import names
from detector.errors import UserError
from detector.rows import Key

T = TypeVar("T")
Decorator = Callable[[T], T]


@dataclass(frozen=True)
class Metric:
    """A number that says how good a split's predictions are."""

    compute: Callable[[Any], float]  # of a `detector.training.metrics.Result`
    better: Literal["higher", "lower"] = "higher"


_own: dict[str, dict[str, Any]] = {kind: {} for kind in names.BUILT_IN}


class Plugin(NamedTuple):
    """A file that was run."""

    path: Path
    digest: str  # sixteen hex digits of its sha256


plugins: dict[str, Plugin] = {}  # loaded so far, by the name of their module

# A metric's key is not one that a row has already.
_TAKEN = {key for key in vars(Key).values() if isinstance(key, str)}
_TAKEN |= {Key.CLIP_FACTOR + part for part in (Key.TRUNK, Key.REST)}

# What YAML reads as text. (`no` and `1e3` are not.)
NAME = re.compile(r"(?!(?:y|n|yes|no|on|off|true|false|null)$)[a-z_][\w-]{0,99}", re.IGNORECASE)


def lookup(kind: str, name: str, built_in: Mapping[str, T], torch: object = None) -> T:
    """What a name stands for: this project's part, else one's own, else PyTorch's class of that name.

    Args:
        kind: such as "activation".
        name: as in a configuration, so known.
        built_in: this project's parts of the kind.
        torch: the module of PyTorch that has more of them.
    """
    if name in built_in:
        return built_in[name]
    found: T = _own[kind][name] if name in _own[kind] else getattr(torch, name)
    return found


class Register:
    """A decorator for each kind of part; what it decorates is called as the methods say.

    >>> import torch
    >>> from torch import nn
    >>> from detector import load_config, register
    >>> @register.activation("squared_relu")
    ... class SquaredReLU(nn.Module):
    ...     def forward(self, x):
    ...         return torch.relu(x) ** 2
    >>> load_config("coco8", ["model.act=squared_relu"]).difference
    ['model.act: silu -> squared_relu']
    """

    def activation(self, name: str) -> Decorator[Any]:
        """`()` -> a module, applied to (B, c, H, W)."""
        return _decorator("activation", name)

    def norm(self, name: str) -> Decorator[Any]:
        """`(channels)` -> a module (B, c, H, W) -> the same shape."""
        return _decorator("norm", name)

    def shortcut(self, name: str) -> Decorator[Any]:
        """`(channels)` -> a module `(x, f) -> y` that puts a block's input and its branch together."""
        return _decorator("shortcut", name)

    def init(self, name: str) -> Decorator[Any]:
        """`(weight)` draws a convolution's weights (c_out, c_in, k, k) in place; its bias becomes 0."""
        return _decorator("init", name)

    def block(self, name: str) -> Decorator[Any]:
        """`(channels, parts)` -> a module that keeps the shape: see `detector.models.blocks.Block`."""
        return _decorator("block", name)

    def model(self, name: str) -> Decorator[Any]:
        """`(config, num_classes)` -> a `detector.models.base.DetectionModel`."""
        return _decorator("model", name)

    def dataset(self, name: str) -> Decorator[Any]:
        """`(path)` -> a `detector.data.dataset.Dataset`, from the file or folder that `data.path` names."""
        return _decorator("dataset", name)

    def optimizer(self, name: str) -> Decorator[Any]:
        """A subclass of `torch.optim.Optimizer`, or a function with such arguments: `(params, lr, …)`."""
        return _decorator("optimizer", name)

    def metric(self, name: str, *, better: Literal["higher", "lower"] = "higher") -> Decorator[Any]:
        """`(result)` -> a number, of a split's labels and predictions: `detector.training.metrics.Result`."""

        if f"train/{name}" in _TAKEN:
            raise ValueError(f"metric {name!r}: a run's history has train/{name} already; choose another")

        def keep(compute: T) -> T:
            _decorator("metric", name)(Metric(compute, better))  # type: ignore[arg-type]
            return compute

        return keep

    def logger(self, name: str) -> Decorator[Any]:
        """`(directory, config)` -> a `detector.loggers.base.Logger`."""
        return _decorator("logger", name)


register = Register()


def _decorator(kind: str, name: str) -> Decorator[Any]:
    if not isinstance(name, str) or not NAME.fullmatch(name):
        raise ValueError(
            f"{kind} {name!r}: a name is a letter, then letters, digits, - and _; not a word such as `no`, "
            "which is no text to YAML"
        )
    if name in names.BUILT_IN[kind] or name in names.TORCH.get(kind, ()) or (kind, name) == ("model", "yolo"):
        raise ValueError(f"{kind} {name!r}: there is one of that name already; choose another")

    def keep(part: T) -> T:
        other = _own[kind].get(name)
        if other is not None and _place(other) != _place(part):  # a notebook's cell may be run again
            raise ValueError(f"{kind} {name!r}: {_place(other)} has that name already; choose another")
        if other is None:
            names.added[kind].append(name)
        _own[kind][name] = part
        return part

    return keep


def _place(part: Any) -> str:
    part = part.compute if isinstance(part, Metric) else part
    return f"{getattr(part, '__module__', '?')}.{getattr(part, '__qualname__', repr(part))}"


def load_plugins(paths: Iterable[Path]) -> None:
    """Run each `--plugin` of a command line, in order: see `load_plugin`."""
    for path in paths:
        load_plugin(path)


def load_plugin(path: Path) -> None:
    """Run a Python file, so that what it registers can be named; a second time does nothing.

    Raises:
        UserError: it cannot be read, or running it raises an error.
    """
    real = path.resolve()
    module_name = f"detector_plugin_{real.stem}"
    if module_name in plugins:
        if (other := plugins[module_name].path) != real:
            raise UserError(f"--plugin {path}: {other} is loaded under that name; rename one of them")
        return
    if real.suffix != ".py" or not real.is_file():
        raise UserError(f"--plugin {path}: there is no such Python file")
    spec = importlib.util.spec_from_file_location(module_name, real)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    digest = hashlib.sha256(real.read_bytes()).hexdigest()[:16]
    sys.modules[module_name] = module  # so that what it defines can be pickled
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[module_name]
        raise UserError(
            f"{path}:{_line(error, real)}: {type(error).__name__}: {_first_line(error)}"
        ) from error
    plugins[module_name] = Plugin(real, digest)


def plugin_arguments() -> list[str]:
    """The command-line arguments that load the same plugins again, for another process or a hint."""
    return [part for plugin in plugins.values() for part in ("--plugin", str(plugin.path))]


def with_plugins(command: str) -> str:
    """A command to be shown to a person, with the same plugins."""
    return " ".join([command, *map(shlex.quote, plugin_arguments())])


def _line(error: Exception, path: Path) -> int:
    """Where in the plugin an error came up: the innermost of its own lines, not of what it calls."""
    if isinstance(error, SyntaxError) and error.filename == str(path):
        return error.lineno or 1
    lines = [
        frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(path)
    ]
    return lines[-1] or 1 if lines else 1


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), "")
