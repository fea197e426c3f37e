"""Several processes that train one model, each on its share of every batch.

The gradients are added up by hand, once a step, instead of by DistributedDataParallel:

- the engine stays one loop in which every moment has its line: all micro-batches, the sum over processes,
  the recording, the clipping;
- the model stays itself: no wrapper changes the names in its state, its hooks or its averaged copy;
- it is a sum, not a mean, so that together with the loss's common normaliser (see `detector.models.loss`) it
  *is* the gradient of the joined batch, whatever the sizes of the shares, an empty one included.

What that costs is the overlap of communication with the backward pass.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from datetime import timedelta
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from detector.errors import UserError
from detector.runtime.launch import Launch, LostContactError
from detector.runtime.ranks import ALONE, Ranks

T = TypeVar("T")
BUCKET = 25 * 2**20  # bytes sent at a time: large enough to be worth it, small enough to overlap


class Processes(Ranks):
    """See `Ranks`. Each method raises LostContactError if another process is gone or too late."""

    def __init__(self, launch: Launch) -> None:
        self.rank, self.world = launch.rank, launch.world
        self.local_rank, self.local_world = launch.local_rank, launch.local_world

    def sum(self, tensor: Tensor) -> Tensor:
        """See `Ranks.sum`."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with _contact():
            dist.all_reduce(total)
        return total

    def stack(self, tensor: Tensor) -> Tensor:
        """See `Ranks.stack`."""
        rows = tensor.new_zeros(self.world, *tensor.shape)
        rows[self.rank] = tensor.detach()
        return self.sum(rows)

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """See `Ranks.add_up`. The next bucket is packed while the last one is on its way."""
        sent = []
        with _contact():
            for bucket in _buckets(tensors):
                flat = torch.cat([tensor.detach().reshape(-1) for tensor in bucket])
                sent.append((bucket, flat, dist.all_reduce(flat, async_op=True)))
            for bucket, flat, work in sent:
                assert work is not None
                work.wait()
                parts = flat.split([tensor.numel() for tensor in bucket])
                for tensor, part in zip(bucket, parts, strict=True):
                    tensor.detach().copy_(part.view(tensor.shape))

    def copy_first(self, tensors: Sequence[Tensor]) -> None:
        """See `Ranks.copy_first`."""
        with _contact():
            for tensor in tensors:
                value = tensor.detach().contiguous()
                dist.broadcast(value, src=0)
                tensor.detach().copy_(value)

    def largest(self, number: int) -> int:
        """See `Ranks.largest`."""
        value = torch.tensor(number)  # on the CPU: no GPU is waited for
        with _contact():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def everyone(self, value: T) -> list[T]:
        """See `Ranks.everyone`."""
        values: list[T] = [value] * self.world
        with _contact():
            dist.all_gather_object(values, value)
        return values

    def collect(self, value: T) -> list[T]:
        """See `Ranks.collect`."""
        values: list[T] = [value] * self.world if self.first else []
        with _contact():
            dist.gather_object(value, values if self.first else None)
        return values

    def from_first(self, value: T) -> T:
        """See `Ranks.from_first`."""
        values = [value]
        with _contact():
            dist.broadcast_object_list(values, src=0)
        return values[0]

    def agree(self, action: Callable[[], T]) -> T:
        """See `Ranks.agree`."""
        value: T | None = None
        error: UserError | None = None
        try:
            value = action()
        except UserError as raised:
            error = raised
        if self.largest(error is not None):
            errors = self.everyone(None if error is None else str(error))
            raise UserError(next(text for text in errors if text is not None)) from error
        return value  # type: ignore[return-value]  # it is what the action returned, None included

    def in_turn(self, action: Callable[[], T]) -> T:
        """See `Ranks.in_turn`."""
        done: list[T] = []
        for turn in (True, False):
            if turn == (self.local_rank == 0):
                self.agree(lambda: done.append(action()))
            else:
                self.agree(lambda: None)
        return done[0]


@contextmanager
def join(launch: Launch, timeout: float) -> Iterator[Ranks]:
    """Meet the other processes, if there are any; part from them at the end.

    Args:
        launch: who this process is.
        timeout: seconds that a process waits for the others before it gives up, here and later.

    Raises:
        LostContactError: not all came in time.
    """
    if launch.world == 1:
        yield ALONE
        return
    # NCCL only carries what is on GPUs; what the processes agree on is on the CPU, and waits for no GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with _contact():
        store = launch.meet(timeout)
        dist.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.world,
            timeout=timedelta(seconds=timeout),
        )
    try:
        yield Processes(launch)
    finally:
        dist.destroy_process_group()


def check_alike(ranks: Ranks, facts: dict[str, object]) -> None:
    """Make sure that all processes train on the same data in the same way.

    Raises:
        UserError: they differ; the message names the first difference.
    """
    first, *others = ranks.everyone(facts)
    for rank, other in enumerate(others, start=1):
        for name, value in first.items():
            if other[name] != value:
                raise UserError(
                    f"process {rank} differs from process 0 in {name}: {other[name]}, not {value}"
                )


def _buckets(tensors: Sequence[Tensor]) -> Iterator[list[Tensor]]:
    bucket: list[Tensor] = []
    size = 0
    for tensor in tensors:
        if bucket and (size >= BUCKET or tensor.dtype != bucket[0].dtype):
            yield bucket
            bucket, size = [], 0
        bucket.append(tensor)
        size += tensor.numel() * tensor.element_size()
    if bucket:
        yield bucket


@contextmanager
def _contact() -> Iterator[None]:
    try:
        yield
    except RuntimeError as error:  # what both back ends raise, DistBackendError and the like included
        raise LostContactError(" ".join(str(error).split())[:200]) from error
