"""One training step of one and the same network on one and the same kind of batch."""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from itertools import cycle
from pathlib import Path

from benchmarks.speed import peer
from benchmarks.speed.row import Row, in_turns

SIZE, BATCH, STEPS, ROUNDS = 320, 4, 10, 8
KEYS = ["data.path=datasets/coco8.yaml", f"data.image_size={SIZE}", f"train.batch={BATCH}",
        "train.steps=1000000", "gradients.every=1000000", "train.device=cpu"]  # fmt: skip


def our_steps(count: int, *keys: str) -> Callable[[], None]:
    """`count` steps of the engine as configs/from_scratch.yaml has it, on batches that are there already.

    None of them is recorded: what that costs has rows of its own.
    """
    from detector.config.loading import load_config
    from detector.data.loader import Loader
    from detector.data.sources import PROJECT, load_dataset
    from detector.gradients.recorder import GradientRecorder
    from detector.models.build import build_model
    from detector.models.loss import DetectionLoss
    from detector.runtime.allocator import keep_freed_memory
    from detector.runtime.device import choose_device
    from detector.runtime.distributed import SingleProcess
    from detector.runtime.random_state import seed_everything
    from detector.training.callbacks import CallbackList, RecordGradients, StopOnRequest
    from detector.training.engine import train
    from detector.training.nonfinite_guard import NonFiniteGuard
    from detector.training.schedule import Schedule
    from detector.training.state import TrainState

    keep_freed_memory()
    config = load_config(PROJECT / "configs" / "from_scratch.yaml", [*KEYS, *keys]).config
    dataset = load_dataset(config.data.path)
    seed_everything(0)
    model, _ = build_model(config.model, dataset.names)
    state = TrainState.create(model, config.train, choose_device(config.train.device))
    loss_fn, recorder = DetectionLoss(model, config.train), GradientRecorder(model.backbone_layers())
    loader = Loader(dataset.splits["train"], config.data)
    batches = cycle(list(loader.train_batches(batch=BATCH, seed=0, stop=8)))
    schedule, alone = Schedule.from_config(config, batches_per_epoch=1), SingleProcess()
    guard = NonFiniteGuard(state, loss_fn, config.train, alone)
    record = RecordGradients(state, schedule, recorder, config.train)

    def steps() -> None:
        asked = iter(range(count))
        state.should_stop = False
        stop = StopOnRequest(state, lambda: next(asked, None) is None)
        train(
            state, loss_fn, batches, schedule, config.train, CallbackList([stop, record, guard]), guard, alone
        )

    return steps


def has_bf16() -> bool:
    """Whether this CPU multiplies in it, so that `precision: auto` is another thing than fp32."""
    import torch

    from detector.runtime.device import choose_precision

    return choose_precision("auto", torch.device("cpu")) == "bf16"


def measure() -> list[Row]:
    """Steps in blocks, ours and theirs in turns; milliseconds a step. In bf16 only on a CPU that has it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        theirs = peer.stepper(peer.coco8(folder), folder, imgsz=SIZE, batch=BATCH, nbs=BATCH)
        sides: dict[str, Callable[[], object]] = {
            "theirs": lambda: [theirs() for _ in range(STEPS)],
            "fp32": our_steps(STEPS, "train.precision=fp32"),
        }
        if has_bf16():
            sides["bf16"] = our_steps(STEPS, "train.precision=bf16")
        times = {
            side: [1000 * seconds / STEPS for seconds in taken]
            for side, taken in in_turns(sides, ROUNDS).items()
        }
    conditions = f"the same yolov8n, {BATCH} × {SIZE} px"
    fp32 = "ultralytics' trainer, fp32"
    rows = [Row(f"one training step, {conditions}, fp32", fp32, "ms", times["fp32"], times["theirs"], 0.8)]
    if "bf16" in times:
        note = "channels_last, as `configs/from_scratch.yaml`; mAP of both: docs/bccd.json"
        rows.insert(0, Row(f"one training step, {conditions}, ours in bf16", fp32, "ms", times["bf16"],
                           times["theirs"], 165, absolute=True, note=note))  # fmt: skip
    return rows
