"""What test_ranks.py does on two processes: torchrun … -m tests.integrations.ranks_script FOLDER."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from detector import watch


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))


def images(step: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def train(
    model: nn.Module, shard: slice, *to: object, across_ranks: bool
) -> tuple[list[dict[str, float]], nn.Module]:
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    flow = watch(model, *to, every=1, across_ranks=across_ranks)
    for step in range(2):
        loss = model(images(step)[shard]).square().mean()
        loss.backward()
        flow.step(loss)
        optimizer.step()
        optimizer.zero_grad()
    flow.finish()
    return list(flow.rows), model


def main(folder: Path) -> None:
    torch.distributed.init_process_group("gloo")
    rank = torch.distributed.get_rank()
    shard = slice(4 * rank, 4 * rank + 4)
    found = {}
    for name, across in (("joined", True), ("own", False)):
        rows, model = train(DistributedDataParallel(network()), shard, folder / name, across_ranks=across)
        found[name] = rows
    found["weights"] = [p.tolist() for p in model.parameters()]
    (folder / f"{rank}.json").write_text(json.dumps(found))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
