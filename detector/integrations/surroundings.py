"""What somebody's loop puts around a network: wrappers, a compiler, several processes."""

from __future__ import annotations

import torch
from torch import Tensor, nn


def unwrapped(model: nn.Module) -> nn.Module:
    """The network inside DistributedDataParallel and `torch.compile`."""
    while isinstance(inner := getattr(model, "_orig_mod", getattr(model, "module", None)), nn.Module):
        model = inner
    return model


def is_compiled(model: nn.Module) -> bool:
    """Whether `torch.compile` has it, or a part of it."""
    # Looked up where PyTorch keeps them: a module is slow to say that it lacks an attribute.
    return any("_orig_mod" in m._modules or m._compiled_call_impl is not None for m in model.modules())


def processes() -> tuple[int, int]:
    """How many train together, and which of them this is."""
    dist = torch.distributed
    if not (dist.is_available() and dist.is_initialized()):
        return 1, 0
    return dist.get_world_size(), dist.get_rank()


def gather(tensor: Tensor) -> Tensor:
    """(…) -> (processes, …)."""
    found = [torch.empty_like(tensor) for _ in range(torch.distributed.get_world_size())]
    torch.distributed.all_gather(found, tensor.contiguous())
    return torch.stack(found)
