"""Which modules of a network get a curve: its blocks, its convolutions, or those whose names fit a pattern.

The trunk's layers (see `layers`) are few and the same in every run, so indices and verdicts rest on them.
Inside a C2f, the neck or the head, what there is to see follows from a forward pass: that pass also gives the
order, since a module's parts need not be defined in the order in which they are used.

    with Calls(model) as calls:
        model(images)
    recorder = GradientRecorder(points(calls, "convs"))
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator
from fnmatch import fnmatchcase
from types import TracebackType
from typing import Any, Self

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from detector.errors import UserError, shorten
from detector.gradients.layers import CONTAINERS, tensors
from detector.models.base import DetectionModel
from detector.models.blocks import NoShortcut, Residual
from detector.models.shortcuts import HighwayGate, SkipInit
from detector.models.strip import Around

SHORTCUTS = HighwayGate, NoShortcut, Residual, SkipInit
WEIGHTED = nn.modules.conv._ConvNd, nn.Linear


class Calls:
    """The modules that a forward pass within the `with` block goes through, in the order they finish.

    That is the order of their outputs in the network: a block comes after its parts.

    Args:
        model: its submodules are named as in `model.named_modules()`, without what `strip` put around them,
            so that a stripped network has the names of the whole one.
    """

    def __init__(self, model: nn.Module) -> None:
        self.modules = dict(_named(model))
        self.finished: dict[str, bool] = {}  # name -> whether it turned one tensor into one
        self._handles: list[RemovableHandle] = []

    def as_defined(self) -> Self:
        """Take the order in which the model defines its modules, where it cannot be run."""
        self.finished = {name: True for name in self.modules if name}
        return self

    def __enter__(self) -> Self:
        """Put the hooks on."""
        for name, module in self.modules.items():
            self._handles.append(module.register_forward_hook(self._finish(name)))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Take them off."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def _finish(self, name: str) -> Any:
        def forward_hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            one = len(inputs) == 1 and isinstance(inputs[0], Tensor) and isinstance(output, Tensor)
            if next(tensors(output), None) is not None:
                self.finished.setdefault(name, one)

        return forward_hook


@torch.no_grad()
def points_inside(model: DetectionModel, which: str) -> dict[str, nn.Module]:
    """What `gradients.points` asks for beside the trunk's layers; runs a detector on an empty image."""
    if which == "layers":
        return {}
    training, side = model.training, 2 * max(model.strides)
    with Calls(model.body()) as calls:
        model.eval()(torch.zeros(1, 3, side, side, device=next(model.parameters()).device))
    model.train(training)
    return points(calls, which, "gradients.points")


def points(calls: Calls, which: str, key: str = "points") -> dict[str, nn.Module]:
    """Choose modules of a network that was run, such as `017_model.4.m.0.cv1`, in the order of their outputs.

    Args:
        calls: of a forward pass.
        which: `convs`: every convolution or linear layer, together with the norm and the activation that
            belong to it. `blocks`: every part with several of these that turns one tensor into another, down
            to the smallest (a C2f and each bottleneck in it), and the convolutions that are in none.
            Anything else is a pattern of module names, such as `model.2*` or `*.cv2`.
        key: what this choice is called, for an error.

    Raises:
        UserError: the pattern matches nothing.
    """
    if which in ("blocks", "convs"):
        chosen = _units(calls, blocks=which == "blocks")
    else:
        chosen = {name for name in calls.finished if fnmatchcase(name, which)}
    if not chosen:
        raise no_such(which, calls, key)
    names = [name for name in calls.finished if name in chosen]
    return {f"{at:03d}_{name}": calls.modules[name] for at, name in enumerate(names)}


def no_such(name: str, calls: Calls, key: str = "points") -> UserError:
    """The error that names the nearest modules."""
    known = [name for name in calls.finished if name]
    near = difflib.get_close_matches(name, known, n=2) or known[:2]
    return UserError(
        f"{key}={shorten(name)}: no module of this network is called so; they are layers, blocks, "
        f"convs, or a pattern of names such as {', '.join(near)}"
    )


def _units(calls: Calls, *, blocks: bool) -> set[str]:
    """The convolutions with what belongs to them; with `blocks`, what several of them make instead."""
    weighted = [name for name, module in calls.modules.items() if isinstance(module, WEIGHTED)]
    holds = {name: sum(_within(conv, name) for conv in weighted) for name in calls.finished}
    candidates = [
        name
        for name, one in calls.finished.items()
        if name and one and type(_block(calls.modules[name])) not in CONTAINERS and holds[name]
    ]
    several = {name for name in candidates if holds[name] > 1} if blocks else set[str]()
    single = [name for name in candidates if holds[name] == 1 and not _inside(name, several)]
    return several | {name for name in single if not _inside(name, set(single) - {name})}


def _within(name: str, outer: str) -> bool:
    return name == outer or name.startswith(f"{outer}.")


def _inside(name: str, others: set[str]) -> bool:
    parts = name.split(".")
    return any(".".join(parts[:length]) in others for length in range(1, len(parts)))


def _named(model: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Every module once; of what `strip` put around a block, the block's name stands for both."""
    seen: set[nn.Module] = set()

    def walk(name: str, module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
        if module in seen or isinstance(module, SHORTCUTS):
            return
        seen.add(module)
        yield name, module
        for child, part in _block(module).named_children():
            yield from walk(f"{name}.{child}".lstrip("."), part)

    yield from walk("", model)


def _block(module: nn.Module) -> nn.Module:
    return module.block if isinstance(module, Around) else module
