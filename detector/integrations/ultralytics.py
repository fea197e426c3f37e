"""The gradients of a network in ultralytics' own trainer.

from ultralytics import YOLO
from detector.integrations.ultralytics import attach

model = attach(YOLO("yolo26n.yaml"))
model.train(data="coco8.yaml", epochs=100)
"""

from __future__ import annotations

import inspect
from importlib.metadata import version
from pathlib import Path
from typing import Any, TypeVar

from detector.errors import UserError, say
from detector.integrations.layers import Layers
from detector.integrations.watch import GradientFlow
from detector.rows import Key
from detector.runtime.files import new_folder
from detector.runtime.ultralytics_import import import_ultralytics

FOLDER = "gradients"  # in the trainer's own folder
THEIR_METRICS = {"metrics/mAP50-95(B)": Key.VAL_MAP, "metrics/mAP50(B)": Key.VAL_MAP50}
_NEEDED = "scaler", "optimizer", "model", "args", "epoch", "save_dir"

Model = TypeVar("Model")


def attach(model: Model, *to: object, every: int = 10, layers: Layers = "layers") -> Model:
    """Record every layer's gradient when this `YOLO` is trained: call it before `.train(…)`.

    Gradients are measured unscaled and not yet clipped. The curves go beside ultralytics' mAP into the W&B
    run and the TensorBoard folder that it opens, if its settings say so, and in any case with the mAP into
    a run directory, `gradients` in its folder, for `detector compare`. The weights come out the same.

    Args:
        model: `ultralytics.YOLO(…)`, or another of its models that are trained by its trainer.
        to: where rows go besides, as for `detector.watch`.
        every: optimizer steps between recorded ones. The first one of every epoch is recorded too.
        layers: by default the backbone; see `detector.integrations.layers.choose_layers`.

    Returns:
        The model.

    Raises:
        UserError: it is no such model, or this version of ultralytics has another trainer.
    """
    add: Any = getattr(model, "add_callback", None)
    if add is None:
        raise UserError(
            f"attach: {type(model).__name__} is not a model of ultralytics, such as YOLO('yolo26n.yaml')"
        )
    watcher = _Watcher(to, every, layers)
    add("on_train_batch_start", watcher.on_train_batch_start)
    add("on_train_epoch_start", watcher.on_train_epoch_start)
    add("on_fit_epoch_end", watcher.on_fit_epoch_end)
    add("on_train_end", watcher.on_train_end)
    add("teardown", watcher.teardown)
    return model


class _Watcher:
    """The callbacks. On several GPUs each process has a copy, and the first one records."""

    def __init__(self, to: tuple[object, ...], every: int, layers: Layers) -> None:
        self.to, self.every, self.layers = to, every, layers
        self.flow: GradientFlow | None = None
        self._epoch = 0  # in progress
        self._restarts: tuple[int, int] = 0, 0

    def on_train_batch_start(self, trainer: Any) -> None:
        """Before the first batch: the W&B run is open, and copies of the model have been made."""
        if self.flow is None and _rank() in (-1, 0):
            self._begin(trainer)

    def on_train_epoch_start(self, trainer: Any) -> None:
        """A trainer that ran out of memory, or met a NaN, begins the epoch anew."""
        self._epoch = trainer.epoch
        if self.flow is None:
            return
        self.flow.soon()
        restarts = trainer.batch_size, getattr(trainer, "nan_recovery_attempts", 0)
        if restarts[0] != self._restarts[0] or restarts[1] > self._restarts[1]:
            self.flow.cancel()
        self._restarts = restarts

    def on_fit_epoch_end(self, trainer: Any) -> None:
        """Put the epoch's mAP beside the gradients."""
        if self.flow is not None and trainer.epoch == self._epoch:  # else it is best.pt's, after the last one
            found = {
                ours: trainer.metrics[key] for key, ours in THEIR_METRICS.items() if key in trainer.metrics
            }
            self.flow.log({Key.EPOCH: int(trainer.epoch), **found})

    def on_train_end(self, trainer: Any) -> None:
        """Before the W&B run is closed."""
        self._end(trainer, "finished")

    def teardown(self, trainer: Any) -> None:
        """However training ended."""
        self._end(trainer, "stopped")

    def _begin(self, trainer: Any) -> None:
        _check(trainer)
        folder = Path(trainer.save_dir) / FOLDER
        if folder.exists():  # a training that is resumed
            folder = new_folder(None, str(folder), "attach")
        args = trainer.args
        settings = {
            "run.name": Path(str(args.name)).name,
            "train.seed": int(args.seed),
            "data.path": Path(str(args.data)).stem,
            "data.image_size": int(args.imgsz),
            "train.epochs": int(args.epochs),
            "train.batch": int(trainer.batch_size),
            "model.pretrained": str(args.model),
            "watch.optimizer": type(trainer.optimizer).__name__,
        }
        sinks = [folder, *_wandb_run(), *_tensorboard_writer(), *self.to]
        self.flow = flow = GradientFlow(
            trainer.model, *sinks, every=self.every, layers=self.layers, settings=settings
        )
        self._restarts = trainer.batch_size, getattr(trainer, "nan_recovery_attempts", 0)
        step = trainer.optimizer_step

        def optimizer_step() -> None:
            """Record, then unscale, clip and step as they do."""
            if flow.step(sum(trainer.loss_items.values()), scaler=trainer.scaler):
                flow.log({Key.EPOCH: int(trainer.epoch), Key.LR: trainer.optimizer.param_groups[0]["lr"]})
            step()

        trainer.optimizer_step = optimizer_step  # of this trainer alone, until it ends

    def _end(self, trainer: Any, status: Any) -> None:
        flow, self.flow = self.flow, None
        if flow is None:
            return
        trainer.__dict__.pop("optimizer_step", None)
        summary = flow.finish(status=status)
        if (index := summary.get(Key.VANISHING_INDEX)) is not None:
            first = summary[Key.VANISHING_INDEX + Key.INIT]
            before = "" if first is None else f"{first:+.2f} decades at the start, "
            say(f"gradients: V {before}{index:+.2f} late, {summary[Key.VERDICT]}; {flow.runs[0]}")


def _check(trainer: Any) -> None:
    """Raise unless this is the trainer that is known here."""
    missing = [name for name in _NEEDED if not hasattr(trainer, name)]
    try:
        inspect.signature(trainer.optimizer_step).bind()
    except (AttributeError, TypeError):
        missing.append("optimizer_step()")
    if missing:
        raise UserError(
            f"attach: {type(trainer).__name__} of ultralytics {version('ultralytics')} has no "
            f"{', '.join(missing)}: this trainer is not supported; detector.watch works in a loop of your own"
        )


def _rank() -> int:
    return int(import_ultralytics("utils").RANK)


def _wandb_run() -> list[Any]:
    """The run that their callback opened, or the user before them."""
    if import_ultralytics("utils").SETTINGS.get("wandb") is not True:
        return []
    import wandb

    return [wandb.run] if wandb.run is not None else []


def _tensorboard_writer() -> list[Any]:
    """The one that their callback opened."""
    if import_ultralytics("utils").SETTINGS.get("tensorboard") is not True:
        return []
    writer = getattr(import_ultralytics("utils.callbacks.tensorboard"), "WRITER", None)
    return [writer] if writer is not None else []
