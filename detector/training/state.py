"""Everything that changes while a model is trained, and so everything that a checkpoint must hold."""

from __future__ import annotations

from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from detector.config.schema import TrainConfig
from detector.models.base import DetectionModel
from detector.runtime.device import PRECISIONS, autocast, choose_precision, preprocess
from detector.runtime.sync_norm import batch_norms
from detector.training.clipping import trunk_and_rest
from detector.training.optimizer import MovingAverage, build_optimizer


@dataclass
class TrainState:
    """A model, what trains it, and how far it has come."""

    model: DetectionModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # only active under fp16, whose small gradients would become zero
    ema: MovingAverage | None
    device: torch.device
    precision: torch.dtype
    channels_last: bool
    frozen_norms: tuple[nn.Module, ...] = ()  # keep the running statistics that they came with
    unsynced_norm_stats: list[Tensor] = field(default_factory=list)  # see `SingleProcess.prepare_model`
    clip_parts: tuple[list[nn.Parameter], ...] = ()  # clipped apart; none: all together
    step: int = 0  # optimizer steps completed, skipped ones included
    skipped: int = 0  # steps skipped because their numbers were not finite
    skipped_in_a_row: int = 0  # of these, the latest uninterrupted series
    seconds: float = 0.0  # spent in the training loop, evaluations included; a resumed run adds up
    best: tuple[float, ...] = ()  # the best evaluation so far, see `Checkpointing`
    best_step: int = 0  # how many steps were completed at that evaluation; both on the main process alone
    stacked: int = 1  # how many runs, this one included, computed their passes together
    should_stop: bool = False  # a callback asks for training to end before the next step

    @classmethod
    def create(cls, model: DetectionModel, config: TrainConfig, device: torch.device) -> TrainState:
        """Place a model on a device and give it an optimizer.

        Raises:
            UserError: the device cannot train in this precision.
        """
        precision = PRECISIONS[choose_precision(config.precision, device)]
        norms = batch_norms(model)
        if config.norm_momentum is not None:
            for norm in norms:
                norm.momentum = config.norm_momentum
        layout = torch.channels_last if config.channels_last else torch.contiguous_format
        model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
        return cls(
            model=model,
            optimizer=build_optimizer(model, config, model.backbone_modules()),
            # torch's first scale, 65536, overflows in the first steps: the very ones worth recording.
            scaler=torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=config.precision == "fp16"),
            ema=MovingAverage(model, config.ema) if config.ema else None,
            device=device,
            precision=precision,
            channels_last=config.channels_last,
            frozen_norms=tuple(norms) if config.freeze_norms else (),
            clip_parts=trunk_and_rest(model) if config.clip_by == "part" else (),
        )

    @cached_property
    def parameters(self) -> list[nn.Parameter]:
        """The model's, listed once: to go through its modules takes longer than some of a step's parts."""
        return list(self.model.parameters())

    @property
    def precision_name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return next(name for name, precision in PRECISIONS.items() if precision == self.precision)

    @property
    def device_summary(self) -> str:
        """Device and precision, to be printed: `cpu in fp32`."""
        return f"{self.device} in {self.precision_name}"

    @property
    def eval_model(self) -> nn.Module:
        """The weights that are evaluated and predicted with: the average where there is one."""
        return self.model if self.ema is None else self.ema

    def train_mode(self) -> None:
        """Put every layer into training mode, except norms whose statistics are frozen."""
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def autocast(self) -> AbstractContextManager[None]:
        """Run the forward pass in the chosen precision."""
        return autocast(self.device, self.precision)

    def preprocess(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> the same in [0, 1], on the device, in the model's memory format."""
        return preprocess(images, self.device, self.channels_last)

    def finish_step(self) -> None:
        """The optimizer has stepped: update the averaged weights and count the step."""
        if self.ema is not None:
            self.ema.update_parameters(self.model)
        self.step += 1
        self.skipped_in_a_row = 0

    def skip_step(self) -> None:
        """Count a step whose gradients are not used, so that the data's order and the schedule move on."""
        self.scaler.update()  # it has seen the infinities, and must be told that the step is over
        self.step += 1
        self.skipped += 1
        self.skipped_in_a_row += 1
