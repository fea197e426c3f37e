"""What several topics train: a network on made-up images, step by step as the engine does it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from detector.config.schema import ModelConfig, TrainConfig
from detector.gradients.recorder import GradientRecorder
from detector.models.build import build_model
from detector.models.loss import DetectionLoss
from detector.runtime.device import choose_device
from detector.training.clipping import clip_gradients
from detector.training.state import TrainState

NAMES = [str(number) for number in range(80)]  # as many classes as COCO


@dataclass
class Training:
    """One network in training, on the same images in every step."""

    state: TrainState
    loss_fn: DetectionLoss
    images: Tensor  # (B, 3, S, S) uint8
    targets: dict[str, Tensor]
    recorder: GradientRecorder
    row: dict[str, float] = field(default_factory=dict)  # the last step's record
    loss: Tensor = field(default_factory=lambda: torch.zeros(()))  # of the last step

    def step(self, record: bool = False) -> None:
        """One step as the engine makes it: forward, loss, backward, clip, optimizer."""
        state = self.state
        state.train_mode()
        state.optimizer.zero_grad(set_to_none=True)
        if record:
            self.recorder.begin()
        with state.autocast():
            predictions = state.model(state.preprocess(self.images))
        loss = self.loss_fn(predictions, self.targets)
        self.loss = loss.total.detach()
        state.scaler.scale(loss.total).backward()
        state.scaler.unscale_(state.optimizer)
        self.recorder.gradients(state.scaler.get_scale())
        norm = clip_gradients(state.parameters, 10.0)
        state.scaler.step(state.optimizer)
        state.scaler.update()
        if record:
            self.row = self.recorder.end({"train/loss": loss.parts.sum(), "train/grad_norm": norm})

    def steps(self, count: int, every: int | None = None) -> None:
        """Several, recording one in `every`."""
        for number in range(count):
            self.step(record=every is not None and number % every == 0)
        if self.state.device.type == "cuda":
            torch.cuda.synchronize(self.state.device)


def training(model: ModelConfig, size: int, batch: int, **settings: Any) -> Training:
    """A network from random weights.

    Args:
        model: which.
        size: pixels of the square images.
        batch: how many.
        settings: of `TrainConfig`; by default on the CPU, with a rate so low that nothing diverges.
    """
    torch.manual_seed(0)
    config = TrainConfig(**({"device": "cpu", "lr": 1e-5} | settings))
    state = TrainState.create(build_model(model, NAMES).model, config, choose_device(config.device))
    targets = {name: value.to(state.device) for name, value in boxes(batch).items()}
    return Training(
        state,
        DetectionLoss(state.model, config),
        torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8, device=state.device),
        targets,
        GradientRecorder(state.model.backbone_layers()),
    )


def boxes(batch: int, each: int = 4) -> Mapping[str, Tensor]:
    """Labels in the form that the loss takes: a few boxes an image."""
    count = batch * each
    return {
        "batch_idx": torch.arange(batch).repeat_interleave(each).float(),
        "cls": torch.randint(0, len(NAMES), (count,)).float(),
        "bboxes": torch.cat((torch.rand(count, 2) * 0.5 + 0.25, torch.rand(count, 2) * 0.3 + 0.1), 1),
    }


def pairs(values: list[float], others: list[float]) -> Iterator[float]:
    """The ratio of each round's two measurements."""
    return (value / other for value, other in zip(values, others, strict=True))
