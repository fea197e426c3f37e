"""One process or several that train one model, each on its shard of every batch.

`SingleProcess` changes nothing and waits for nobody, so that a run on one process is the same, bit for bit,
as if this module did not exist. `Distributed` is the same interface over torch.distributed.

The gradients are summed by an explicit all-reduce, once a step, instead of by DistributedDataParallel:

- the engine stays one loop in which every moment has its line: all micro-batches, the sum over the processes,
  the recording, the clipping;
- the model stays itself: no wrapper changes the names in its state, its hooks or its averaged copy;
- it is a sum, not a mean, so that together with the loss's common normalizer (see `runtime.sharded_loss`) it
  *is* the gradient of the joined batch, whatever the sizes of the shards, an empty one included.

The price is that communication does not overlap with the backward pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor, nn

from detector.errors import UserError
from detector.runtime.launch import Launch, LostContactError
from detector.runtime.sharded_loss import shard_loss
from detector.runtime.sync_norm import batch_norms, synchronize_norms

T = TypeVar("T")
BUCKET = 25 * 2**20  # bytes sent at a time: large enough to be worth it, small enough to overlap


class SingleProcess:
    """The usual case. Every method must be called by all processes, in the same order."""

    rank, world_size = 0, 1  # this process, and how many there are
    local_rank, local_world_size = 0, 1  # the same among those on this machine

    @property
    def is_main_process(self) -> bool:
        """Whether this is the one process that writes, logs and prints."""
        return self.rank == 0

    @property
    def shard(self) -> tuple[int, int]:
        """Which part of every batch is this process's: its number, and of how many."""
        return self.rank, self.world_size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """The sum of every process's tensor; all have one shape and type."""
        return tensor

    def all_gather(self, tensor: Tensor) -> Tensor:
        """Every process's tensor, (world_size, …), in the order of their ranks."""
        return tensor[None]

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its sum over the processes."""

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by the main process's."""

    def all_reduce_max(self, number: int) -> int:
        """The largest of every process's number."""
        return number

    def all_gather_object(self, value: T) -> list[T]:
        """Every process's value, in the order of their ranks."""
        return [value]

    def gather_object(self, value: T) -> list[T]:
        """The same on the main process; elsewhere an empty list."""
        return [value]

    def broadcast_object(self, value: T) -> T:
        """The main process's value."""
        return value

    # The rest is written once, in terms of the above.

    def average_(self, tensors: Sequence[Tensor]) -> None:
        """Replace each tensor by its mean over the processes."""
        if self.world_size > 1:
            self.all_reduce_(tensors)
            for tensor in tensors:
                tensor /= self.world_size

    @contextmanager
    def raise_together(self) -> Iterator[None]:
        """Around something that may fail: where it fails on one process, it fails on all.

        Raises:
            UserError: of the lowest rank that has one.
        """
        error: UserError | None = None
        try:
            yield
        except UserError as raised:
            error = raised
        if self.all_reduce_max(error is not None):
            texts = self.all_gather_object(None if error is None else str(error))
            first = next(text for text in texts if text is not None)
            if error is not None and str(error) == first:
                raise error
            raise UserError(first) from error

    @contextmanager
    def main_process_first(self) -> Iterator[None]:
        """As `raise_together`, on one process of each machine first: what it downloads, the others find."""
        if self.local_rank:
            with self.raise_together():
                pass
        with self.raise_together():
            yield
        if not self.local_rank:
            with self.raise_together():
                pass

    def prepare_batches(self, batches: Iterable[T]) -> Iterator[T]:
        """The same batches; an error in reading one of them is raised by all processes."""
        source, end = iter(batches), object()
        while True:
            with self.raise_together():
                batch: Any = next(source, end)
            if batch is end:
                return
            yield batch

    def prepare_model(self, model: nn.Module, *, sync_norms: bool) -> list[Tensor]:
        """Give every process the main process's weights, and every batch norm all processes' images.

        Args:
            model: on its device; changed in place.
            sync_norms: whether norms see the joined batch. Else each sees its own shard.

        Returns:
            The running statistics that then differ between processes: to be averaged after every step, since
            they are what is evaluated and saved.
        """
        if self.world_size == 1:
            return []
        device = next(model.parameters()).device
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL, too, works for this process
        self.broadcast_(list(model.state_dict().values()))
        if sync_norms:
            synchronize_norms(model, self.all_reduce, self.all_gather, device)
            return []
        return [
            buffer
            for norm in batch_norms(model)
            for buffer in (norm.running_mean, norm.running_var)
            if buffer is not None
        ]

    def prepare_loss(self, heads: Iterable[Any]) -> None:
        """Make the criteria of a loss return this process's share of the joined batch's loss."""
        if self.world_size > 1:
            for head in heads:
                shard_loss(head, self.all_reduce)

    def device_name(self, name: str) -> str:
        """The device that `train.device` means for this process: each has a GPU of its own.

        Raises:
            UserError: one GPU is asked for by number, or there are fewer than processes.
        """
        if self.world_size == 1 or name == "cpu" or not torch.cuda.is_available():
            return name
        if name.startswith("cuda:") and self.local_world_size > 1:
            raise UserError(
                f"train.device={name}: several processes cannot share a GPU; use train.device=cuda"
            )
        count = torch.cuda.device_count()
        if self.local_world_size > count:
            raise UserError(
                f"{self.local_world_size} processes for {count} GPUs: "
                f"start torchrun with --nproc-per-node {count}"
            )
        return name if name.startswith("cuda:") else f"cuda:{self.local_rank}"

    def check_alike(self, facts: Mapping[str, object]) -> None:
        """Make sure that all processes train on the same data in the same way.

        Raises:
            UserError: they differ; the message names the first difference.
        """
        first, *others = self.all_gather_object(facts)
        for rank, other in enumerate(others, start=1):
            for name, value in first.items():
                if other[name] != value:
                    raise UserError(f"rank {rank} differs from rank 0 in {name}: {other[name]}, not {value}")


class Distributed(SingleProcess):
    """Several processes. Each method raises LostContactError if another process is gone or too late."""

    def __init__(self, launch: Launch) -> None:
        self.rank, self.world_size = launch.rank, launch.world_size
        self.local_rank, self.local_world_size = launch.local_rank, launch.local_world_size

    def all_reduce(self, tensor: Tensor) -> Tensor:
        """See `SingleProcess.all_reduce`."""
        total = tensor.detach().clone(memory_format=torch.contiguous_format)
        with _contact():
            dist.all_reduce(total)
        return total

    def all_gather(self, tensor: Tensor) -> Tensor:
        """See `SingleProcess.all_gather`."""
        rows = tensor.new_zeros(self.world_size, *tensor.shape)
        rows[self.rank] = tensor.detach()
        return self.all_reduce(rows)

    def all_reduce_(self, tensors: Sequence[Tensor]) -> None:
        """See `SingleProcess.all_reduce_`. The next bucket is packed while the last one is on its way."""
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

    def broadcast_(self, tensors: Sequence[Tensor]) -> None:
        """See `SingleProcess.broadcast_`."""
        with _contact():
            for tensor in tensors:
                value = tensor.detach().contiguous()
                dist.broadcast(value, src=0)
                tensor.detach().copy_(value)

    def all_reduce_max(self, number: int) -> int:
        """See `SingleProcess.all_reduce_max`."""
        value = torch.tensor(number)  # on the CPU: no GPU is waited for
        with _contact():
            dist.all_reduce(value, dist.ReduceOp.MAX)
        return int(value)

    def all_gather_object(self, value: T) -> list[T]:
        """See `SingleProcess.all_gather_object`."""
        values: list[T] = [value] * self.world_size
        with _contact():
            dist.all_gather_object(values, value)
        return values

    def gather_object(self, value: T) -> list[T]:
        """See `SingleProcess.gather_object`."""
        values: list[T] = [value] * self.world_size if self.is_main_process else []
        with _contact():
            dist.gather_object(value, values if self.is_main_process else None)
        return values

    def broadcast_object(self, value: T) -> T:
        """See `SingleProcess.broadcast_object`."""
        values = [value]
        with _contact():
            dist.broadcast_object_list(values, src=0)
        return values[0]


@contextmanager
def init_process_group(launch: Launch, timeout: float) -> Iterator[SingleProcess]:
    """Meet the other processes, if there are any; part from them at the end.

    Args:
        launch: who this process is.
        timeout: seconds that a process waits for the others before it gives up, here and later.

    Raises:
        LostContactError: not all came in time.
    """
    if launch.world_size == 1:
        yield SingleProcess()
        return
    # NCCL only carries what is on GPUs; what the processes agree on is on the CPU, and waits for no GPU.
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() and dist.is_nccl_available() else "gloo"
    with _contact():
        store = launch.rendezvous(timeout)
        dist.init_process_group(
            backend,
            store=store,
            rank=launch.rank,
            world_size=launch.world_size,
            timeout=timedelta(seconds=timeout),
        )
    try:
        processes = Distributed(launch)
        yield processes
        # The main process writes the summary. If another ended first, with the exit code of a run that
        # diverged, torchrun would end it in the middle of that.
        with suppress(LostContactError):
            processes.broadcast_object(None)
    finally:
        dist.destroy_process_group()


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
