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
from torch.autograd.graph import get_gradient_edge
from torch.utils.hooks import RemovableHandle

from detector.gradients.entries import Entry
from detector.gradients.norms import measurable
from detector.gradients.signal import Gather, alone
from detector.models.blocks import ConvNormAct, NoShortcut

# What an operation is called in a sentence; other modules go by their class name.
LAYERS = {
    "Conv2d": "convolution",
    "StandardisedConv2d": "convolution",
    "BatchNorm2d": "batch norm",
    "SyncBatchNorm": "batch norm",
    "CpuSyncBatchNorm": "batch norm",
    "GroupNorm": "group norm",
    "SiLU": "SiLU",
    "ReLU": "ReLU",
    "LeakyReLU": "leaky ReLU",
    "Tanh": "tanh",
    "TailoredReLU": "tailored ReLU",
    "TailoredTanh": "tailored tanh",
    "Sigmoid": "sigmoid",
    "Residual": "shortcut",
    "HighwayGate": "highway gate",
    "SkipInit": "SkipInit",
}


class Ledger:
    """Follows the gradient through a chain of modules in network order, such as a backbone's layers.

        ledger.begin()               # hooks on
        loss.backward()              # once, or once a micro-batch
        entries = ledger.entries()   # hooks off; one transfer to the host

    The gradient is measured at these tensors; an arrow is one entry, its factor ‖g(left)‖ / ‖g(right)‖:

        block      x → conv1.conv → conv1.norm → conv1.act → conv2.conv → … = f;  y = shortcut(x, f)

    At x the shortcut's gradient is added to the branch's, and the first operation's factor takes only what
    it sends back itself. So one further entry, `shortcut`, closes the chain:

        ‖g(f)‖ / ‖g(y)‖ · ‖g(x)‖ / ‖g(x) by way of conv1.conv‖

    Its first ratio is 1 for a residual and the gate's for a highway; its second is how much more gradient
    reaches x than the branch alone would bring: a branch that loses three decades has a shortcut that gives
    three back. So the product over a block is ‖g(x)‖ / ‖g(y)‖, always. Where the output of one layer
    also feeds the neck, the neck's gradient is added to it: the entry `neck` of the next layer closes that
    product in the same way. The first layer's own operations are not part of the product: its output is
    where the recorder's curve begins.

    A module says by its method `operations` what stands along its branch, and its attribute `shortcut` is
    what puts the branch and x together: see `detector.models.blocks.Block`. A block of one's own without that
    attribute is closed by the entry `others`. Operations that do nothing (a stripped norm, activation or
    shortcut) have no entry. A module without the method has the one entry `block`; so has
    one that calls an operation more than once, and one whose branch no gradient comes through (dead ReLUs, an
    underflow), which cannot be divided by. 0 / 0 is 1: where nothing arrives nothing is lost.

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
            for position, (place, part) in enumerate(operations(module) if at else ()):
                if position == 0:
                    self._hook(part, self._watch_input(name))
                self._hook(part, self._watch_output(name, place))
            self._hook(module, self._watch_output(name, "out"))

    def entries(self) -> list[Entry]:
        """Take the hooks off, bring all norms to the host at once and divide."""
        squares = {
            key: torch.stack(found).sum()
            for key, found in sorted(self._squares.items())
            if len(found) == len(self._squares.get((key[0], "out"), ()))  # else it was called more than once
        }
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

    def _watch_input(self, name: str) -> Callable[..., None]:
        """The part of an operation's input's gradient that comes through it alone."""

        def forward_hook(module: nn.Module, inputs: tuple[Any, ...], output: Any) -> None:
            x = inputs[0] if inputs else None
            if not (torch.is_grad_enabled() and isinstance(x, Tensor) and x.requires_grad):
                return
            places, parts = uses(x, output), []

            def collect(given: Tensor | None) -> None:
                parts.append(given)
                if len(parts) == len(places):
                    arrived = [part for part in parts if part is not None]
                    self._collect(name, "in", sum(arrived[1:], arrived[0]) if arrived else None)
                    parts.clear()

            for node, at in places:
                node.register_hook(lambda given, taken, at=at: collect(given[at]))

        return forward_hook

    def _collect(self, name: str, place: str, grad: Tensor | None) -> None:
        if grad is not None:
            square = torch.linalg.vector_norm(measurable(grad), dtype=torch.float64).square()
            self._squares.setdefault((name, place), []).append(square)


def operations(module: nn.Module) -> list[tuple[str, nn.Module]]:
    """What a module says that it does along its branch; nothing if it does not say."""
    method = getattr(module, "operations", None)
    return list(method()) if callable(method) else []


def uses(x: Tensor, output: Any) -> list[tuple[Any, int]]:
    """The nodes between `x` and `output` in autograd's graph that take in `x`, and as which of their inputs.

    A hook on the tensor would see the gradients of all its uses, these nodes' those behind `output` alone.
    """
    edge = get_gradient_edge(x)
    waiting, seen, found = [getattr(output, "grad_fn", None)], set(), []
    while waiting:
        node = waiting.pop()
        if node is None or node in seen or node is edge.node:
            continue
        seen.add(node)
        for at, (before, number) in enumerate(node.next_functions):
            if before is edge.node and number == edge.output_nr:
                found.append((node, at))
            else:
                waiting.append(before)
    return found


def _divide(name: str, module: nn.Module, before: float, norms: Mapping[str, float]) -> list[Entry]:
    """One layer's entries from the norms at its operations; `before` is ‖g‖ at its input."""
    after, brought = norms["out"], norms.get("in")  # the latter to the input, by the branch
    whole = [Entry(name, "block", "block", _ratio(before, after))]
    # Backwards: what arrives at an operation's output and what it hands on.
    chain: list[Entry] = []
    handed_on = brought
    for place, part in operations(module):
        arrives = norms.get(place)
        if handed_on is None or arrives is None:
            return whole
        chain.append(Entry(name, place, _layer(part), _ratio(handed_on, arrives)))
        handed_on = arrives
    if not chain or brought is None or handed_on is None:
        return whole
    closing = _ratio(handed_on, after) * _ratio(before, brought)
    if not math.isfinite(closing) and all(math.isfinite(norm) for norm in (before, after, brought)):
        return whole  # an infinite factor after a zero: nothing comes through the branch
    shortcut = getattr(module, "shortcut", None)
    if isinstance(shortcut, nn.Module) and not isinstance(shortcut, NoShortcut):
        chain.append(Entry(name, "shortcut", _layer(shortcut), closing))
    elif not math.isclose(closing, 1, rel_tol=1e-12):
        known = isinstance(shortcut, NoShortcut) or isinstance(module, ConvNormAct)
        chain.insert(0, Entry(name, *(("neck", "neck") if known else ("others", "other paths")), closing))
    return chain


def _ratio(given: float, taken: float) -> float:
    if taken:
        return given / taken
    return 1.0 if given == 0 else math.inf


def _layer(module: nn.Module) -> str:
    kind = type(module).__name__
    return LAYERS.get(kind, kind)
