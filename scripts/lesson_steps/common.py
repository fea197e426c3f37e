"""What the lesson's steps share: images without a download, one pass, a short training, a table, a figure."""

from __future__ import annotations

import os
import statistics
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
import torch
from matplotlib.figure import Figure
from torch import nn

from detector.config.schema import ModelConfig, TrainConfig
from detector.data.batch import Batch
from detector.data.geometry import Letterbox
from detector.data.shapes import NAMES, render_image
from detector.gradients.recorder import GradientRecorder
from detector.models.detector import Detector, build_detector
from detector.models.loss import DetectionLoss

# For tests of the code: what a quick run prints is no result.
QUICK = bool(os.environ.get("LESSON_QUICK"))
SEEDS = (0, 1) if QUICK else (0, 1, 2)
# The four trunks that the lesson keeps coming back to.
TRUNKS: dict[str, dict[str, Any]] = {
    "baseline": {},
    "no_residual": {"shortcut": "none"},
    "no_batchnorm": {"norm": "none"},
    "plain_silu": {"shortcut": "none", "norm": "none"},
    "plain_sigmoid": {"shortcut": "none", "norm": "none", "act": "sigmoid"},
}
# Okabe & Ito's, which a colour-blind reader can tell apart.
COLOURS = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000"


def training_steps(full: int) -> int:
    """As many, or in a quick run two."""
    return 2 if QUICK else full


class Found(NamedTuple):
    """What a step prints, and the picture that it draws."""

    text: str
    figure: Figure


def picture(rows: int = 1, columns: int = 1, height: float = 3.4, **options: Any) -> tuple[Figure, Any]:
    """A figure that can be read on a phone: 800 pixels wide, its words not below 12 points."""
    with mpl.rc_context({"font.size": 12, "legend.fontsize": 11, "axes.titlesize": 12}):
        figure = Figure(figsize=(5, height * rows), dpi=160, layout="constrained")
        axes = figure.subplots(rows, columns, **options)
    for one in np.ravel(axes):
        one.grid(alpha=0.25)
        one.set_prop_cycle(color=COLOURS)
    return figure, axes


def table(heads: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Columns that line up: the first to the left, the others to the right."""
    lines = [list(heads), *(list(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(heads))]
    return "\n".join(
        "  ".join(cell.rjust(width) if i else cell.ljust(width) for i, (cell, width) in enumerate(pairs))
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    )


def spread(values: Sequence[float], digits: int = 2, sign: str = "") -> str:
    """A mean and its standard deviation over seeds."""
    return f"{statistics.fmean(values):{sign}.{digits}f} ± {statistics.stdev(values):.{digits}f}"


@lru_cache
def shapes(images: int = 4, size: int = 128, first: int = 0, split: str = "train") -> Batch:
    """A batch of the built-in shapes set, rendered here."""
    found = [render_image(0, split, first + index, size) for index in range(images)]
    counts = [len(classes) for _, classes, _ in found]
    return Batch(
        images=torch.from_numpy(np.stack([image for image, _, _ in found])).permute(0, 3, 1, 2),
        batch_idx=torch.arange(images, dtype=torch.float32).repeat_interleave(torch.tensor(counts)),
        cls=torch.from_numpy(np.concatenate([classes for _, classes, _ in found])).float(),
        boxes=torch.from_numpy(np.concatenate([boxes for _, _, boxes in found])),
        indices=tuple(range(images)),
        letterboxes=(Letterbox(size, size, size),) * images,
    )


def network(seed: int = 0, **settings: Any) -> Detector:
    """An untrained detector of 41 trunk convolutions, whose trunk alone is changed by the settings."""
    torch.manual_seed(seed)
    return build_detector(ModelConfig(scope="trunk", **settings), len(NAMES)).train()


def backward(model: Detector, batch: Batch, loss: DetectionLoss | None = None) -> torch.Tensor:
    """One forward and one backward pass; the loss, as its mean over the images."""
    loss = loss or DetectionLoss(model, TrainConfig())
    found = loss(model(batch.images.float() / 255), batch.targets())
    found.total.backward()
    return found.parts.sum()


def record(model: Detector, batch: Batch) -> dict[str, float]:
    """Every trunk layer's gradient in one pass."""
    recorder = GradientRecorder(model.backbone_layers(), levels=model.level_ends())
    with recorder:
        backward(model, batch)
    return recorder.measure()


def fit(model: Detector, batch: Batch, steps: int, lr: float, clip: float | None) -> list[float]:
    """Train by SGD with momentum, as the project's baseline is; the loss of each step, inf from a NaN on."""
    optimizer = torch.optim.SGD(model.parameters(), lr, momentum=0.9, nesterov=True)
    loss = DetectionLoss(model, TrainConfig())
    losses: list[float] = []
    for step in range(steps):
        optimizer.zero_grad()
        losses.append(float(backward(model, batch, loss)))
        if not np.isfinite(losses[-1]):
            return losses[:-1] + [float("inf")] * (steps - step)
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        optimizer.step()
    return losses
