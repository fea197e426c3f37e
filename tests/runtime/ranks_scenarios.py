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
from detector.runtime.ranks import Ranks
from torch import nn

from detector.config.schema import ModelConfig, TrainConfig
from detector.data.dataset import Dataset, Item
from detector.data.geometry import Letterbox
from detector.data.loader import Batch
from detector.errors import UserError
from detector.gradients.ledger import Ledger
from detector.gradients.nonfinite import first_culprit
from detector.gradients.recorder import GradientRecorder
from detector.models.build import build_model
from detector.models.loss import DetectionLoss
from detector.runtime.distributed import check_alike, join
from detector.runtime.launch import Launch
from detector.runtime.signals import StopRequest
from detector.runtime.sync_norm import synchronise
from detector.training.engine import evaluate, train
from detector.training.nonfinite_guard import Failure, FailureFile
from detector.training.schedule import Plan
from detector.training.state import Learner, build_learner, seed_everything

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


def share_of(batch: Batch, ranks: Ranks) -> Batch:
    own = ranks.share(len(batch.indices))
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


def make(ranks: Ranks, model: dict[str, Any], **settings: Any) -> tuple[Learner, TrainConfig]:
    config = TrainConfig(lr=0.02, warmup_steps=0, clip=1.0, device="cpu", **settings)
    seed_everything(ranks.rank)  # not the same weights: the first process's are what counts
    return build_learner(build_model(ModelConfig(**model), NAMES).model, config, ranks), config


def fit(
    ranks: Ranks,
    model: dict[str, Any],
    stop: Callable[[], bool] = lambda: False,
    sizes: tuple[int, ...] = UNEVEN,
    **settings: Any,
) -> dict[str, Any]:
    """Two micro-batches a step, every step recorded."""
    learner, config = make(ranks, model, **settings)
    rows: list[dict[str, float]] = []
    points = learner.model.trunk_points()
    batches = [share_of(joined_batch(seed, images), ranks) for seed, images in enumerate(sizes)]
    outcome = train(
        learner,
        DetectionLoss(learner.model, config, 4, ranks),
        batches,
        Plan(len(sizes) // 2, 2, 2, 1, None),
        config,
        GradientRecorder(points, ranks),
        lambda row: rows.append({k: v for k, v in row.items() if k != "time/step_ms"}),
        stop,
    )
    return {
        "rows": rows,
        "outcome": (outcome.status, outcome.culprit and outcome.culprit.where, learner.step),
        "weights": [p.detach() for p in learner.model.parameters()],
        "statistics": [b.detach() for b in learner.model.buffers()],
    }


def ledger(ranks: Ranks) -> list[tuple[str, float]]:
    learner, config = make(ranks, SMALL | {"norm": "none"})
    book = Ledger(learner.model.trunk_points(), ranks)
    book.begin()
    batch = share_of(joined_batch(0, 3), ranks)
    preds = learner.model(learner.images(batch.images))
    DetectionLoss(learner.model, config, 1, ranks)(preds, batch.targets()).total.backward()
    return [(f"{entry.block}.{entry.operation}", entry.factor) for entry in book.entries()]


def norm(ranks: Ranks) -> dict[str, torch.Tensor]:
    """One batch norm, forward and backward, its values far from zero."""
    model = nn.Sequential(nn.BatchNorm2d(3))
    nn.init.uniform_(model[0].weight, generator=torch.Generator().manual_seed(1))
    if ranks.world > 1:
        synchronise(model, ranks, torch.device("cpu"))
    generator = torch.Generator().manual_seed(0)
    outputs = []
    for images in (5, 1):
        own = ranks.share(images)
        x = (torch.randn(images, 3, 4, 4, generator=generator) + 20)[own].requires_grad_()
        y = model(x)
        (y * torch.randn(images, 3, 4, 4, generator=generator)[own]).sum().backward()
        assert x.grad is not None
        outputs += [torch.cat(ranks.everyone(part)) for part in (y.detach(), x.grad)]
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    ranks.add_up(grads)
    return {
        "outputs": outputs,
        "grads": grads,
        "state": list(model.state_dict().values()),
        "eval": model.eval()(torch.ones(1, 3, 4, 4)).detach(),
    }


def evaluation(ranks: Ranks) -> Any:
    """The average is evaluated; its copy of the model must work as well."""
    learner, _ = make(ranks, SMALL, ema=0.5)
    whole = joined_batch(7, 5)
    items = [
        Item(
            image=Path(f"{i}.png"), classes=whole.cls[own].numpy().astype(int), boxes=whole.boxes[own].numpy()
        )
        for i in range(5)
        for own in [whole.batch_idx == i]
    ]
    own = ranks.share(5)
    alone = [share_of(whole, _Only(i, 5)) for i in range(5)[own]]
    result = evaluate(learner, alone, items)
    return result.metrics, [tuple(torch.from_numpy(part) for part in p) for p in result.predictions]


class _Only(Ranks):
    def __init__(self, rank: int, world: int) -> None:
        self.rank, self.world = rank, world


def error(ranks: Ranks) -> list[str]:
    """A mistake that only the last process sees."""

    def batches() -> Iterator[Batch]:
        yield share_of(joined_batch(0, 4), ranks)
        if ranks.rank == ranks.world - 1:
            raise UserError("image 3 cannot be read")
        yield share_of(joined_batch(1, 4), ranks)

    learner, config = make(ranks, SMALL)
    criterion = DetectionLoss(learner.model, config, 1, ranks)
    recorder = GradientRecorder(learner.model.trunk_points(), ranks)
    said = []
    try:
        train(
            learner,
            criterion,
            batches(),
            Plan(2, 2, 1, 1, None),
            config,
            recorder,
            lambda row: None,
            lambda: False,
        )
    except UserError as raised:
        said.append(str(raised))
    try:
        check_alike(ranks, {"data": "ab" if ranks.rank == 0 else "cd"})
    except UserError as raised:
        said.append(str(raised))
    return [f"{step}: {texts}" for step, texts in ranks.everyone((learner.step, said))]


def stop(ranks: Ranks) -> list[Any]:
    """The signal reaches one process only, in the middle of the first step."""
    with StopRequest(ranks.largest) as request:
        asked = 0

        def asks() -> bool:
            nonlocal asked
            asked += 1
            if asked == 2 and ranks.rank == ranks.world - 1:
                request._handle(15, None)
            return request()

        outcome = fit(ranks, SMALL, stop=asks)["outcome"]
    return ranks.everyone((outcome, request.exit_code))


class Breaking(nn.Module):
    """The identity until `armed`; then infinite, or with infinite gradients, on the last process alone."""

    def __init__(self, ranks: Ranks, direction: str) -> None:
        super().__init__()
        self.last, self.direction, self.armed = ranks.rank == ranks.world - 1, direction, False

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


def broken(ranks: Ranks, direction: str, folder: Path) -> dict[str, Any]:
    """Step 1 of 3, in its second micro-batch, is left out; batch norms spread the infinities to all."""
    learner, config = make(ranks, SMALL, on_nonfinite="skip")
    layer = Breaking(ranks, direction)
    learner.model.trunk.p4_0.a.act = layer
    joined = [joined_batch(seed, images) for seed, images in enumerate((4, 3, 3, 2, 3, 4))]

    def arm(module: nn.Module, args: tuple[torch.Tensor]) -> None:
        own = share_of(joined[3], ranks).images
        layer.armed = args[0].shape[0] == len(own) and torch.equal(args[0], learner.images(own))

    handle = learner.model.register_forward_pre_hook(arm)
    rows: list[dict[str, float]] = []
    failures: list[Failure] = []
    names = tuple(
        Item(Path(f"{i}.png"), np.empty(0, np.int64), np.empty((0, 4), np.float32)) for i in range(4)
    )
    keep = FailureFile(
        folder, Dataset("mine", NAMES, {"train": names}, (), "f"), {}, learner.where, lambda _: None, ranks
    )

    def failed(failure: Failure) -> None:
        failures.append(failure)
        keep(failure)

    outcome = train(
        learner,
        DetectionLoss(learner.model, config, 1, ranks),
        [share_of(batch, ranks) for batch in joined],
        Plan(3, 3, 2, 1, None),
        config,
        GradientRecorder(learner.model.trunk_points(), ranks),
        lambda row: rows.append({k: v for k, v in row.items() if k != "time/step_ms"}),
        lambda: False,
        failed=failed,
    )
    handle.remove()
    (failure,) = failures
    assert failure.culprit is not None
    said = (failure.culprit.where, failure.culprit.micro_batch, failure.indices)
    end = (outcome.status, learner.step, learner.skipped, [row.get("train/skipped") for row in rows])
    return {
        "everyone": ranks.everyone((end, said)),
        "weights": [p.detach() for p in learner.model.parameters()],
        "statistics": [b.detach() for b in learner.model.buffers()],
    }


def overflow(ranks: Ranks) -> list[str]:
    """Gradients that are finite on each process, and not in their sum."""
    model = nn.Linear(1, 1, bias=False)
    found = first_culprit(model, (model(torch.full((1, 1), 3e38)).sum() for _ in range(1)), ranks)
    return ranks.everyone(str(found))


def everything(ranks: Ranks, folder: Path) -> dict[str, Any]:
    torch.set_num_threads(1)
    v8 = {"pretrained": "yolov8n.yaml"}
    return {
        "plain": fit(ranks, SMALL | {"norm": "none"}),
        "batch norm": fit(ranks, SMALL),
        "own statistics": ranks.everyone(fit(ranks, SMALL, sync_norms=False)["statistics"]),
        "yolov8": fit(ranks, v8, sizes=(3, 1), freeze_norms=True),
        "yolo26": fit(ranks, {"pretrained": "yolo26n.yaml"}, sizes=(3, 1), freeze_norms=True),
        "ledger": ledger(ranks),
        "norm": norm(ranks),
        "evaluation": evaluation(ranks),
        "error": error(ranks),
        "stop": stop(ranks),
        "broken forward": broken(ranks, "forward", folder / f"forward{ranks.world}"),
        "broken backward": broken(ranks, "backward", folder / f"backward{ranks.world}"),
        "overflow": overflow(ranks),
    }


if __name__ == "__main__":
    with join(Launch.from_environment(), timeout=120) as processes:
        found = everything(processes, Path(sys.argv[1]).parent)
        if processes.first:
            torch.save(found, sys.argv[1])
