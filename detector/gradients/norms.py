"""Frobenius norms of tensors of any size and scale, as exact as in float64 and nearly as fast as in float32.

The square of a vanished gradient of 1e-30 is zero in float32, and a float32 sum of a million squares has
lost its sixth digit. A GPU adds in float64 as it reads; a CPU first writes a converted copy, which takes
three times as long as everything else that is recorded of a step.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import reduce
from itertools import chain

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
    parts = [measurable(part) for part in parts]
    cuda = parts[0].is_cuda  # where one kernel measures all of them; elsewhere one call all that are small
    together = [part for part in parts if cuda or part.numel() <= SMALL]
    norms = list(torch._foreach_norm(together, 2, dtype=torch.float64)) if together else []
    norms += [norm(part) for part in parts if not cuda and part.numel() > SMALL]
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
    """What weights were, and how far they have moved since: in memory that is kept, one piece a layer.

    Args:
        layers: the weights of each layer, by its name.
    """

    def __init__(self, layers: Mapping[str, Sequence[Tensor]]) -> None:
        self.layers = {name: [weight.detach() for weight in weights] for name, weights in layers.items()}
        self._keys = _keys(layers)
        weights = [weight for layer in self.layers.values() for weight in layer]
        self._device = weights[0].device
        dtype = reduce(torch.promote_types, (weight.dtype for weight in weights))
        self._memory: dict[str, Tensor] = {}
        self._pieces: dict[str, list[Tensor]] = {}
        for name, layer in self.layers.items():
            sizes = [
                -(-weight.numel() // ROW) * ROW for weight in layer
            ]  # each a row's multiple: zeros fill it
            self._memory[name] = torch.zeros(sum(sizes), dtype=dtype, device=self._device)
            pieces = self._memory[name].split(sizes)
            self._pieces[name] = [like(piece, weight) for piece, weight in zip(pieces, layer, strict=True)]

    def of(self, layers: Mapping[str, Sequence[Tensor]]) -> bool:
        """Whether these are copies of just these weights, where they are now."""
        return self._keys == _keys(layers)

    def take(self) -> dict[str, Tensor]:
        """Copy the weights as they are; each layer's joint norm."""
        return self._measured(torch._foreach_copy_)

    def subtract(self) -> dict[str, Tensor]:
        """Take away the weights as they are now; the joint norm of each layer's change."""
        return self._measured(torch._foreach_sub_)

    def _measured(self, change: Callable[[list[Tensor], list[Tensor]], object]) -> dict[str, Tensor]:
        if self._device.type != "cpu":  # one call, since each has its price
            change(list(chain(*self._pieces.values())), list(chain(*self.layers.values())))
            return {name: joint_norm(pieces) for name, pieces in self._pieces.items()}
        found = {}
        for name, pieces in self._pieces.items():  # measured while they are still in the cache
            change(pieces, self.layers[name])
            rows = torch.linalg.vector_norm(self._memory[name].view(-1, ROW), dim=1)
            total = torch.linalg.vector_norm(rows, dtype=torch.float64)
            found[name] = total if safe(total) else joint_norm(pieces)
        return found


def like(memory: Tensor, x: Tensor) -> Tensor:
    """The beginning of one-dimensional memory in the shape of `x`, and in its order where it is dense."""
    values = memory[: x.numel()]
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return values.as_strided(x.shape, x.stride())
    return values.view(x.shape)


def _keys(layers: Mapping[str, Sequence[Tensor]]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(name, w.data_ptr(), w.stride()) for name, weights in layers.items() for w in weights]
