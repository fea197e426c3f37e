"""The README's pictures, drawn from the runs that `ablations.py` measured."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from detector.analysis.diagnosis import activation_norms, late_rows
from detector.gradients.indices import FLOOR, limits
from detector.rundir import RunDir

# The five that tell the story, in colours that a colour-blind reader can tell apart (Okabe & Ito).
SHOWN = {
    "baseline": "#009E73",
    "no_residual": "#E69F00",
    "no_batchnorm": "#56B4E9",
    "plain_silu": "#CC79A7",
    "plain_sigmoid": "#D55E00",
}
LABELS = {
    "plain_silu": "plain_silu (no shortcut, no BN)",
    "plain_sigmoid": "plain_sigmoid (the same, sigmoid)",
}

History = list[dict[str, Any]]


def draw(runs: Path, docs: Path) -> list[Path]:
    """Write the pictures to `docs`; return their paths."""
    docs.mkdir(exist_ok=True)
    histories = {name: load(runs, name) for name in SHOWN}
    written = [docs / "gradient_depth.png", docs / "gradient_training.png"]
    depth_picture({k: v for k, v in histories.items() if v}).savefig(written[0], dpi=110)
    training_picture({k: v for k, v in histories.items() if v}).savefig(written[1], dpi=110)
    predictions = cv2.imread(str(runs / "shapes-baseline-s0" / "plots" / "predictions_val.png"))
    if predictions is not None:
        written.append(docs / "shapes_predictions.jpg")
        cv2.imwrite(str(written[-1]), predictions, [cv2.IMWRITE_JPEG_QUALITY, 85])
    return written


def load(runs: Path, ablation: str) -> list[History]:
    """The histories of an ablation's COCO8 runs, one a seed."""
    return [
        RunDir(history.parent).read_history()
        for history in sorted(runs.glob(f"coco8-{ablation}-s*/history.jsonl"))
    ]


def depth_picture(histories: dict[str, list[History]]) -> Figure:
    """Gradient against depth, relative to the trunk's last block: at initialisation, and late in training."""
    figure = Figure(figsize=(11, 4.6), layout="constrained")
    left, right = figure.subplots(1, 2, sharey=True)
    moments: list[tuple[Axes, str, Callable[[History], History]]] = [
        (left, "at initialisation", lambda history: history[:1]),
        (right, "late in training (the last third)", lambda history: list(late_rows(history, 10**9))),
    ]
    for axes, title, rows_of in moments:
        for name, seeds in histories.items():
            profiles = np.array([profile(rows_of(history)) for history in seeds])  # (seeds, blocks)
            band(axes, np.arange(profiles.shape[1]), 10**profiles, name)
        axes.set_yscale("log")
        axes.set_title(title)
        axes.set_xlabel("trunk block, from the image (0) to the head")
        axes.axhline(1, color="black", linewidth=0.8, linestyle=":")
        axes.grid(alpha=0.25)
    left.set_ylabel("‖dL/d activation‖ relative to the last block")
    left.legend(fontsize=8, loc="lower right")
    figure.suptitle("COCO8, 256 px: a gradient flows from right to left. Median and range over the seeds")
    return figure


def profile(rows: History) -> np.ndarray[Any, Any]:
    """log10 of each block's activation gradient over the last block's, the median over the rows."""
    norms = np.array([activation_norms(row) for row in rows])
    logs = np.log10(np.maximum(norms, FLOOR))
    medians: np.ndarray[Any, Any] = np.median(logs - logs[:, -1:], axis=0)
    return medians


def training_picture(histories: dict[str, list[History]]) -> Figure:
    """The vanishing index and the loss over the steps."""
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, key in ((left, "gradient/vanishing_index"), (right, "train/loss")):
        for name, seeds in histories.items():
            steps = [row["step"] for row in seeds[0]]
            whole = [history for history in seeds if [row["step"] for row in history] == steps]
            band(axes, np.array(steps), np.array([[row[key] for row in h] for h in whole]), name)
        axes.set_xlabel("step")
        axes.grid(alpha=0.25)
    low, high = limits(max(len(activation_norms(h[0])) for seeds in histories.values() for h in seeds))
    for limit in (low, high):
        left.axhline(limit, color="black", linewidth=0.8, linestyle=":")
    last = max(row["step"] for seeds in histories.values() for row in seeds[0])
    left.text(last, high + 0.2, "exploding", fontsize=8, color="dimgrey", ha="right")
    left.text(0, low - 0.6, "vanishing", fontsize=8, color="dimgrey")
    left.set_ylabel("V, decades")
    left.set_title("vanishing index")
    right.set_yscale("log")
    right.set_title("loss (box + class + DFL)")
    left.legend(fontsize=8, loc="center right", bbox_to_anchor=(1, 0.28))
    return figure


def band(axes: Axes, x: Any, curves: Any, name: str) -> None:
    """The median over the first axis as a line, the range as a band."""
    colour = SHOWN[name]
    axes.plot(x, np.median(curves, axis=0), color=colour, linewidth=2, label=LABELS.get(name, name))
    axes.fill_between(x, curves.min(axis=0), curves.max(axis=0), color=colour, alpha=0.2, linewidth=0)
