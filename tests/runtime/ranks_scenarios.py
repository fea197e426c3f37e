"""What `test_distributed.py` does on one process and on several, to compare.

python -m tests.runtime.ranks_scenarios FILE      # one of several processes; the first writes FILE
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from detector.config.schema import Config, GradientsConfig, ModelConfig, TrainConfig
from detector.data.batch import Batch
from detector.data.dataset import Dataset, Item
from detector.data.geometry import Letterbox
from detector.data.sampler import part_of
from detector.errors import UserError
from detector.gradients.ledger import Ledger
from detector.gradients.nonfinite import find_nonfinite_origin
from detector.gradients.recorder import GradientRecorder
from detector.models.build import build_model
from detector.models.loss import DetectionLoss
from detector.rundir import RunDir
from detector.runtime.distributed import SingleProcess, init_process_group
from detector.runtime.launch import Launch
from detector.runtime.random_state import seed_everything
from detector.runtime.signals import StopRequest
from detector.training.evaluation import evaluate
from detector.training.impose import interventions
from detector.training.nonfinite_guard import NonFiniteStep, save_nonfinite_step
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from tests.training.harness import create_state, train_steps

SIZE = 64
SMALL = {"depths": (1, 1, 1, 1), "widths": (8,) * 5, "neck_width": 8}
UNEVEN = (5, 4, 3, 1)  # of two processes, the second has none of the last batch
NAMES = ("red", "green")


def joined_batch(seed: int, images: int) -> Batch:
    """Up to two objects an image, so that the processes' shares have different numbers of them."""
    rng = np.random.default_rng(seed)
    owners = np.repeat(np.arange(images), rng.integers(0, 3, images))
    boxes = np.concatenate(
        [rng.uniform(0.3, 0.7, (len(owners), 2)), rng.uniform(0.2, 0.6, (len(owners), 2))], 1
    )
    return Batch(
        images=torch.from_numpy(rng.integers(0, 256, (images, 3, SIZE, SIZE), dtype=np.uint8)),
        batch_idx=torch.from_numpy(owners.astype(np.float32)),
        cls=torch.from_numpy(rng.integers(0, 2, len(owners)).astype(np.float32)),
        boxes=torch.from_numpy(boxes.astype(np.float32)),
        indices=tuple(range(images)),
        letterboxes=(Letterbox(SIZE, SIZE, SIZE),) * images,
    )


def shard_of(batch: Batch, shard: tuple[int, int]) -> Batch:
    own = part_of(len(batch.indices), shard)
    of_own = (batch.batch_idx >= own.start) & (batch.batch_idx < own.stop)
    return replace(
        batch,
        images=batch.images[own],
        batch_idx=batch.batch_idx[of_own] - own.start,
        cls=batch.cls[of_own],
        boxes=batch.boxes[of_own],
        indices=batch.indices[own],
        letterboxes=batch.letterboxes[own],
    )


def make(ranks: SingleProcess, model: dict[str, Any], **settings: Any) -> tuple[TrainState, TrainConfig]:
    config = TrainConfig(lr=0.02, warmup_steps=0, clip=1.0, device="cpu", **settings)
    seed_everything(ranks.rank)  # not the same weights: the first process's are what counts
    return create_state(build_model(ModelConfig(**model), NAMES).model, config, ranks), config


def sharded_loss(ranks: SingleProcess, state: TrainState, config: TrainConfig, epochs: int) -> DetectionLoss:
    loss_fn = DetectionLoss(state.model, config, epochs)
    ranks.prepare_loss(loss_fn.heads)
    return loss_fn


def fit(
    ranks: SingleProcess,
    model: dict[str, Any],
    stop: Callable[[], bool] = lambda: False,
    sizes: tuple[int, ...] = UNEVEN,
    gradients: GradientsConfig | None = None,
    **settings: Any,
) -> dict[str, Any]:
    """Two micro-batches a step, every step recorded."""
    state, config = make(ranks, model, **settings)
    rows: list[dict[str, float]] = []
    points = state.model.backbone_layers()
    batches = [shard_of(joined_batch(seed, images), ranks.shard) for seed, images in enumerate(sizes)]
    schedule = Schedule(len(sizes) // 2, 2, 2, 1, None)
    imposed = Config(train=config, gradients=gradients or GradientsConfig())
    outcome = train_steps(
        state,
        sharded_loss(ranks, state, config, 4),
        batches,
        schedule,
        config,
        GradientRecorder(points, ranks.all_gather),
        lambda row: rows.append({k: v for k, v in row.items() if k != "time/step_ms"}),
        stop,
        dist=ranks,
        before=interventions(state, schedule, imposed, ranks.all_gather),
    )
    return {
        "rows": rows,
        "outcome": (outcome.status, outcome.origin and outcome.origin.where, state.step),
        "weights": [p.detach() for p in state.model.parameters()],
        "statistics": [b.detach() for b in state.model.buffers()],
    }


def ledger(ranks: SingleProcess) -> list[tuple[str, float]]:
    state, config = make(ranks, SMALL | {"norm": "none"})
    book = Ledger(state.model.backbone_layers(), ranks.all_gather)
    book.begin()
    batch = shard_of(joined_batch(0, 3), ranks.shard)
    preds = state.model(state.preprocess(batch.images))
    sharded_loss(ranks, state, config, 1)(preds, batch.targets()).total.backward()
    return [(f"{entry.block}.{entry.operation}", entry.factor) for entry in book.entries()]


def norm(ranks: SingleProcess) -> dict[str, torch.Tensor]:
    """One batch norm, forward and backward, its values far from zero."""
    model = nn.Sequential(nn.BatchNorm2d(3))
    nn.init.uniform_(model[0].weight, generator=torch.Generator().manual_seed(1))
    ranks.prepare_model(model, sync_norms=True)
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for images in (5, 1):
        own = part_of(images, ranks.shard)
        x = (torch.randn(images, 3, 4, 4, generator=generator) + 20)[own].requires_grad_()
        y = model(x)
        (y * torch.randn(images, 3, 4, 4, generator=generator)[own]).sum().backward()
        assert x.grad is not None
        outputs += [torch.cat(ranks.all_gather_object(part)) for part in (y.detach(), x.grad)]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    ranks.all_reduce_(grads)
    return {
        "outputs": outputs,
        "grads": grads,
        "state": list(model.state_dict().values()),
        "eval": model.eval()(torch.ones(1, 3, 4, 4)).detach(),
    }


def evaluation(ranks: SingleProcess) -> Any:
    """The average is evaluated; its copy of the model must work as well."""
    state, _ = make(ranks, SMALL, ema=0.5)
    whole = joined_batch(7, 5)
    items = [
        Item(
            image=Path(f"{i}.png"), classes=whole.cls[own].numpy().astype(int), boxes=whole.boxes[own].numpy()
        )
        for i in range(5)
        for own in [whole.batch_idx == i]
    ]
    own = part_of(5, ranks.shard)
    alone = [shard_of(whole, (i, 5)) for i in range(5)[own]]
    result = evaluate(state, alone, items, ranks)
    return result.metrics, [tuple(torch.from_numpy(part) for part in p) for p in result.predictions]


def error(ranks: SingleProcess) -> list[str]:
    """A mistake that only the last process sees."""

    def batches() -> Iterator[Batch]:
        yield shard_of(joined_batch(0, 4), ranks.shard)
        if ranks.rank == ranks.world_size - 1:
            raise UserError("image 3 cannot be read")
        yield shard_of(joined_batch(1, 4), ranks.shard)

    state, config = make(ranks, SMALL)
    loss_fn = sharded_loss(ranks, state, config, 1)
    recorder = GradientRecorder(state.model.backbone_layers(), ranks.all_gather)
    said = []
    try:
        train_steps(
            state,
            loss_fn,
            batches(),
            Schedule(2, 2, 1, 1, None),
            config,
            recorder,
            lambda row: None,
            lambda: False,
            dist=ranks,
        )
    except UserError as raised:
        said.append(str(raised))
    try:
        ranks.check_alike({"data": "ab" if ranks.rank == 0 else "cd"})
    except UserError as raised:
        said.append(str(raised))
    return [f"{step}: {texts}" for step, texts in ranks.all_gather_object((state.step, said))]


def stop(ranks: SingleProcess) -> list[Any]:
    """The signal reaches one process only, in the middle of the first step."""
    with StopRequest(ranks.all_reduce_max) as request:
        asked = 0

        def asks() -> bool:
            nonlocal asked
            asked += 1
            if asked == 2 and ranks.rank == ranks.world_size - 1:
                request._handle(15, None)
            return request()

        outcome = fit(ranks, SMALL, stop=asks)["outcome"]
    return ranks.all_gather_object((outcome, request.exit_code))


class Breaking(nn.Module):
    """The identity until `armed`; then infinite, or with infinite gradients, on the last process alone."""

    def __init__(self, ranks: SingleProcess, direction: str) -> None:
        super().__init__()
        self.last, self.direction, self.armed = ranks.rank == ranks.world_size - 1, direction, False

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        if not (self.armed and self.last):
            return x
        return x / 0 if self.direction == "forward" else InfiniteGradient.apply(x)  # type: ignore[no-any-return]


class InfiniteGradient(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor) -> torch.Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad + torch.inf


def broken(ranks: SingleProcess, direction: str, folder: Path) -> dict[str, Any]:
    """Step 1 of 3, in its second micro-batch, is left out; batch norms spread the infinities to all."""
    state, config = make(ranks, SMALL, on_nonfinite="skip")
    layer = Breaking(ranks, direction)
    state.model.backbone.p4_0.conv1.act = layer
    joined = [joined_batch(seed, images) for seed, images in enumerate((4, 3, 3, 2, 3, 4))]

    def arm(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        own = shard_of(joined[3], ranks.shard).images
        layer.armed = args[0].shape[0] == len(own) and torch.equal(args[0], state.preprocess(own))

    handle = state.model.register_forward_pre_hook(arm)
    rows: list[dict[str, float]] = []
    failures: list[NonFiniteStep] = []
    names = tuple(
        Item(Path(f"{i}.png"), np.empty(0, np.int64), np.empty((0, 4), np.float32)) for i in range(4)
    )
    dataset = Dataset("mine", NAMES, {"train": names}, (), "f")

    def failed(failure: NonFiniteStep) -> None:
        failures.append(failure)
        if ranks.is_main_process:
            save_nonfinite_step(failure, RunDir(folder), dataset, {}, state.device_summary, lambda _: None)

    outcome = train_steps(
        state,
        sharded_loss(ranks, state, config, 1),
        [shard_of(batch, ranks.shard) for batch in joined],
        Schedule(3, 3, 2, 1, None),
        config,
        GradientRecorder(state.model.backbone_layers(), ranks.all_gather),
        lambda row: rows.append({k: v for k, v in row.items() if k != "time/step_ms"}),
        lambda: False,
        failed=failed,
        dist=ranks,
    )
    handle.remove()
    (failure,) = failures
    assert failure.origin is not None
    said = (failure.origin.where, failure.origin.micro_batch, failure.indices)
    end = (outcome.status, state.step, state.skipped, [row.get("train/skipped") for row in rows])
    return {
        "everyone": ranks.all_gather_object((end, said)),
        "weights": [p.detach() for p in state.model.parameters()],
        "statistics": [b.detach() for b in state.model.buffers()],
    }


def overflow(ranks: SingleProcess) -> list[str]:
    """Gradients that are finite on each process, and not in their sum."""
    model = nn.Linear(1, 1, bias=False)
    found = find_nonfinite_origin(
        model,
        (model(torch.full((1, 1), 3e38)).sum() for _ in range(1)),
        ranks.all_gather_object,
        ranks.all_reduce_,
    )
    return ranks.all_gather_object(str(found))


def everything(ranks: SingleProcess, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    v8 = {"pretrained": "yolov8n.yaml"}
    return {
        "plain": fit(ranks, SMALL | {"norm": "none"}),
        "batch norm": fit(ranks, SMALL),
        "imposed": fit(
            ranks, SMALL | {"norm": "none"}, gradients=GradientsConfig(impose="flat", equalise=True)
        ),
        "own statistics": ranks.all_gather_object(fit(ranks, SMALL, sync_norms=False)["statistics"]),
        "yolov8": fit(ranks, v8, sizes=(3, 1), freeze_norms=True),
        "yolo26": fit(ranks, {"pretrained": "yolo26n.yaml"}, sizes=(3, 1), freeze_norms=True),
        "ledger": ledger(ranks),
        "norm": norm(ranks),
        "evaluation": evaluation(ranks),
        "error": error(ranks),
        "stop": stop(ranks),
        "broken forward": broken(ranks, "forward", folder / f"forward{ranks.world_size}"),
        "broken backward": broken(ranks, "backward", folder / f"backward{ranks.world_size}"),
        "overflow": overflow(ranks),
    }


if __name__ == "__main__":
    with init_process_group(Launch.from_environment(), timeout=120) as processes:
        found = everything(processes, Path(sys.argv[1]).parent)
        if processes.is_main_process:
            torch.save(found, sys.argv[1])
