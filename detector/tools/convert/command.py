"""`detector convert`: Pascal VOC or COCO in, a dataset that `train.py` reads out."""

from __future__ import annotations

import sys
from json import dumps
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from detector.errors import UserError, for_terminal, say

if TYPE_CHECKING:
    from detector.tools.convert.conversion import Report

SHOWN = 20  # notes on the console; conversion.json has all


def convert(
    source: Path,
    destination: Path,
    /,
    *,
    format: Annotated[Literal["voc", "coco"], Parameter(name="--from")],
    images: Path | None = None,
    split: str | None = None,
    seed: int = 0,
    names: str | None = None,
    zero_based: bool = False,
    keep_difficult: bool = False,
    merge: bool = False,
    link: Literal["hard", "sym"] | None = None,
    json: bool = False,
) -> Report:
    """Convert Pascal VOC or COCO annotations to the YOLO format.

    Writes them and the images into a new folder with a data.yaml; the source is not touched.
    Exit code 0: done, and what was clipped or left out is reported; 1: done, but most boxes were lost;
    2: not usable.

    Args:
        source: the folder; for coco also one JSON file.
        destination: a new folder, outside the source.
        format: the source's format.
        images: the folder of the images, if not in the source.
        split: draw train, val (and test) in these parts; default: the source's own splits, else 0.8,0.2.
        seed: of the draw.
        names: cat,dog,…: the classes in the order of their ids; default: by name (voc), category id (coco).
        zero_based: voc: edges count from 0, as by LabelImg, CVAT, Label Studio; default: pixels, from 1.
        keep_difficult: keep objects marked difficult, or iscrowd.
        merge: join the boxes of files that annotate the same images; default: one of them is used.
        link: link to the images instead of copying them.
        json: print the report as JSON.

    Returns:
        What came of each image and box.

    Raises:
        UserError: as `conversion.convert`, or a bad option.
    """
    if zero_based and format != "voc":
        raise UserError("--zero-based is for --from voc; COCO counts from 0 anyway")
    from detector.tools.convert import conversion
    from detector.tools.convert.conversion import Options
    from detector.tools.convert.split import parse_fractions

    options = Options(
        format=format,
        source=source,
        destination=destination,
        images=images,
        fractions=None if split is None else parse_fractions(split),
        seed=seed,
        names=None if names is None else _names(names),
        zero_based=zero_based,
        keep_difficult=keep_difficult,
        merge=merge,
        link=link,
    )
    report = conversion.convert(options, show_progress if sys.stderr.isatty() else conversion.silent)
    text = dumps(report.as_json(), indent=1) if json else _text(report)
    print(text.encode(errors="backslashreplace").decode())  # file names need not be Unicode
    if complaint := report.complaint():
        say(for_terminal(f"error: {complaint}"))
    return report


def show_progress(stage: str, done: int, total: int) -> None:
    """One line of the terminal, written over and over; nothing is left of it."""
    if done == total:
        print(end="\r\x1b[K", file=sys.stderr, flush=True)
    elif done % 50 == 0:
        print(end=f"\r{stage} {done} of {total} images", file=sys.stderr, flush=True)


def _names(text: str) -> tuple[str, ...]:
    names = tuple(name.strip() for name in text.split(","))
    if not all(names) or len(set(names)) < len(names) or not text.isprintable():
        raise UserError(f"--names {text}: write each class once, such as cat,dog")
    return names


def _text(report: Report) -> str:
    """The notes, then a summary: what a person looks for stands last."""
    from detector.errors import display_path, shorten

    lines = [f"{note.kind}: {note}" for note in report.notes[:SHOWN]]
    if len(report.notes) > SHOWN:
        everything = display_path(report.data_yaml.with_name("conversion.json"))
        lines.append(f"and {len(report.notes) - SHOWN} more, in {everything}")
    for split, images in report.images.items():
        lines.append(
            f"{split:5} {_count(images, 'image'):>14} {_count(report.boxes[split], 'box', 'boxes'):>14}"
        )
    classes = ", ".join(shorten(name) for name in report.names[:10]) + (
        ", …" if len(report.names) > 10 else ""
    )
    lines.append(f"{_count(len(report.names), 'class', 'classes')}: {classes}")
    lines.append(
        f"{_count(report.count('clipped'), 'box', 'boxes')} clipped, {report.count('dropped')} dropped, "
        f"{report.difficult} difficult or crowd skipped; {_count(report.count('left out'), 'image')} left out"
    )
    lines.append(
        f"written: {display_path(report.data_yaml)}; next: detector check {display_path(report.data_yaml)}"
    )
    return "\n".join(lines)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
