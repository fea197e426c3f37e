"""The pictures of README and docs, drawn from the runs that `ablations.py` and `why.py` measured."""

from __future__ import annotations

from collections.abc import Callable, Mapping
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
# The README's: forward pass and gradient curve, of the baseline or of the ablation, crossed.
CROSSED = {
    "baseline": ("baseline", "#009E73"),
    "sufficiency": ("baseline with\n{}'s\ngradient curve", "#56B4E9"),
    "necessity": ("{} with\nthe baseline's\ngradient curve", "#E69F00"),
    "trunk": ("{}", "#D55E00"),
}

History = list[dict[str, Any]]


def draw(runs: Path, docs: Path) -> list[Path]:
    """Write the pictures to `docs`; return their paths."""
    docs.mkdir(exist_ok=True)
    histories = {name: load(runs, name) for name in SHOWN}
    written = [docs / "gradient_depth.png", docs / "gradient_training.png"]
    depth_picture({k: v for k, v in histories.items() if v}).savefig(written[0], dpi=110)
    training_picture({k: v for k, v in histories.items() if v}).savefig(written[1], dpi=110)
    return written


def photograph(run: Path, picture: Path) -> None:
    """What a run predicted on the validation images, as a small JPEG; nothing where it drew none."""
    predictions = cv2.imread(str(run / "plots" / "predictions_val.png"))
    if predictions is not None:
        cv2.imwrite(str(picture), predictions, [cv2.IMWRITE_JPEG_QUALITY, 85])


def crossed(answer: Mapping[str, Any]) -> Figure:
    """What comes back beside what is learnt, of an answer of `detector why`: 2 forward passes x 2 curves.

    Lines of one curve lie on each other, and differ in what they lead to. Few, large words: for phones too.
    """
    outcomes = answer["outcomes"]
    cells = {role: outcomes[role if role in outcomes else "ablation"] for role in CROSSED}
    seeds = sorted(set.intersection(*(set(cell) for cell in cells.values())))
    figure = Figure(figsize=(6.2, 3.7), layout="constrained")
    left, right = figure.subplots(1, 2)
    for at, (role, cell) in enumerate(cells.items()):
        colour = CROSSED[role][1]
        curves = np.array([list(cell[seed]["curve"].values()) for seed in seeds])  # (seeds, layers)
        style = "--" if role in ("sufficiency", "necessity") else "-"
        left.plot(np.median(curves, axis=0), style, color=colour, linewidth=3, zorder=2 + (style == "--"))
        losses = np.array([cell[seed]["loss"] for seed in seeds])
        right.plot(losses, np.full(len(losses), at), "o", color=colour, alpha=0.5)
        right.plot(losses.mean(), at, "|", color=colour, markersize=26, markeredgewidth=3)
        score = float(np.mean([cell[seed]["metric"] for seed in seeds]))
        right.text(1.03, at, f"{score:.2f}", transform=right.get_yaxis_transform(), color=colour,
                   fontsize=12, va="center", weight="bold")  # fmt: skip
    left.set_yscale("log")
    left.set_title("what comes back", fontsize=13)
    left.set_ylabel("gradient, relative to the last block", fontsize=11)
    left.set_xlabel("trunk block, image (0) → head", fontsize=10)
    left.grid(alpha=0.25)
    right.set_yticks(range(len(cells)), [text.format(answer["ablation"]) for text, _ in CROSSED.values()])
    for label, (_, colour) in zip(right.get_yticklabels(), CROSSED.values(), strict=True):
        label.set(color=colour, fontsize=10, weight="bold")
    right.set_ylim(len(cells) - 0.5, -0.5)
    right.set_title("what is learnt", fontsize=13)
    right.text(1.02, 1.02, "val mAP", transform=right.transAxes, fontsize=9)
    right.set_xlabel(f"training loss at the end ({len(seeds)} seeds)", fontsize=10)
    right.grid(alpha=0.25, axis="x")
    return figure


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
