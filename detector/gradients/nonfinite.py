"""Finds the first layer, and the operation in it, where a NaN or an infinity appears."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from itertools import count
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode

from detector.gradients.layers import tensors
from detector.gradients.norms import joint_norm

LOSS = "loss"  # in place of a layer: what follows after the network
LAST = 2**62  # after every other turn or time
_UNINITIALISED = {"empty", "empty_like", "empty_strided", "new_empty", "empty_permuted"}


@dataclass(frozen=True)
class NonFiniteOrigin:
    """Where numbers stopped being finite."""

    direction: str  # "forward" or "backward"
    layer: str  # its name in the model, such as `backbone.p4_0.conv1.conv`; `loss` after the last
    kind: str  # its class; "" for the loss
    operation: str  # forward the function (`conv2d`), backward the node (`ConvolutionBackward0`)
    note: str = ""  # what else is known
    micro_batch: int = 0  # of the step's, from 0

    @property
    def where(self) -> str:
        """`forward backbone.p4_0.conv1.conv (Conv2d)`."""
        return f"{self.direction} {self.layer}" + (f" ({self.kind})" if self.kind else "")

    def __str__(self) -> str:
        return f"{self.where}, in {self.operation}" + (f": {self.note}" if self.note else "")


GatherObject = Callable[[Any], list[Any]]


def find_nonfinite_origin(
    model: nn.Module,
    losses: Iterable[Tensor],
    gather: GatherObject = lambda value: [value],
    sum_: Callable[[Sequence[Tensor]], None] = lambda tensors: None,
) -> NonFiniteOrigin | None:
    """Run a step's passes again, watching every operation, and name the one that went wrong.

    Forward it is the first operation that makes a number which is not finite out of finite ones, in a
    layer whose output is then not finite (an attention's -Inf for what is masked stays inside its layer).
    Backward it is the first node of the graph that receives a finite gradient and passes on one that is not,
    to an input or to a weight.

    Where the batch is sharded, all shards go through the same operations, and what breaks in one of them
    reaches the others through norms and sums: the origin is the one that came first.

    Args:
        model: the network, with the weights at which the numbers went wrong. Its gradients are replaced.
        losses: one scalar a micro-batch, each computed only when it is asked for.
        gather: lists a value of every shard of the batch; all shards must call this function.
        sum_: replaces tensors by their sums over the shards.

    Returns:
        None if everything is finite this time.
    """
    model.zero_grad(set_to_none=True)
    passes = iter(losses)
    for number in range(2**31):
        forward = _Forward(model)
        with forward.watching():
            loss = next(passes, None)
        if loss is None:
            return _overflow(model, sum_)
        # Every shard goes on to the backward pass, or none does: each waits for the others there.
        found = _first(gather, forward.origin(loss)) or _first(gather, _backward(model, loss, forward.owners))
        if found is not None:
            return replace(found, micro_batch=number)
    return None


class _Found(NamedTuple):
    """An origin, and when: in this shard, and as all of them count."""

    turn: int  # of its layer: forward as layers are entered, backward as they are gone back through
    time: int  # how many operations, or nodes of the graph, were before it: fewer without an image
    origin: NonFiniteOrigin


def _first(gather: GatherObject, found: _Found | None) -> NonFiniteOrigin | None:
    """The earliest of what the shards found."""
    found = min((one for one in gather(found) if one), key=lambda one: one[:2], default=None)
    return found and found.origin


@dataclass
class _Call:
    """A layer at work."""

    name: str
    kind: str
    finite: bool  # whether its inputs were
    given: list[Node]  # that made its inputs
    found_before: int
    turn: int
    suspects: list[_Found] = field(default_factory=list)


class _Forward(TorchFunctionMode):
    """Watches the layers and every torch function called in them."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        # Node -> its layer's turn backward, name and class.
        self.owners: dict[Node, tuple[int, str, str]] = {}
        self._names = {module: name or "model" for name, module in model.named_modules()}
        self._weights = {id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        self._calls = [_Call(LOSS, "", True, [], 0, LAST)]  # innermost last; what no layer does is the loss's
        self._found: list[_Found] = []
        self._clock = self._entered = self._left = 0  # operations so far; layers

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on every layer, while one forward pass and its loss are computed."""
        handles = []
        for module in self._names:
            handles.append(module.register_forward_pre_hook(self._enter, with_kwargs=True))
            handles.append(module.register_forward_hook(self._leave, with_kwargs=True))
        try:
            with self:
                yield
        finally:
            for handle in handles:
                handle.remove()

    def origin(self, loss: Tensor) -> _Found | None:
        """The first operation that broke the loss, or a layer's output."""
        if not self._found and not is_finite(loss):
            suspects = self._calls[0].suspects
            return suspects[0] if suspects else _Found(LAST, LAST, NonFiniteOrigin("forward", LOSS, "", LOSS))
        return min(self._found, key=lambda found: found.time, default=None)

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        kwargs = kwargs or {}
        given = list(tensors((args, kwargs)))
        # Before the call: an operation in place would overwrite its input.
        finite = all(is_finite(tensor) for tensor in given if id(tensor) not in self._weights)
        broken_weights = any(id(tensor) in self._weights and not is_finite(tensor) for tensor in given)
        output = func(*args, **kwargs)
        self._clock += 1
        name = getattr(func, "__name__", str(func))
        if finite and name not in _UNINITIALISED and name != "__get__" and not is_finite(output):
            call = self._calls[-1]
            note = "its weights are not finite" if broken_weights else f"values up to {_largest(given)} go in"
            origin = NonFiniteOrigin("forward", call.name, call.kind, name, note)
            call.suspects.append(_Found(call.turn, self._clock, origin))
        return output

    def _enter(self, module: nn.Module, args: Any, kwargs: Any) -> None:
        inputs = list(tensors((args, kwargs)))
        nodes = [tensor.grad_fn for tensor in inputs if tensor.grad_fn is not None]
        name, kind = self._names[module], type(module).__name__
        self._entered += 1
        self._calls.append(_Call(name, kind, is_finite(inputs), nodes, len(self._found), self._entered))

    def _leave(self, module: nn.Module, args: Any, kwargs: Any, output: Any) -> None:
        call = self._calls.pop()
        self._left += 1
        if not is_finite(output):
            if call.suspects:
                self._found.append(call.suspects[0])
            elif call.finite and len(self._found) == call.found_before:
                origin = NonFiniteOrigin("forward", call.name, call.kind, call.kind)
                self._found.append(_Found(call.turn, self._clock, origin))
        # Layers inside this one have left before it and claimed their nodes.
        made = [tensor.grad_fn for tensor in tensors(output) if tensor.grad_fn is not None]
        for node in _graph(made, stop=call.given):
            self.owners.setdefault(node, (-self._left, call.name, call.kind))


def _backward(model: nn.Module, loss: Tensor, owners: Mapping[Node, tuple[int, str, str]]) -> _Found | None:
    """Differentiate the loss, and name the first node whose gradient is not finite."""
    found: list[_Found] = []
    clock = count()

    def watch(node: Node) -> None:
        turn, layer, kind = owners.get(node, (-LAST, LOSS, ""))
        time = 0

        def arrives(grads: Sequence[Tensor | None]) -> None:
            nonlocal time
            time = next(clock)
            if not found and not is_finite(grads):  # though each part of it was finite
                note = "finite gradients of several branches add up to one that is not"
                found.append(_Found(turn, time, NonFiniteOrigin("backward", layer, kind, node.name(), note)))

        def leaves(given: Sequence[Tensor | None], taken: Sequence[Tensor | None]) -> None:
            if not found and not is_finite(given):
                note = f"gradients up to {_largest(taken)} come in"
                found.append(_Found(turn, time, NonFiniteOrigin("backward", layer, kind, node.name(), note)))

        handles.append(node.register_prehook(arrives))
        handles.append(node.register_hook(leaves))

    handles: list[Any] = []
    assert loss.grad_fn is not None
    for node in _graph([loss.grad_fn]):
        if node.name() != "torch::autograd::AccumulateGrad":
            watch(node)
    try:
        loss.backward()
    finally:
        for handle in handles:
            handle.remove()
    if not found:
        for layer, kind, grad in _gradients(model):
            if not is_finite(grad):
                note = "finite gradients of several uses or micro-batches add up to one that is not"
                return _Found(LAST, LAST, NonFiniteOrigin("backward", layer, kind, "AccumulateGrad", note))
    return found[0] if found else None


def _graph(roots: Sequence[Node], stop: Sequence[Node] = ()) -> list[Node]:
    """The nodes from `roots` back to `stop`, those left out."""
    seen, waiting = set(stop), list(roots)
    nodes = []
    while waiting:
        node = waiting.pop()
        if node not in seen:
            seen.add(node)
            nodes.append(node)
            waiting += [earlier for earlier, _ in node.next_functions if earlier is not None]
    return nodes


def _overflow(model: nn.Module, sum_: Callable[[Sequence[Tensor]], None]) -> NonFiniteOrigin | None:
    """Finite gradients that are too large together: over the shards, or in their joint norm."""
    gradients = list(_gradients(model))
    sum_([grad for *_, grad in gradients])
    for layer, kind, grad in gradients:
        if not is_finite(grad):
            note = "finite gradients of several shards add up to one that is not"
            return NonFiniteOrigin("backward", layer, kind, "AccumulateGrad", note)
    if not gradients or is_finite(torch.nn.utils.get_total_norm([grad for *_, grad in gradients])):
        return None
    layer, kind, grad = max(gradients, key=lambda one: float(joint_norm([one[2]])))
    note = f"finite, but the joint norm is not; this is the largest, {float(joint_norm([grad])):.1e}"
    return NonFiniteOrigin("backward", layer, kind, "gradient norm", note)


def _gradients(model: nn.Module) -> Iterator[tuple[str, str, Tensor]]:
    """Layer, its class and gradient of each weight, the last layer first."""
    for name, module in reversed(list(model.named_modules())):
        for parameter in module.parameters(recurse=False):
            if parameter.grad is not None:
                yield name or "model", type(module).__name__, parameter.grad


def _largest(value: Any) -> str:
    """The largest magnitude in some tensors."""
    sizes = [float(tensor.detach().abs().max()) for tensor in tensors(value) if tensor.numel()]
    return f"{max(sizes, default=0.0):.1e}"


def is_finite(value: Any) -> bool:
    """Whether every tensor in a module's inputs or output is finite."""
    return all(bool(torch.isfinite(tensor).all()) for tensor in tensors(value))
