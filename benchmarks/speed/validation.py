"""Validation of one and the same trained yolov8n on BCCD's val split, by both sides."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from benchmarks.speed import peer
from benchmarks.speed.row import Row, in_turns
from benchmarks.speed.step import has_bf16

SIZE, BATCH, EPOCHS, ROUNDS = 320, 16, 8, 8
OURS = {"fast": (True, "fp32"), "plain": (False, "fp32"), "bf16": (True, "bf16")}  # padding trimmed, in
COMMANDS = {
    "fast": "`detector val --fast`, fp32",
    "plain": "`detector val`, fp32",
    "bf16": "`detector val --fast --precision auto`, which is bf16",
}
TARGETS = {"fast": 0.75, "plain": 1.0, "bf16": 0.6}


def trained(data: Path, folder: Path) -> Path:
    """Train for a few epochs: enough for detections to sort and to score."""
    from detector.data.sources import PROJECT

    run = folder / "run"
    settings = {"data.path": data, "data.image_size": SIZE, "train.epochs": EPOCHS,
                "train.eval_every": "null", "train.threads": 1, "train.device": "cpu",
                "tracking.wandb": "disabled", "tracking.plots": "false", "run.dir": run}  # fmt: skip
    overrides = [f"{key}={value}" for key, value in settings.items()]
    command = [sys.executable, "train.py", "--config", "configs/from_scratch.yaml", *overrides]
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return run / "checkpoints" / "last.pt"


def exported(checkpoint: Path, folder: Path) -> Path:
    """The same weights as a file that ultralytics opens."""
    from detector.data.sources import PROJECT

    out = folder / "theirs.pt"
    command = [sys.executable, "-m", "detector", "export", checkpoint, "--format", "ultralytics",
               "--out", out]  # fmt: skip
    subprocess.run([str(word) for word in command], cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    return out


def our_validation(
    checkpoint: Path, data: Path, *, fast: bool, precision: str
) -> Callable[[], dict[str, float]]:
    """What `detector val` does between reading the labels and writing its tables."""
    import torch

    from detector.config.schema import DataConfig
    from detector.data.loader import Loader
    from detector.data.sources import load_dataset
    from detector.models.build import load_model
    from detector.models.fold import fold_norms
    from detector.runtime.allocator import keep_freed_memory
    from detector.runtime.device import choose_precision
    from detector.tools.val import network
    from detector.training.evaluation import predict_split
    from detector.training.metrics import coco_map

    keep_freed_memory()
    cpu = torch.device("cpu")
    items = load_dataset(str(data), splits=("val",)).splits["val"]
    model = load_model(checkpoint).model.eval()
    forward = network.forward(fold_norms(model), cpu, choose_precision(precision, cpu))

    def validate() -> dict[str, float]:
        loader = Loader(items, DataConfig(image_size=SIZE))  # reads and letterboxes
        truths, found = predict_split(forward, model, loader.eval_batches(batch=BATCH), items, trim=fast)
        return coco_map(truths, found, model.num_classes)

    return validate


def their_validation(weights: Path, data: Path, folder: Path) -> Callable[..., Any]:
    """Their validator as `YOLO(weights).val()` runs it, without plots and its console."""
    from detector.runtime.ultralytics_import import import_ultralytics

    yolo = import_ultralytics("models.yolo.model").YOLO(str(weights))

    def validate(**others: object) -> Any:
        return yolo.val(data=str(data), imgsz=SIZE, batch=BATCH, device="cpu", workers=0, plots=False,
                        verbose=False, project=str(folder), name="val", exist_ok=True, **others)  # fmt: skip

    return validate


def their_map(validate: Callable[..., Any], data: Path, folder: Path) -> float:
    """mAP50-95 of the boxes that they find, by the same official COCO evaluation as ours."""
    from detector.data.images import read_image
    from detector.data.sources import load_dataset
    from detector.training.evaluation import truth_of
    from detector.training.metrics import Prediction, coco_map

    validate(save_json=True)
    found: dict[str, list[dict[str, Any]]] = {}
    for box in json.loads((folder / "val" / "predictions.json").read_text()):
        found.setdefault(box["file_name"], []).append(box)
    dataset = load_dataset(str(data), splits=("val",))
    truths, predictions = [], []
    for item in dataset.splits["val"]:
        height, width, _ = read_image(item.image).shape
        own = found.get(item.image.name, [])
        x, y, w, h = np.array([box["bbox"] for box in own], np.float32).reshape(-1, 4).T
        predictions.append(Prediction(
            np.stack((x, y, x + w, y + h), axis=1),
            np.array([box["score"] for box in own], np.float32),
            np.array([box["category_id"] for box in own], np.int64) - 1,  # they count from 1
        ))  # fmt: skip
        truths.append(truth_of(item, width, height))
    return coco_map(truths, predictions, len(dataset.names))["mAP50-95"]


def measure() -> list[Row]:
    """Whole validations in turns, and the mAP of both by the same official COCO evaluation."""
    from detector.data.sources import datasets_dir

    source = datasets_dir() / "bccd"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = peer.copied_data(source, yaml.safe_load((source / "data.yaml").read_text()), folder)
        checkpoint = trained(data, folder)
        weights = exported(checkpoint, folder)
        ours = {
            name: our_validation(checkpoint, data, fast=fast, precision=precision)
            for name, (fast, precision) in OURS.items()
            if precision != "bf16" or has_bf16()
        }
        theirs = their_validation(weights, data, folder)
        score = their_map(theirs, data, folder)
        maps = {name: validate()["mAP50-95"] for name, validate in ours.items()}
        times = in_turns({**ours, "theirs": theirs}, ROUNDS)
    what = f"validation of 87 images, the same trained yolov8n, {SIZE} px, from files to mAP"
    peer_name = "ultralytics' `val`, fp32"
    return [
        *(
            Row(f"{what}: {COMMANDS[name]}", peer_name, "s", times[name], times["theirs"], TARGETS[name],
                note=f"COCO mAP50-95: {maps[name]:.4f}, theirs {score:.4f}")
            for name in ours
        ),
        Row(f"{what}: the largest difference of mAP50-95", peer_name, "",
            [max(abs(one - score) for one in maps.values())], [], 0.005, absolute=True),
    ]  # fmt: skip
