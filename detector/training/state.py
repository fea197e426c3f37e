"""Everything that changes while a model is trained, and so everything that a checkpoint must hold."""

from __future__ import annotations

import os
import random
from contextlib import AbstractContextManager
from dataclasses import dataclass, field

import numpy as np
import torch
import torch.utils.deterministic
from torch import Tensor

from detector.config.schema import TrainConfig
from detector.errors import UserError
from detector.models.base import DetectionModel
from detector.runtime.ranks import ALONE, Ranks
from detector.runtime.sync_norm import synchronise
from detector.training.optimizer import MovingAverage, build_optimizer

PRECISIONS = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


BatchNorm = torch.nn.modules.batchnorm._BatchNorm


@dataclass
class Learner:
    """A model, what trains it, and how far it has come."""

    model: DetectionModel
    optimizer: torch.optim.Optimizer
    scaler: torch.amp.GradScaler  # only active under fp16, whose small gradients would become zero
    ema: MovingAverage | None
    device: torch.device
    precision: torch.dtype
    channels_last: bool
    frozen_norms: tuple[torch.nn.Module, ...] = ()  # whose running statistics are used, and stay
    ranks: Ranks = ALONE  # the processes that train it together
    own_norms: tuple[BatchNorm, ...] = ()  # that see this process's images only
    step: int = 0  # optimiser steps completed, skipped ones included
    skipped: int = 0  # steps left out because their numbers were not finite
    skipped_in_a_row: int = 0  # just now
    seconds: float = 0.0  # spent in the training loop, evaluations included; a resumed run adds up
    best: tuple[float, ...] = field(default=())  # the best evaluation so far, see `Checkpoints`

    @property
    def where(self) -> str:
        """Device, precision and the number of processes, for a person."""
        many = f", {self.ranks.world} processes" if self.ranks.world > 1 else ""
        return f"{self.device} in {self.precision_name}{many}"

    @property
    def precision_name(self) -> str:
        """`fp32`, `bf16` or `fp16`."""
        return next(name for name, precision in PRECISIONS.items() if precision == self.precision)

    @property
    def evaluated_model(self) -> torch.nn.Module:
        """The weights that are evaluated and predicted with: the average where there is one."""
        return self.model if self.ema is None else self.ema

    def train_mode(self) -> None:
        """Put every layer into training mode, except norms whose statistics are frozen."""
        self.model.train()
        for norm in self.frozen_norms:
            norm.eval()

    def skip(self, config: TrainConfig) -> bool:
        """Leave the present step out, if the configuration allows one more; return whether it was.

        The step counts, so that the order of the data and the schedule go on. Its gradients are not used.
        """
        if config.on_nonfinite != "skip" or self.skipped_in_a_row >= config.max_skipped:
            return False
        self.scaler.update()  # it has seen the infinities, and wants to hear of the step's end
        self.step += 1
        self.skipped += 1
        self.skipped_in_a_row += 1
        return True

    def join_statistics(self) -> None:
        """Where norms are not synchronised, replace their running statistics by the processes' mean.

        They are what is evaluated and saved: every process must have the same.
        """
        buffers = [
            b for norm in self.own_norms for b in (norm.running_mean, norm.running_var) if b is not None
        ]
        self.ranks.add_up(buffers)
        for buffer in buffers:
            buffer /= self.ranks.world

    def autocast(self) -> AbstractContextManager[None]:
        """Run the forward pass in the chosen precision."""
        return autocast(self.device, self.precision)

    def images(self, images: Tensor) -> Tensor:
        """(B, 3, S, S) uint8 -> the same in [0, 1], on the device, in the model's memory format."""
        return to_network(images, self.device, self.channels_last)


def autocast(device: torch.device, precision: torch.dtype) -> AbstractContextManager[None]:
    """Run a forward pass in this precision; with float32 it changes nothing."""
    return torch.autocast(device.type, precision, enabled=precision != torch.float32)


def to_network(images: Tensor, device: torch.device, channels_last: bool) -> Tensor:
    """(B, 3, S, S) uint8 -> the same in [0, 1], on the device, in the model's memory format."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    return images.to(device, non_blocking=True).to(torch.float32, memory_format=layout) / 255


def build_learner(model: DetectionModel, config: TrainConfig, ranks: Ranks = ALONE) -> Learner:
    """Place a model on its device and give it an optimiser; several processes get the first one's weights.

    Raises:
        UserError: the device is not there, or cannot train in this precision.
    """
    device = ranks.agree(lambda: choose_device(device_of(config.device, ranks)))
    if config.precision == "fp16" and device.type != "cuda":
        raise UserError("train.precision=fp16 needs a CUDA GPU; on a CPU use bf16 or fp32")
    if config.norm_momentum is not None:
        for norm in batch_norms(model):
            norm.momentum = config.norm_momentum
    layout = torch.channels_last if config.channels_last else torch.contiguous_format
    model.to(device=device, memory_format=layout)  # type: ignore[call-overload]
    synchronised = ranks.world > 1 and config.sync_norms and not config.freeze_norms
    if ranks.world > 1:
        if device.type == "cuda":
            torch.cuda.set_device(device)  # where NCCL, too, works for this process
        ranks.copy_first(list(model.state_dict().values()))
    if synchronised:
        synchronise(model, ranks, device)
    norms = tuple(batch_norms(model))
    return Learner(
        model=model,
        optimizer=build_optimizer(model, config, model.backbone()),
        # torch's first scale, 65536, overflows in the first steps: the very ones worth recording.
        scaler=torch.amp.GradScaler(device.type, init_scale=1024.0, enabled=config.precision == "fp16"),
        ema=MovingAverage(model, config.ema) if config.ema else None,
        device=device,
        precision=PRECISIONS[choose_precision(config.precision, device)],
        channels_last=config.channels_last,
        frozen_norms=norms if config.freeze_norms else (),
        ranks=ranks,
        own_norms=norms if ranks.world > 1 and not synchronised and not config.freeze_norms else (),
    )


def batch_norms(model: torch.nn.Module) -> list[BatchNorm]:
    """The layers that keep running statistics of what passes through them."""
    return [module for module in model.modules() if isinstance(module, BatchNorm)]


def device_of(name: str, ranks: Ranks) -> str:
    """The device of one of several processes: each has a GPU of its own.

    Raises:
        UserError: one GPU is asked for by number, or there are fewer than processes.
    """
    if ranks.world == 1 or name == "cpu" or not torch.cuda.is_available():
        return name
    if name.startswith("cuda:") and ranks.local_world > 1:
        raise UserError(f"train.device={name}: several processes cannot share a GPU; use train.device=cuda")
    count = torch.cuda.device_count()
    if ranks.local_world > count:
        raise UserError(
            f"{ranks.local_world} processes for {count} GPUs: start torchrun with --nproc-per-node {count}"
        )
    return name if name.startswith("cuda:") else f"cuda:{ranks.local_rank}"


def choose_device(name: str, setting: str = "train.device=") -> torch.device:
    """`auto` is the first CUDA GPU where there is one, else the CPU.

    Args:
        name: auto, cpu, cuda or cuda:N.
        setting: what the user wrote before the name, for the error.

    Raises:
        UserError: the device is not there.
    """
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"{setting}{name} cannot be used ({reason}); try auto or cpu") from error
    return device


def choose_precision(name: str, device: torch.device) -> str:
    """`auto` is bf16 where the hardware multiplies in it, else fp32."""
    if name != "auto":
        return name
    if device.type == "cuda":
        fast = torch.cuda.get_device_capability(device) >= (8, 0)  # Ampere; before, bf16 is emulated
    else:
        fast = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return "bf16" if fast else "fp32"


def seed_everything(seed: int) -> None:
    """Fix every generator, and ask for deterministic kernels: the same command gives the same history."""
    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  for libraries that draw from it
    torch.manual_seed(seed)
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # what cuBLAS needs to be deterministic
    torch.backends.cudnn.benchmark = False
    # A few CUDA kernels have no deterministic form: they warn instead of stopping the run. (What sets this
    # under its other name, use_deterministic_algorithms, also imports the compiler, which takes a second.)
    torch.set_deterministic_debug_mode("warn")
    # That would also fill every new tensor with NaN, to expose code that reads what it has not written: on a
    # CPU a tenth of a step's time. What is computed is the same.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
