"""What `detector val` leaves behind and shows: JSON, CSV, COCO files and a table for the terminal."""

from __future__ import annotations

import csv
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from detector.errors import for_spreadsheet
from detector.tools.val.evaluation import CONFUSION_CONFIDENCE, CONFUSION_IOU, IOU, ClassResult, Report
from detector.training.metrics import Prediction, Truth, to_coco

if TYPE_CHECKING:
    from rich.console import Console

WORST = 9  # images shown
_COLUMNS = "class", "images", "boxes", "precision", "recall", "f1", "AP50", "AP50-95"  # of `ClassResult`


@dataclass(frozen=True)
class Setting:
    """What was evaluated, on what, and how."""

    checkpoint: Path
    name: str  # of the checkpoint, for people
    step: int | None
    data: Path
    dataset: str
    split: str
    files: tuple[str, ...]  # the images' names, in the split's order
    image_size: int
    batch: int
    precision: str
    fast: bool  # padding left out and norms folded
    device: str  # in words
    threads: int
    seconds: Mapping[str, float]  # load, forward, postprocess; total

    @property
    def title(self) -> str:
        """For a picture or the first line of the table."""
        return f"{self.name} on {self.dataset} {self.split}"

    @property
    def speed(self) -> dict[str, float]:
        """Milliseconds an image in each phase."""
        images = max(len(self.files), 1)
        return {phase: 1000 * spent / images for phase, spent in self.seconds.items() if phase != "total"}


def document(
    report: Report, setting: Setting, notes: Sequence[str], provenance: Mapping[str, object]
) -> dict[str, Any]:
    """Everything but the curves, as plain data for JSON: NaN becomes null when it is written."""
    mean = report.mean
    return {
        "checkpoint": str(setting.checkpoint),
        "step": setting.step,
        "data": str(setting.data),
        "split": setting.split,
        "images": len(setting.files),
        "boxes": mean.boxes,
        "image_size": setting.image_size,
        "metrics": report.metrics,
        "best_f1": {
            "confidence": report.confidence,
            "iou": IOU,
            **{key: getattr(mean, key) for key in ("precision", "recall", "f1")},
        },
        "classes": [_row(row) for row in report.classes],
        "confusion": {
            "iou": CONFUSION_IOU,
            "confidence": CONFUSION_CONFIDENCE,
            "names": [*(row.name for row in report.classes), "background"],
            "true_by_predicted": report.confusion.tolist(),
        },
        "worst": [
            {"image": setting.files[errors.image], "missed": errors.missed, "false": errors.false}
            for errors in report.worst(WORST)
        ],
        "speed": {
            "device": setting.device,
            "threads": setting.threads,
            "batch": setting.batch,
            "precision": setting.precision,
            "fast": setting.fast,
            "ms_per_image": setting.speed,
            "seconds": setting.seconds["total"],
        },
        "notes": list(notes),
        **{key: provenance[key] for key in ("versions", "commit", "command")},
    }


def write_files(
    directory: Path,
    content: Mapping[str, Any],
    report: Report,
    setting: Setting,
    truths: Sequence[Truth],
    predictions: Sequence[Prediction],
) -> None:
    """Write `metrics.json`, `per_class.csv`, `predictions.json` and `labels.json` into an existing folder.

    Raises:
        OSError: a file could not be written.
    """
    (directory / "metrics.json").write_bytes(orjson.dumps(content, option=orjson.OPT_INDENT_2))
    with (directory / "per_class.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(_row(report.mean)))
        writer.writeheader()
        for row in (report.mean, *report.classes):
            cells = {key: "" if value != value else value for key, value in _row(row).items()}
            writer.writerow(cells | {"class": for_spreadsheet(row.name)})
    labels, detections = to_coco(truths, predictions, len(report.classes))
    for image, name in zip(labels["images"], setting.files, strict=True):
        image["file_name"] = name
    for category, named in zip(labels["categories"], report.classes, strict=True):
        category["name"] = named.name
    (directory / "labels.json").write_bytes(orjson.dumps(labels))
    (directory / "predictions.json").write_bytes(orjson.dumps(detections))


def print_report(report: Report, setting: Setting, console: Console) -> None:
    """The result as tables that fit into 80 columns."""
    from rich import box
    from rich.markup import escape
    from rich.table import Table

    mean = report.mean

    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    line(f"[bold]{escape(setting.title)}[/]: {len(setting.files):,} images, {mean.boxes:,} boxes, "
         f"{setting.image_size} px, {setting.precision}")  # fmt: skip
    overall = Table(box=box.SIMPLE_HEAD)
    for heading in ("", "50-95", "50", "75", "small", "medium", "large"):
        overall.add_column(heading, justify="right")
    value = report.metrics
    sizes = ("small", "medium", "large")
    precisions = ("mAP50-95", "mAP50", "mAP75", *(f"mAP-{size}" for size in sizes))
    cells = [_shown(value[key]) for key in precisions] if mean.boxes else ["no objects", *[""] * 5]
    overall.add_row("mAP at IoU", *cells)
    overall.add_section()
    overall.add_row("[bold]detections an image[/]", *(f"[bold]{n}[/]" for n in (1, 10, 100)), "", "", "")
    recalls = ("AR1", "AR10", "AR100", *(f"AR-{size}" for size in sizes))
    overall.add_row("recall (AR)", *(_shown(value[key]) for key in recalls))
    console.print(overall)

    classes = Table(box=box.SIMPLE_HEAD)
    classes.add_column("class", max_width=22, no_wrap=True, overflow="ellipsis")
    for heading in ("images", "boxes", "P", "R", "F1", "AP50", "AP50-95"):
        classes.add_column(heading, justify="right")
    shown = [row for row in report.classes if row.boxes]
    for row in (mean, *shown):
        numbers = (row.precision, row.recall, row.f1, row.ap50, row.ap)
        name = f"[bold]{row.name}[/]" if row is mean else escape(row.name)
        classes.add_row(name, f"{row.images:,}", f"{row.boxes:,}", *map(_shown, numbers))
    console.print(classes)
    if absent := len(report.classes) - len(shown):
        line(f"{absent} of {len(report.classes)} classes have no object here and no row above.")
    if mean.boxes:
        line(f"P, R and F1 at confidence {report.confidence:.3f}, where the mean F1 is highest (IoU {IOU}).")
    for errors in report.worst(3):
        name = escape(setting.files[errors.image])
        line(f"most errors: {name}, {errors.missed} missed, {errors.false} false")
    speed, fast = setting.speed, ", fast" if setting.fast else ""
    threads = f"{setting.threads} thread{'s' if setting.threads != 1 else ''}"
    line(f"ms an image: {speed['load']:.1f} load, {speed['forward']:.1f} forward, "
         f"{speed['postprocess']:.1f} post-processing; {setting.seconds['total']:.1f} s in all")  # fmt: skip
    line(f"  on {escape(setting.device)}, {threads}, batch {setting.batch}, {setting.precision}{fast}")


def _row(row: ClassResult) -> dict[str, Any]:
    return dict(zip(_COLUMNS, row, strict=True))


def _shown(value: float) -> str:
    return "–" if math.isnan(value) else f"{value:.3f}"
