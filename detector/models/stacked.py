"""Several networks of one architecture as one: one forward and one backward pass for all of them.

A GPU is given a small network's work faster than it can be told of it: five networks, one after the other,
take five times the launches. Here their weights are stacked, (S, …), and `torch.vmap` turns each of the
template's operations into one for all: a convolution becomes a grouped one, a batch norm one over S times
the channels. The networks do not touch each other, so each gets what it would get alone, but for the order
in which floating-point numbers are added.
"""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.utils import _pytree as pytree

from detector.errors import UserError
from detector.runtime.failures import ran_out_of_memory

Stacked = dict[str, Tensor]
_DEVICE = "CUDA", "CUDNN", "CUBLAS"  # in the words of errors that say nothing of the network


class StackedNetworks:
    """Runs the training passes of `models` together; each keeps its weights, gradients, statistics and hooks.

        output = stacked.forward(images)      # as of one network, each tensor with a first dimension of S
        losses.sum().backward()               # each network's, of its part of the output
        stacked.collect()                     # `p.grad` of each network

    The weights are copied into the stack before each forward pass, and the norms' statistics back after it:
    whatever else works with a model, an optimiser or a checkpoint, finds it as it always is. So the backward
    pass comes before the next forward pass.

    Forward hooks of the models' parts are called as if each network ran alone: with tensors of autograd's
    graph, whose gradients arrive in the backward pass. Other kinds of hooks are not called: see
    `can_be_stacked`.

    Args:
        models: S networks that differ in nothing but their numbers.
        template: see `template_of`.
    """

    def __init__(self, models: Sequence[nn.Module], template: nn.Module) -> None:
        self.models, self.template = list(models), template
        self._parts = [dict(model.named_modules()) for model in models]
        self._parameters = _stacks([dict(model.named_parameters()) for model in models])
        self._buffers = _stacks([dict(model.named_buffers()) for model in models])
        own = [[*model.parameters(), *model.buffers()] for model in models]
        stacks = [*self._parameters.values(), *self._buffers.values()]
        slices = [[stack.detach()[at] for stack in stacks] for at in range(len(models))]
        self._weights = _by_type(own, slices)
        count = len(self._parameters)
        self._statistics = _by_type([o[count:] for o in own], [s[count:] for s in slices])

    def forward(self, images: Sequence[Tensor]) -> Any:
        """(B, 3, H, W) of each network -> their raw predictions, each tensor with a first dimension of S.

        Raises:
            UserError: the network does something that cannot be stacked, such as to draw random numbers.
        """
        for part, own in zip(self.template.modules(), self.models[0].modules(), strict=True):
            part.training = own.training
        with torch.no_grad():
            for weights, stack in self._weights:
                torch._foreach_copy_(stack, weights)
        parameters, batches = self._parameters, torch.stack(list(images))
        if len(images[0]) == 1:
            # PyTorch's CPU gets the weight gradients of grouped 1×1 convolutions wrong where such a batch may
            # be taken as channels_last, and strides of dimensions of one say nothing.
            plain = {"memory_format": torch.contiguous_format}
            parameters = {name: p.clone(**plain) for name, p in parameters.items()}
            batches = batches.clone(**plain)
        try:
            with self._hooks():
                output = torch.vmap(self._call)(parameters, self._buffers, batches)
        except (RuntimeError, ValueError) as error:
            if ran_out_of_memory(error) or any(words in str(error) for words in _DEVICE):
                raise
            reason = " ".join(str(error).split())[:200]
            raise UserError(f"this network cannot be stacked: leave out --stack ({reason})") from error
        with torch.no_grad():
            for statistics, stack in self._statistics:
                torch._foreach_copy_(statistics, stack)
        return output

    def collect(self) -> None:
        """After the backward passes: add the gradients to those that the models have."""
        for name, stack in self._parameters.items():
            gradient, stack.grad = stack.grad, None
            if gradient is not None:
                if gradient.stride() != stack.stride():  # of dimensions of one
                    gradient = torch.empty_like(stack).copy_(gradient)
                for model, own in zip(self.models, gradient, strict=True):
                    p = model.get_parameter(name)
                    p.grad = own if p.grad is None else p.grad + own

    def _call(self, parameters: Stacked, buffers: Stacked, images: Tensor) -> Any:
        return functional_call(self.template, (parameters, buffers), (images,))

    @contextmanager
    def _hooks(self) -> Iterator[None]:
        """Around a pass: call the models' forward hooks at the template's parts."""
        handles = []
        for name, part in self.template.named_modules():
            parts = [own[name] for own in self._parts]
            if part is not self.template and any(own._forward_hooks for own in parts):
                bridge = _Bridge(parts)
                handles += [
                    part.register_forward_pre_hook(bridge.enter),
                    part.register_forward_hook(bridge.leave),
                ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()


class _Bridge:
    """At one part of the template: takes inputs and output apart, has each network's hooks look at its own.

    Apart and together again they stay in autograd's graph, so that a gradient can be looked at on its way,
    and changed. The inputs are taken apart too, since a hook may ask by which way a gradient reaches one.
    """

    def __init__(self, parts: Sequence[nn.Module]) -> None:
        self.parts = parts
        self._inputs: list[list[Any]] = [[] for _ in parts]  # as often as the part was entered and not left

    def enter(self, part: nn.Module, inputs: Any) -> Any:
        def apart(each: list[Any]) -> list[Any]:
            for stack, own in zip(self._inputs, each, strict=True):
                stack.append(own)
            return each

        return _each(apart, inputs)

    def leave(self, part: nn.Module, inputs: Any, output: Any) -> Any:
        def look(each: list[Any]) -> list[Any]:
            seen = []
            for own, stack, out in zip(self.parts, self._inputs, each, strict=True):
                given = stack.pop()
                for hook in list(own._forward_hooks.values()):
                    changed = hook(own, given, out)
                    out = out if changed is None else changed
                seen.append(out)
            return seen

        return _each(look, output)


def _each(look: Callable[[list[Any]], list[Any]], value: Any) -> Any:
    """Inside a vmap: `look` at the value of each network, a list, and go on with what it returns."""
    flat, structure = pytree.tree_flatten(value)
    places = [at for at, x in enumerate(flat) if isinstance(x, Tensor)]

    def apart(tensors: Sequence[Tensor]) -> list[Tensor]:
        shared: list[dict[str, Tensor]] = [{} for _ in tensors]
        parts = [_Parts.apply(x, one) for x, one in zip(tensors, shared, strict=True)]
        each = []
        for own in zip(*parts, strict=True):
            given = dict(zip(places, own, strict=True))
            each.append(pytree.tree_unflatten([given.get(at, x) for at, x in enumerate(flat)], structure))
        seen = [pytree.tree_flatten(own)[0] for own in look(each)]
        found = zip(tensors, parts, shared, ([own[at] for own in seen] for at in places), strict=True)
        return [
            _Whole.apply(x, one, *own)
            if all(a is b for a, b in zip(own, part, strict=True))
            else torch.stack(own)
            for x, part, one, own in found
        ]

    together = _Apart.apply(apart, *(flat[at] for at in places))
    for at, x in zip(places, together, strict=True):
        flat[at] = x
    return pytree.tree_unflatten(flat, structure)


class _Apart(torch.autograd.Function):
    """Only a way out of a vmap: PyTorch calls `vmap` with the whole stacks, and without its own there."""

    @staticmethod
    def forward(apart: Callable[[Sequence[Tensor]], list[Tensor]], *tensors: Tensor) -> Any:
        raise NotImplementedError("called only inside a vmap")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """The stacks are taken apart by operations that autograd knows."""

    @staticmethod
    def vmap(
        info: Any, in_dims: Any, apart: Callable[[Sequence[Tensor]], list[Tensor]], *tensors: Tensor
    ) -> Any:
        whole = [
            x.expand(info.batch_size, *x.shape) if dim is None else x.movedim(dim, 0)
            for x, dim in zip(tensors, in_dims[1:], strict=True)
        ]
        return tuple(apart(whole)), (0,) * len(whole)


class _Parts(torch.autograd.Function):
    """(S, …) -> S of (…), as `unbind`; where `_Whole` follows, gradients are not copied either."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, shared: dict[str, Tensor]) -> Any:
        ctx.shared = shared
        return tuple(whole[at] for at in range(len(whole)))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        whole = ctx.shared.pop("gradient", None)
        if whole is not None and all(
            own.data_ptr() == kept.data_ptr() and own.stride() == kept.stride()
            for own, kept in zip(grads, whole, strict=True)
        ):
            return whole, None
        return torch.stack(grads), None  # a hook changed one


class _Whole(torch.autograd.Function):
    """The parts of `whole` together again: they already share its memory."""

    @staticmethod
    def forward(ctx: Any, whole: Tensor, shared: dict[str, Tensor], *parts: Tensor) -> Tensor:
        ctx.shared = shared
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        ctx.shared["gradient"] = grads[0]
        return None, None, *grads[0].unbind(0)


def template_of(model: nn.Module) -> nn.Module:
    """A copy of a network's structure, without its numbers and its hooks."""
    hooks = [(part, part._forward_hooks) for part in model.modules()]
    try:
        for part, _ in hooks:
            part._forward_hooks = OrderedDict()
        return copy.deepcopy(model).to("meta")
    finally:
        for part, own in hooks:
            part._forward_hooks = own


def can_be_stacked(model: nn.Module) -> bool:
    """Whether its only hooks are forward hooks of its parts, which `StackedNetworks` calls."""
    others = "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks", "_forward_hooks_with_kwargs"
    return not model._forward_hooks and not any(getattr(x, kind) for x in model.modules() for kind in others)


def _stacks(models: Sequence[dict[str, Tensor]]) -> Stacked:
    """An empty stack of each tensor: (S, …), whose slices lie in memory as the tensors themselves do.

    So do their gradients then, which is what a fused optimiser needs.
    """
    return {
        name: torch.empty_strided(
            (len(models), *x.shape), (x.numel(), *x.stride()), dtype=x.dtype, device=x.device
        ).requires_grad_(x.requires_grad)
        for name, x in models[0].items()
    }


def _by_type(
    own: Sequence[Sequence[Tensor]], slices: Sequence[Sequence[Tensor]]
) -> list[tuple[list[Tensor], list[Tensor]]]:
    """All models' tensors and their places in the stacks; by type, so that each group is copied in one go."""
    pairs = [
        pair
        for tensors, places in zip(own, slices, strict=True)
        for pair in zip(tensors, places, strict=True)
    ]
    kinds = dict.fromkeys(x.dtype for x, _ in pairs)
    return [
        ([x.detach() for x, _ in pairs if x.dtype == kind], [place for x, place in pairs if x.dtype == kind])
        for kind in kinds
    ]
