"""Frobenius norms of tensors of any size and scale, as exact as in float64 and nearly as fast as in float32.

The square of a vanished gradient of 1e-30 is zero in float32, and a float32 sum of a million squares has
lost its sixth digit. A GPU adds in float64 as it reads; a CPU first writes a converted copy, which takes
three times as long as everything else that is recorded of a step.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from functools import reduce
from itertools import accumulate, pairwise

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

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
    if by_rows(x):
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
    joint: Tensor = torch.linalg.vector_norm(norms(parts))
    return joint


def joint_squares(layers: Iterable[Sequence[Tensor]]) -> Tensor:
    """The squared joint norms of several layers' tensors, (layers,): by few calls, as each has its price."""
    parts = list(layers)
    squares = norms([tensor for part in parts for tensor in part]).square()
    return sums(squares, [len(part) for part in parts])


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """The Frobenius norm of each, (tensors,): on a GPU by one kernel, on a CPU the small ones by one call."""
    tensors = [measurable(tensor) for tensor in tensors]
    few = [tensor for tensor in tensors if not by_rows(tensor)]
    together = iter(torch._foreach_norm(few, 2, dtype=torch.float64) if few else ())
    return torch.stack([norm(tensor) if by_rows(tensor) else next(together) for tensor in tensors])


def sums(values: Tensor, counts: Sequence[int]) -> Tensor:
    """The sums of `values[:counts[0]]`, of the next `counts[1]`, and so on: (counts,)."""
    return pad_sequence(list(values.split(list(counts))), batch_first=True).sum(1)


def by_rows(x: Tensor) -> bool:
    """Whether it is quicker to add a tensor's values in float32, row by row, than to convert them."""
    return x.device.type == "cpu" and x.dtype != torch.float64 and x.numel() > SMALL


def safe(total: Tensor | float) -> bool:
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
        self._weights = [weight for layer in self.layers.values() for weight in layer]
        sizes = [
            -(-weight.numel() // ROW) * ROW for weight in self._weights
        ]  # each a row's multiple, filled by 0
        dtype = reduce(torch.promote_types, (weight.dtype for weight in self._weights))
        self._memory = torch.zeros(sum(sizes), dtype=dtype, device=self._weights[0].device)
        pieces = self._memory.split(sizes)
        self._pieces = [like(piece, weight) for piece, weight in zip(pieces, self._weights, strict=True)]
        counts = [len(layer) for layer in self.layers.values()]
        self._ends = [0, *accumulate(counts)]
        self._rows = [sum(sizes[a:b]) // ROW for a, b in pairwise(self._ends)]

    def of(self, layers: Mapping[str, Sequence[Tensor]]) -> bool:
        """Whether these are copies of just these weights, where they are now."""
        return self._keys == _keys(layers)

    def take(self) -> dict[str, Tensor]:
        """Copy the weights as they are; each layer's joint norm."""
        torch._foreach_copy_(self._pieces, self._weights)
        return self._norms()

    def subtract(self) -> dict[str, Tensor]:
        """Take away the weights as they are now; the joint norm of each layer's change."""
        torch._foreach_sub_(self._pieces, self._weights)
        return self._norms()

    def _norms(self) -> dict[str, Tensor]:
        layers = [self._pieces[a:b] for a, b in pairwise(self._ends)]
        if self._memory.device.type != "cpu":
            found = joint_squares(layers).sqrt()
        else:
            rows = torch.linalg.vector_norm(self._memory.view(-1, ROW), dim=1)
            found = sums(rows.double().square(), self._rows).sqrt()
            for index, value in enumerate(found.tolist()):
                if not safe(value):
                    found[index] = joint_norm(layers[index])
        return dict(zip(self.layers, found, strict=True))


def like(memory: Tensor, x: Tensor) -> Tensor:
    """The beginning of one-dimensional memory in the shape of `x`, and in its order where it is dense."""
    values = memory[: x.numel()]
    if x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last):
        return values.as_strided(x.shape, x.stride())
    return values.view(x.shape)


def _keys(layers: Mapping[str, Sequence[Tensor]]) -> list[tuple[str, int, tuple[int, ...]]]:
    return [(name, w.data_ptr(), w.stride()) for name, weights in layers.items() for w in weights]
