"""The same few steps on one process and on several, by NCCL on GPUs and gloo on CPUs.

    python benchmarks/speed/ranks.py cpu 64 2 found.pt    # one of several, which the environment names

With batch norms over all processes and gradients summed, several must train as one does on the joined batch.
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed.network import NAMES, boxes  # noqa: E402
from detector.config.schema import ModelConfig, TrainConfig  # noqa: E402
from detector.data.sampler import part_of  # noqa: E402
from detector.models.build import build_model  # noqa: E402
from detector.models.loss import DetectionLoss  # noqa: E402
from detector.runtime.distributed import Distributed, SingleProcess, init_process_group  # noqa: E402
from detector.runtime.launch import Launch  # noqa: E402
from detector.runtime.sync_norm import synchronize_norms  # noqa: E402
from detector.training.clipping import clip_gradients  # noqa: E402
from detector.training.prepare import distribute  # noqa: E402

SIZE, BATCH = 64, 6  # of the joined batch that is compared
STEPS, TIMED = 3, 10  # compared; timed
SMALL = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8)
YOLO = ModelConfig(pretrained="yolov8n.yaml")
TOLERANCE = 1e-3  # of the largest weight of a tensor: the order of sums is another


def run(device: str, count: int, size: int, batch: int, folder: Path) -> dict[str, Any]:
    """What the first of so many processes found.

    Raises:
        RuntimeError: one of them failed.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    out = folder / "found.pt"
    address = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    processes = [
        subprocess.Popen([sys.executable, __file__, device, str(size), str(batch), str(out)], cwd=ROOT,
                         env=os.environ | address | {"RANK": str(rank), "LOCAL_RANK": str(rank)})
        for rank in range(count)
    ]  # fmt: skip
    try:
        codes = [process.wait(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    if any(codes):
        raise RuntimeError(f"the processes ended with {codes}")
    return dict(torch.load(out, weights_only=True))


def train(device: str, size: int, batch: int, dist: SingleProcess | None = None) -> dict[str, Any]:
    """Weights of a small network after a few steps on the joined batch, and images a second of yolov8n."""
    dist = dist or SingleProcess()
    torch.backends.cudnn.allow_tf32 = torch.backends.cuda.matmul.allow_tf32 = False
    small, step = _steps(SMALL, device, SIZE, BATCH, dist)
    for _ in range(STEPS):
        step()
    weights = [value.detach().float().cpu().clone() for value in small.state_dict().values()]
    _, step = _steps(YOLO, device, size, batch, dist)
    step()
    rates = []
    for _ in range(TIMED):
        started = time.perf_counter()
        step()
        rates.append(batch / (time.perf_counter() - started))
    return {"weights": weights, "rates": rates}


def _steps(
    config: ModelConfig, device: str, size: int, batch: int, dist: SingleProcess
) -> tuple[nn.Module, Callable[[], None]]:
    """A network, and what trains it by one step on this process's share of a batch."""
    torch.manual_seed(0)
    settings = TrainConfig(device=dist.device_name(device), lr=0.01, precision="fp32")
    where = torch.device(settings.device)
    state = distribute(build_model(config, NAMES).model, settings, where, dist)
    if dist.world_size == 1 and isinstance(dist, Distributed):  # one card: as far as that can be exercised
        synchronize_norms(state.model, dist.all_reduce, dist.all_gather, where)
    loss_fn = DetectionLoss(state.model, settings)
    dist.prepare_loss(loss_fn.heads)
    torch.manual_seed(1)
    joined, own = boxes(batch), part_of(batch, dist.shard)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)[own]
    mine = (joined["batch_idx"] >= own.start) & (joined["batch_idx"] < own.stop)
    targets = {name: value[mine].to(where) for name, value in joined.items()}
    targets["batch_idx"] = targets["batch_idx"] - own.start

    def step() -> None:
        state.train_mode()
        state.optimizer.zero_grad(set_to_none=True)
        loss_fn(state.model(state.preprocess(images)), targets).total.backward()
        dist.all_reduce_([p.grad for p in state.parameters if p.grad is not None])
        clip_gradients(state.parameters, 10.0)
        state.optimizer.step()
        if where.type == "cuda":
            torch.cuda.synchronize()

    return state.model, step


def difference(found: dict[str, Any], other: dict[str, Any]) -> float:
    """The largest difference of a weight or statistic, relative to the largest one of its tensor."""
    pairs = zip(found["weights"], other["weights"], strict=True)
    return max(float((a - b).abs().max() / b.abs().max().clamp_min(1e-6)) for a, b in pairs if b.numel())


@contextmanager
def group(launch: Launch) -> Iterator[SingleProcess]:
    """The processes; even one alone talks through the back end."""
    if launch.world_size > 1:
        with init_process_group(launch, timeout=60) as dist:
            yield dist
        return
    backend = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    try:
        yield Distributed(launch)
    finally:
        torch.distributed.destroy_process_group()


if __name__ == "__main__":
    with group(Launch.from_environment()) as processes:
        result = train(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), processes)
        if processes.is_main_process:
            torch.save(result, sys.argv[4])
