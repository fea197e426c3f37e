"""The chain-rule ledger: which operation, in which block, changes the gradient by which factor.

The recorder says that the gradient of block 3 is a tenth of block 4's. The ledger says why: it follows the
gradient back through every operation, and its factors multiply to exactly that tenth.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from detector.gradients.entries import Entry
from detector.gradients.recorder import Gather, alone
from detector.models.blocks import Block, Plain, Unit

# What an operation is called in a sentence; other modules go by their class name.
LAYERS = {
    "Conv2d": "convolution",
    "BatchNorm2d": "batch norm",
    "SyncBatchNorm": "batch norm",
    "CpuSyncBatchNorm": "batch norm",
    "GroupNorm": "group norm",
    "SiLU": "SiLU",
    "ReLU": "ReLU",
    "LeakyReLU": "leaky ReLU",
    "Tanh": "tanh",
    "Sigmoid": "sigmoid",
    "Residual": "shortcut",
    "Gated": "highway gate",
}


class Ledger:
    """Follows the gradient through the trunk, a chain of `Unit`s and `Block`s, in network order.

        ledger.begin()               # hooks on
        loss.backward()              # once, or once a micro-batch
        entries = ledger.entries()   # hooks off; one transfer to the host

    The gradient is measured at these tensors; an arrow is one entry, its factor ‖g(left)‖ / ‖g(right)‖:

        block      x → a.conv → a.norm → a.act → b.conv → b.norm → b.act = f;  y = shortcut(x, f)

    Along f, a convolution's factor takes only the gradient that this convolution sends back. At x the
    shortcut's gradient is added to it, so one further entry, `shortcut`, closes the chain:

        ‖g(f)‖ / ‖g(y)‖ · ‖g(x)‖ / ‖g(x) by way of a.conv‖

    Its first ratio is 1 for a residual and the gate's for a highway; its second is how much more gradient
    reaches x than the branch alone would bring: a branch that loses three decades has a shortcut that gives
    three back. So the product over a block is ‖g(x)‖ / ‖g(y)‖, always. Where the output of one layer
    also feeds the neck, the neck's gradient is added to it: the entry `neck` of the next layer closes that
    product in the same way. The first layer's own operations are not part of the product: its output is
    where the recorder's curve begins.

    Operations that do nothing (a stripped norm, activation or shortcut) have no entry. A branch that no
    gradient comes through (dead ReLUs, an underflow) cannot be divided by: its block has the one
    entry `block`. Any other module in the chain has that one entry as well. 0 / 0 is 1: where nothing arrives
    nothing is lost.

    Nothing is inserted into the graph: a run is bit for bit the same with the ledger and without. Norms are
    summed in float64, over all micro-batches and all shards of the batch (see `GradientRecorder`).
    """

    def __init__(self, points: Mapping[str, nn.Module], gather: Gather = alone) -> None:
        self.points, self.gather = dict(points), gather
        self._handles: list[RemovableHandle] = []
        self._squares: dict[tuple[str, str], list[Tensor]] = {}

    @property
    def active(self) -> bool:
        """Whether the hooks are on."""
        return bool(self._handles)

    def begin(self) -> None:
        """Put the hooks on."""
        self.cancel()
        for at, (name, module) in enumerate(self.points.items()):
            for place, part in operations(module) if at else ():
                if isinstance(part, nn.Conv2d):
                    self._hook(part, self._watch_convolution(name, place))
                else:
                    self._hook(part, self._watch_output(name, place))
            self._hook(module, self._watch_output(name, "out"))

    def entries(self) -> list[Entry]:
        """Take the hooks off, bring all norms to the host at once and divide."""
        squares = {key: torch.stack(self._squares[key]).sum() for key in sorted(self._squares)}
        self.cancel()
        if not squares:
            return []
        values = self.gather(torch.stack(list(squares.values()))).sum(0).sqrt().tolist()
        norms = dict(zip(squares, values, strict=True))
        found: list[Entry] = []
        names = list(self.points)
        for before, name in pairwise(names):
            if (before, "out") in norms and (name, "out") in norms:
                places = {place: norm for (block, place), norm in norms.items() if block == name}
                found += _divide(name, self.points[name], norms[before, "out"], places)
        return found

    def cancel(self) -> None:
        """Take the hooks off and forget what was measured."""
        for handle in self._handles:
            handle.remove()
        self._handles, self._squares = [], {}

    def _hook(self, module: nn.Module, hook: Callable[..., None]) -> None:
        self._handles.append(module.register_forward_hook(hook))

    def _watch_output(self, name: str, place: str) -> Callable[..., None]:
        def forward_hook(module: nn.Module, inputs: Any, output: Any) -> None:
            if torch.is_grad_enabled() and isinstance(output, Tensor):
                if not output.requires_grad:
                    output.requires_grad_()  # frozen up to here: as the recorder does
                output.register_hook(lambda grad: self._collect(name, place, grad))

        return forward_hook

    def _watch_convolution(self, name: str, place: str) -> Callable[..., None]:
        """A convolution's output, and the part of its input's gradient that comes through it alone."""
        at_output = self._watch_output(name, place)

        def forward_hook(module: nn.Module, inputs: Any, output: Tensor) -> None:
            if output.grad_fn is not None and torch.is_grad_enabled():
                # The node's first input is the convolution's; a hook on the tensor would see all its uses.
                output.grad_fn.register_hook(
                    lambda given, taken: self._collect(name, f"{place} in", given[0])
                )
            at_output(module, inputs, output)

        return forward_hook

    def _collect(self, name: str, place: str, grad: Tensor | None) -> None:
        if grad is not None:
            square = torch.linalg.vector_norm(grad.detach(), dtype=torch.float64).square()
            self._squares.setdefault((name, place), []).append(square)


def operations(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """The operations along a unit, or along a block's branch, in network order, by their place in it."""
    if isinstance(module, Unit):
        parts = [("conv", module.conv), ("norm", module.norm), ("act", module.act)]
        return [(place, part) for place, part in parts if not isinstance(part, nn.Identity)]
    if isinstance(module, Block):
        units = ("a", module.a), ("b", module.b)
        return [(f"{unit}.{place}", part) for unit, m in units for place, part in operations(m)]
    return []


def _divide(name: str, module: nn.Module, before: float, norms: Mapping[str, float]) -> list[Entry]:
    """One layer's entries from the norms at its operations; `before` is ‖g‖ at its input."""
    after, parts = norms["out"], operations(module)
    whole = [Entry(name, "block", "block", _ratio(before, after))]
    # Backwards: what arrives at an operation's output and what it hands on.
    chain: list[Entry] = []
    for at, (place, part) in enumerate(parts):
        conv_in = norms.get(f"{place} in")
        handed_on = conv_in if conv_in is not None else norms.get(parts[at - 1][0]) if at else None
        arrives = norms.get(place)
        if handed_on is None or arrives is None:
            return whole
        chain.append(Entry(name, place, _layer(part), _ratio(handed_on, arrives)))
    if not chain:
        return whole
    brought = norms[f"{parts[0][0]} in"]  # to the input, by the branch
    closing = _ratio(norms[parts[-1][0]], after) * _ratio(before, brought)
    if not math.isfinite(closing) and all(math.isfinite(norm) for norm in (before, after, brought)):
        return whole  # an infinite factor after a zero: nothing comes through the branch
    if isinstance(module, Block) and not isinstance(module.shortcut, Plain):
        chain.append(Entry(name, "shortcut", _layer(module.shortcut), closing))
    elif not math.isclose(closing, 1, rel_tol=1e-12):
        chain.insert(0, Entry(name, "neck", "neck", closing))
    return chain


def _ratio(given: float, taken: float) -> float:
    if taken:
        return given / taken
    return 1.0 if given == 0 else math.inf


def _layer(module: nn.Module) -> str:
    kind = type(module).__name__
    return LAYERS.get(kind, kind)
