"""The gradients of a `LightningModule`, as a callback of Lightning's trainer.

from detector.integrations.lightning import WatchGradients

trainer = Trainer(callbacks=[WatchGradients("runs/mine")])
"""

from __future__ import annotations

import importlib
import sys
from collections.abc import Mapping
from typing import Any

import torch

from detector.errors import UserError
from detector.integrations.layers import Layers
from detector.integrations.watch import GradientFlow
from detector.loggers.base import Row
from detector.rows import Key


def _lightning() -> Any:
    """Lightning under the name that the user's own code imports it by; either is the same library."""
    names = "lightning.pytorch", "pytorch_lightning"
    for name in sorted(names, key=lambda name: name not in sys.modules):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    raise UserError(
        "detector.integrations.lightning: Lightning is not installed: pip install pytorch-lightning"
    )


class WatchGradients(_lightning().Callback):  # type: ignore[misc]
    """Records every layer's gradient before each step of the optimizer, unscaled and before clipping.

    Rows go to the trainer's loggers (W&B, TensorBoard, CSV, …), and to what else is given. What the module
    logs in validation stands beside them: under `val/mAP50-95`, `detector compare` finds it.

    Args:
        to, every, layers, example, settings, across_ranks: as for `detector.watch`.
        module: the name of the submodule to watch, such as `model`; by default the whole.
    """

    def __init__(
        self,
        *to: object,
        every: int = 10,
        layers: Layers = "layers",
        example: Any = None,
        settings: Mapping[str, Any] | None = None,
        across_ranks: bool = False,
        module: str = "",
    ) -> None:
        super().__init__()
        self.to, self.module = to, module
        self.options: dict[str, Any] = {
            "every": every, "layers": layers, "example": example, "settings": settings,
            "across_ranks": across_ranks,
        }  # fmt: skip
        self.flow: GradientFlow | None = None
        self._losses: list[torch.Tensor] = []

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Before the first batch."""
        start = int(trainer.global_step)

        def to_loggers(row: Row) -> None:
            for logger in trainer.loggers:
                logger.log_metrics(dict(row), step=start + int(row[Key.STEP]))

        try:
            watched = pl_module.get_submodule(self.module)
        except AttributeError:
            raise UserError(f"WatchGradients: module={self.module}: the module has no such part") from None
        self.flow = GradientFlow(watched, *self.to, to_loggers, **self.options)

    def on_before_backward(self, trainer: Any, pl_module: Any, loss: torch.Tensor) -> None:
        """Keep the loss of each micro-batch, which is divided by their number."""
        self._losses.append(loss.detach())

    def on_before_optimizer_step(self, trainer: Any, pl_module: Any, optimizer: Any) -> None:
        """Record: gradients are accumulated, reduced and unscaled; Lightning clips after this."""
        if self.flow is None:
            return
        scaler = getattr(trainer.precision_plugin, "scaler", None)
        losses, self._losses = self._losses, []
        loss = None
        if losses and self.flow.recording:
            loss = torch.stack(losses).sum() / (1.0 if scaler is None else scaler.get_scale())
        if self.flow.step(loss, scaler=scaler, unscaled=True):
            self.flow.log({Key.EPOCH: int(trainer.current_epoch)})

    def on_validation_end(self, trainer: Any, pl_module: Any) -> None:
        """Put what the module has logged beside the gradients."""
        if self.flow is not None and not trainer.sanity_checking:
            found = trainer.callback_metrics
            numbers = {key: value for key, value in found.items() if value.numel() == 1}
            self.flow.log({Key.EPOCH: int(trainer.current_epoch), **numbers})

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Training reached its end."""
        if self.flow is not None:
            self.flow.finish()
            self.flow = None

    def on_exception(self, trainer: Any, pl_module: Any, exception: BaseException) -> None:
        """An error or Ctrl-C ended it."""
        if self.flow is not None:
            self.flow.finish(status="stopped")
            self.flow = None
