"""A training step on a CUDA GPU: throughput beside ultralytics' own step, and what recording adds.

yolov8n at 640 px in batches of 64. Ours is the engine's step in bf16, or in fp16 where the GPU has no bf16.
Theirs is the step of its trainer: automatic mixed precision (fp16), its gradient scaler, SGD with momentum,
clipping at 10 and the averaged copy of the weights, which cannot be switched off there. Both begin with the
same uint8 images in pinned memory, so copying them is part of the step; reading files is not.
"""

from __future__ import annotations

from collections.abc import Callable
from types import SimpleNamespace

import torch

from benchmarks.speed.network import boxes, pairs, training
from benchmarks.speed.row import Row, in_turns
from detector.config.schema import GradientsConfig, ModelConfig
from detector.runtime.ultralytics_import import import_ultralytics

SIZE, BATCH = 640, 64
STEPS, ROUNDS = 20, 7
YOLO = ModelConfig(pretrained="yolov8n.yaml")


def measure() -> list[Row]:
    """Images a second, and the ratio of step times; nothing where there is no GPU."""
    if not torch.cuda.is_available():
        print("gpu: no CUDA GPU here, nothing measured")
        return []
    return compare("cuda", SIZE, BATCH)


def compare(device: str, size: int, batch: int) -> list[Row]:
    """The rows, of any device and size."""
    cuda = device == "cuda"
    own = {"device": device, "precision": "auto", "optimizer": "sgd"}
    plain, every, default = (training(YOLO, size, batch, **own) for _ in range(3))
    if cuda:
        for network in (plain, every, default):
            network.images = network.images.cpu().pin_memory()  # each step copies them, as from a loader
    interval = GradientsConfig().every
    seconds = in_turns(
        {
            "plain": lambda: plain.steps(STEPS),
            "every": lambda: every.steps(STEPS, 1),
            "default": lambda: default.steps(STEPS, interval),
            "theirs": theirs(device, size, batch),
        },
        ROUNDS,
        warm_up=2,
    )
    rate = {name: [STEPS * batch / one for one in values] for name, values in seconds.items()}
    what = f"yolov8n, {size} px, batch {batch}, {torch.cuda.get_device_name() if cuda else device}"
    recorded = list(pairs(seconds["every"], seconds["plain"]))
    seldom = list(pairs(seconds["default"], seconds["plain"]))
    note = f"ours in {plain.state.precision_name}, gradients recorded one step in {interval}"
    peer = "its own step without"
    return [
        Row(f"training, {what}", "ultralytics, AMP", "images/s", rate["default"], rate["theirs"],
            target=1.3, at_least=True, note=note),
        Row(f"telemetry, {what}: one step in {interval}", peer, "×", seldom, [], target=1.01, absolute=True),
        Row(f"telemetry, {what}: every step", peer, "×", recorded, [], target=1.05, absolute=True),
    ]  # fmt: skip


def theirs(device: str, size: int, batch: int) -> Callable[[], None]:
    """Steps as its trainer makes them, from its own parts."""
    torch.manual_seed(0)
    cuda = device == "cuda"
    tasks, utils = import_ultralytics("nn.tasks"), import_ultralytics("utils.torch_utils")
    model = tasks.DetectionModel("yolov8n.yaml", nc=80, verbose=False).to(device).train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    average = utils.ModelEMA(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.937, nesterov=True)
    scaler = torch.amp.GradScaler(device, enabled=cuda)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    images = images.pin_memory() if cuda else images
    labels = {name: value.to(device) for name, value in boxes(batch).items()}

    def steps() -> None:
        for _ in range(STEPS):
            with torch.autocast(device, enabled=cuda):
                made = {"img": images.to(device, non_blocking=True).float() / 255, **labels}
                loss = model(made)[0].sum()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            average.update(model)
        if cuda:
            torch.cuda.synchronize()

    return steps
