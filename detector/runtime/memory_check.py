"""How much memory a stranger's network takes, found out before any of it is taken.

On PyTorch's meta device a tensor has a size and no content: a network is built and run there first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

MOST_NUMBERS = 250_000_000  # in weights and buffers; ultralytics' largest, YOLOv5x6, has 156 million
# Bytes that a network may take of which there is nothing but a description; those that come with ultralytics
# may take what they do.
MOST_DESCRIBED = 450_000_000
MOST_ACTIVATIONS = 250_000_000  # bytes at once for a picture of 256 pixels; YOLOv9e, their most, 74 million
MOST_OPERATIONS = 100_000  # of building and running a network; YOLOv9e has 7,000


def count_numbers(net: nn.Module) -> int:
    """How many numbers its weights and buffers are; one that stands in two places counts once."""
    return sum(tensor.numel() for tensor in (*net.parameters(), *net.buffers()))


@contextmanager
def without_content() -> Iterator[None]:
    """While something is built, its tensors have no content; those of given numbers, such as strides, do."""
    with torch.device("meta"), _GivenNumbers(), torch.no_grad():
        yield


def room_for_description(net: nn.Module) -> int:
    """The bytes that building and running a network may take of which there is nothing but a description.

    The largest weight comes off: to run, a convolution arranges a copy of its weights.
    """
    return MOST_DESCRIBED - 4 * max((tensor.numel() for tensor in net.parameters()), default=0)


def check_activations(build: Callable[[], object], numbers: int, most: int | None = None) -> None:
    """Raise ValueError if building and running something takes more memory or operations than a network may.

    Args:
        build: called once, without content; it runs what it builds on a picture of 256 pixels.
        numbers: in its weights.
        most: bytes of weights and all; None: as much as such weights may need.
    """
    usual = 4 * numbers + MOST_ACTIVATIONS
    with without_content(), _Allocations(usual if most is None else min(usual, most)):
        build()


class _GivenNumbers(TorchFunctionMode):
    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        if func is torch.tensor:
            kwargs = {"device": "cpu"} | kwargs
        return func(*args, **kwargs)


class _Allocations(TorchDispatchMode):
    """Adds up the tensors that exist at once; `most` bytes are allowed."""

    def __init__(self, most: int) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._most = most
        self._living: dict[int, tuple[StorageWeakRef, int]] = {}
        self._bytes = self._operations = 0

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        self._operations += 1
        if self._operations > MOST_OPERATIONS:
            raise ValueError(f"it takes more than {MOST_OPERATIONS} operations")
        for tensor in tree_leaves(output):
            if isinstance(tensor, Tensor):
                self._add(tensor.untyped_storage())
        return output

    def _add(self, storage: torch.UntypedStorage) -> None:
        known = self._living.get(storage._cdata)
        if known is not None and not known[0].expired():
            return  # a view
        self._living[storage._cdata] = StorageWeakRef(storage), storage.nbytes()
        self._bytes += storage.nbytes()
        if self._bytes > self._most:
            self._living = {key: one for key, one in self._living.items() if not one[0].expired()}
            self._bytes = sum(size for _, size in self._living.values())
            if self._bytes > self._most:
                raise ValueError(f"it takes more than {self._most / 1e9:.2f} GB")
