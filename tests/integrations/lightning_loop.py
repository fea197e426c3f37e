"""A small module and Lightning's own trainer, which take three seconds to import."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytorch_lightning as lightning
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from detector.integrations.lightning import WatchGradients

DATA = TensorDataset(torch.randn(16, 4, generator=torch.Generator().manual_seed(0)))


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 6), nn.Tanh(), nn.Linear(6, 2))


class Module(lightning.LightningModule):
    def __init__(self, fail_at: int | None = None) -> None:
        super().__init__()
        self.net, self.fail_at = network(), fail_at

    def training_step(self, batch: list[Tensor], index: int) -> Tensor:
        if self.global_step == self.fail_at:
            raise ZeroDivisionError
        return self.net(batch[0]).square().mean()

    def validation_step(self, batch: list[Tensor], index: int) -> None:
        self.log("val/mAP50-95", 0.125 * (1 + self.current_epoch))

    def configure_optimizers(self) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.parameters(), lr=0.1, momentum=0.9)


def fit(
    folder: Path, *callbacks: WatchGradients, module: Module | None = None, logger: Any = False
) -> Module:
    """Two epochs of two steps of two batches of four, clipped."""
    module = module or Module()
    trainer = lightning.Trainer(
        max_epochs=2, accelerator="cpu", callbacks=list(callbacks), logger=logger, default_root_dir=folder,
        accumulate_grad_batches=2, gradient_clip_val=0.01, log_every_n_steps=1, enable_checkpointing=False,
        enable_progress_bar=False, enable_model_summary=False,
    )  # fmt: skip
    trainer.fit(module, DataLoader(DATA, 4), DataLoader(DATA, 8))
    return module
