"""Pictures of an evaluation: confusion matrix, precision against recall, F1 against confidence."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from detector.loggers.plots import Array, figure
from detector.tools.val.evaluation import (
    CONFIDENCES,
    CONFUSION_CONFIDENCE,
    CONFUSION_IOU,
    IOU,
    RECALLS,
    Report,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_NAMED = 10  # classes with a colour and a place in the legend; more are thin grey lines
_COUNTED = 25  # classes up to which the cells of the confusion matrix hold numbers
_LABELLED = 60  # and up to which rows and columns are named
_LONGEST = 20  # characters of a class name


def write_evaluation_plots(report: Report, title: str, directory: Path) -> list[Path]:
    """Draw `confusion_matrix.png`, `pr_curve.png` and `f1_curve.png` into an existing folder.

    Returns:
        The files written. Raises OSError if one could not be.
    """
    figures = {
        "confusion_matrix.png": _confusion(report, title),
        "pr_curve.png": _precision_recall(report, title),
        "f1_curve.png": _f1(report, title),
    }
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing")  # the font has no Chinese: boxes are drawn
        for name, made in figures.items():
            made.savefig(directory / name, dpi=120)
    return [directory / name for name in figures]


def _confusion(report: Report, title: str) -> Figure:
    """Rows are true classes, columns predicted ones; the colour is the share of the row."""
    from matplotlib import colormaps

    counts = report.confusion
    size = len(counts)
    names = [_short(row.name) for row in report.classes] + ["background"]
    side = min(max(5.0, 2.5 + 0.45 * size), 16.0)
    made, (axis,) = figure(_literal(f"Confusion matrix: {title}"), (side + 1, side))
    axis.grid(False)
    axis.spines[:].set_visible(True)
    share = counts / np.maximum(counts.sum(1, keepdims=True), 1)
    picture = axis.imshow(share, cmap=colormaps["Blues"], vmin=0, vmax=1)
    made.colorbar(picture, ax=axis, shrink=0.8, label="share of the row")
    if size - 1 <= _COUNTED:
        for row, column in zip(*np.nonzero(counts), strict=True):
            text = f"{counts[row, column]:,}"
            if size <= _NAMED:
                text += f"\n{share[row, column]:.2f}"
            color = "white" if share[row, column] > 0.55 else "black"
            axis.text(column, row, text, ha="center", va="center", color=color, fontsize=9)
    if size - 1 <= _LABELLED:
        small = 9 if size <= _COUNTED else 7
        axis.set_xticks(range(size), names, rotation=60, ha="right", rotation_mode="anchor", fontsize=small)
        axis.set_yticks(range(size), names, fontsize=small)
    axis.set_xlabel("predicted (background: objects that were missed)")
    axis.set_ylabel("true (background: detections of nothing)")
    axis.set_title(f"IoU ≥ {CONFUSION_IOU}, confidence ≥ {CONFUSION_CONFIDENCE}", fontsize=9, loc="left")
    return made


def _precision_recall(report: Report, title: str) -> Figure:
    made, (axis,) = figure(_literal(f"Precision and recall: {title}"), (8, 5.2))
    labels = [f"{_short(row.name)}: AP50 {row.ap50:.3f}" for row in report.classes]
    _lines(axis, RECALLS, report.precision, labels, f"mAP50 {report.metrics['mAP50']:.3f}")
    axis.set_xlabel("recall")
    axis.set_ylabel("precision")
    axis.set_title(f"IoU ≥ {IOU}; interpolated as COCO does: the area below is AP50", fontsize=9, loc="left")
    return made


def _f1(report: Report, title: str) -> Figure:
    made, (axis,) = figure(_literal(f"F1 against confidence: {title}"), (8, 5.2))
    labels = [_best(_short(row.name), f1) for row, f1 in zip(report.classes, report.f1, strict=True)]
    best = f"mean: best {report.mean.f1:.3f} at {report.confidence:.3f}"
    _lines(axis, CONFIDENCES, report.f1, labels, best)
    axis.axvline(report.confidence, color="black", linewidth=0.8, linestyle=":")
    axis.set_xlabel("lowest confidence that counts")
    axis.set_ylabel("F1")
    axis.set_title(f"IoU ≥ {IOU}", fontsize=9, loc="left")
    return made


def _best(name: str, f1: Array) -> str:
    if np.isnan(f1).all():
        return name
    if not np.nanmax(f1):
        return f"{name}: never found"
    return f"{name}: best {np.nanmax(f1):.3f} at {CONFIDENCES[int(np.nanargmax(f1))]:.3f}"


def _lines(axis: Axes, x: Array, values: Array, labels: list[str], mean: str) -> None:
    """One line for each class that has labels, and a wide one for their mean."""
    present = [row for row in range(len(values)) if not np.isnan(values[row]).any()]
    for row in present:
        if len(present) <= _NAMED:
            axis.plot(x, values[row], linewidth=1.3, label=_literal(labels[row]))
        else:
            axis.plot(x, values[row], linewidth=0.6, color="0.75")
    if present:
        axis.plot(x, values[present].mean(0), linewidth=2.4, color="black", label=mean)
        axis.legend(fontsize=8, frameon=False, loc="center left", bbox_to_anchor=(1.0, 0.5))
    axis.set_xlim(-0.01, 1.01)
    axis.set_ylim(-0.02, 1.03)


def _short(name: str) -> str:
    name = name if len(name) <= _LONGEST else name[: _LONGEST - 1] + "…"
    return _literal(name)


def _literal(text: str) -> str:
    """A class called $x$ is not mathematics, and a legend leaves out what begins with an underscore."""
    text = text.replace("\\$", "$").replace("$", "\\$")
    return f" {text}" if text.startswith("_") else text
