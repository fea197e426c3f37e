"""Frobenius norms of tensors of any size and scale, as exact as in float64 and nearly as fast as in float32.

The square of a vanished gradient of 1e-30 is zero in float32, and a float32 sum of a million squares has
lost its sixth digit. A GPU adds in float64 as it reads; a CPU first writes a converted copy, which takes
three times as long as everything else that is recorded of a step.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import reduce

import torch
from torch import Tensor

# Values added in float32: relative error 1e-9, or 4e-7 if all are equal; rows are joined in float64.
ROW = 128
SMALL = 256 * ROW  # values for which one call in float64 is as quick
SAFE = 1e-10, 1e15  # a float32 sum of squares between these has lost nothing to underflow or overflow


def measurable(x: Tensor) -> Tensor:
    """The tensor, without its graph, where float64 exists: Apple's GPU has none, so that goes to the CPU."""
    return x.detach().cpu() if x.device.type == "mps" else x.detach()


def norm(x: Tensor) -> Tensor:
    """The Frobenius norm of a tensor of any shape and floating-point type: a float64 scalar on its device.

    NaN and infinite values give NaN and infinity.
    """
    x = measurable(x)
    if x.device.type == "cpu" and x.dtype != torch.float64 and x.numel() > SMALL:
        values = flat(x).float()
        whole = values.numel() - values.numel() % ROW
        rows = torch.linalg.vector_norm(values[:whole].view(-1, ROW), dim=1)
        parts = torch.cat((rows, values[whole:]))
        total: Tensor = torch.linalg.vector_norm(parts, dtype=torch.float64)
        if safe(total):
            return total
    exact: Tensor = torch.linalg.vector_norm(x, dtype=torch.float64)
    return exact


def joint_norm(parts: Sequence[Tensor]) -> Tensor:
    """The Frobenius norm of several tensors as if they were one."""
    if parts[0].is_cuda:  # one kernel for all of them
        norms = list(torch._foreach_norm([part.detach() for part in parts], 2, dtype=torch.float64))
    else:
        norms = [norm(part) for part in parts]
    joint: Tensor = torch.linalg.vector_norm(torch.stack(norms))
    return joint


def safe(total: Tensor) -> bool:
    """Whether a norm summed in float32 has lost nothing."""
    return SAFE[0] < float(total) < SAFE[1]  # false for NaN


def flat(x: Tensor) -> Tensor:
    """All values as one dimension, in any order: as they lie in memory, where that needs no copy."""
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        x = x.permute(0, 2, 3, 1)
    return x.reshape(-1)


class Copies:
    """What weights were, and how far they have moved since: in one piece of memory, which is kept.

    One call copies the weights of all layers, one subtracts them, and on a CPU one more measures them: weight
    by weight it takes longer.

    Args:
        layers: the weights of each layer, by its name.
    """

    def __init__(self, layers: Mapping[str, Sequence[Tensor]]) -> None:
        self.layers = {name: [weight.detach() for weight in weights] for name, weights in layers.items()}
        self._keys = _keys(layers)
        weights = [weight for layer in self.layers.values() for weight in layer]
        sizes = [-(-weight.numel() // ROW) * ROW for weight in weights]  # each begins a row; zeros fill it up
        dtype = reduce(torch.promote_types, (weight.dtype for weight in weights))
        self._memory = torch.zeros(sum(sizes), dtype=dtype, device=weights[0].device)
        pieces = iter(self._memory.split(sizes))
        self._pieces = {name: [like(next(pieces), w) for w in layer] for name, layer in self.layers.items()}
        self._rows = [sum(sizes[: at + 1]) // ROW for at in range(len(sizes))]

    def of(self, layers: Mapping[str, Sequence[Tensor]]) -> bool:
        """Whether these are copies of just these weights, where they are now."""
        return self._keys == _keys(layers)

    def take(self) -> None:
        """Copy the weights as they are."""
        torch._foreach_copy_(self._all(self._pieces), self._all(self.layers))

    def subtract(self) -> None:
        """Take away the weights as they are now: what is left is by how much they have changed, negative."""
        torch._foreach_sub_(self._all(self._pieces), self._all(self.layers))

    def norms(self) -> dict[str, Tensor]:
        """The joint norm of each layer's copies: see `norm`."""
        if self._memory.device.type != "cpu":
            return {name: joint_norm(pieces) for name, pieces in self._pieces.items()}
        rows = torch.linalg.vector_norm(self._memory.view(-1, ROW), dim=1)
        found, start, count = {}, 0, 0
        for name, pieces in self._pieces.items():
            count += len(pieces)
            end = self._rows[count - 1]
            total = torch.linalg.vector_norm(rows[start:end], dtype=torch.float64)
            found[name] = total if safe(total) else joint_norm(pieces)
            start = end
        return found

    @staticmethod
    def _all(layers: Mapping[str, Sequence[Tensor]]) -> list[Tensor]:
        return [tensor for layer in layers.values() for tensor in layer]


def like(memory: Tensor, x: Tensor) -> Tensor:
    """The beginning of one-dimensional memory in the shape of `x`, and in its order where it is dense."""
    values = memory[: x.numel()]
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return values.as_strided(x.shape, x.stride())
    return values.view(x.shape)


def _keys(layers: Mapping[str, Sequence[Tensor]]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(name, w.data_ptr(), w.stride()) for name, weights in layers.items() for w in weights]
