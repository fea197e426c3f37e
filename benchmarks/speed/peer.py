"""Ultralytics' own trainer, driven a step at a time, on a copy of the data: it writes beside the labels."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml


def copied_data(source: Path, description: dict[str, Any], folder: Path) -> Path:
    """Copy a dataset into `folder` and write the data YAML with an absolute path, as ultralytics wants it."""
    target = folder / source.name
    shutil.copytree(source, target)
    path = folder / f"{source.name}.yaml"
    path.write_text(yaml.safe_dump({**description, "path": str(target)}), encoding="utf-8")
    return path


def coco8(folder: Path) -> Path:
    """A copy of COCO8 in `folder`; its data YAML."""
    from detector.data.sources import PROJECT, datasets_dir, load_dataset

    load_dataset("datasets/coco8.yaml")  # fetched if need be
    description = yaml.safe_load((PROJECT / "datasets" / "coco8.yaml").read_text(encoding="utf-8"))
    description.pop("source")
    return copied_data(datasets_dir() / "coco8", description, folder)


def trainer(data: Path, folder: Path, **overrides: object) -> Any:
    """A DetectionTrainer that is set up and has not begun; its files go to `folder`."""
    from detector.runtime.ultralytics_import import import_ultralytics

    settings = {"data": str(data), "model": "yolov8n.yaml", "device": "cpu", "workers": 0, "plots": False,
                "project": str(folder), "name": "peer", "exist_ok": True, "verbose": False}  # fmt: skip
    made = import_ultralytics("models.yolo.detect").DetectionTrainer(overrides={**settings, **overrides})
    made._setup_train()
    return made


def stepper(data: Path, folder: Path, **overrides: object) -> Callable[[], None]:
    """One training step on one and the same batch, as its trainer does it.

    Preparing the batch, forward, loss, backward, clipping, optimiser and average, in its precision on a CPU,
    fp32; without its data loader, progress bar and logging.
    """
    made = trainer(data, folder, **overrides)
    batch = next(iter(made.train_loader))
    made._model_train()

    def step() -> None:
        loss, _ = made.model(made.preprocess_batch(dict(batch)))
        made.scaler.scale(loss.sum()).backward()
        made.optimizer_step()

    return step
