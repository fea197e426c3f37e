"""`detector convert`: Pascal VOC or COCO in, a dataset that `train.py` reads out."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from detector.errors import UserError, for_terminal, say

if TYPE_CHECKING:
    from detector.tools.convert.conversion import Report

    Commands = argparse._SubParsersAction[argparse.ArgumentParser]

SHOWN = 20  # notes on the console; conversion.json has all


def add_convert(commands: Commands) -> None:
    """Add the command to `detector`. Imports nothing heavy, for the sake of --help."""
    parser = commands.add_parser(
        "convert",
        help="Pascal VOC or COCO annotations to the YOLO format",
        description="Convert annotations and images into a new folder with a data.yaml; the source is not "
        "touched. Exit code 0: done, and what was clipped or left out is reported; 1: done, but most boxes "
        "were lost; 2: not usable.",
    )
    parser.add_argument(
        "--from", dest="format", required=True, choices=("voc", "coco"), help="the source's format"
    )
    parser.add_argument("source", type=Path, metavar="SRC", help="the folder; for coco also one JSON file")
    parser.add_argument("destination", type=Path, metavar="DST", help="a new folder, outside SRC")
    parser.add_argument("--images", type=Path, metavar="DIR", help="where the images are, if not in SRC")
    parser.add_argument("--split", metavar="A,B[,C]", help="draw train, val (and test) in these parts; "
                        "default: the source's own splits, else 0.8,0.2")  # fmt: skip
    parser.add_argument("--seed", type=int, default=0, metavar="N", help="of the draw")
    parser.add_argument("--names", metavar="A,B,…", help="the classes, in the order of their ids; default: "
                        "sorted by name (voc) or by category id (coco)")  # fmt: skip
    parser.add_argument("--zero-based", action="store_true", help="voc: edges are counted from 0, as by "
                        "LabelImg, CVAT, Label Studio; default: pixels counted from 1")  # fmt: skip
    parser.add_argument(
        "--keep-difficult", action="store_true", help="keep objects marked difficult, or iscrowd"
    )
    parser.add_argument("--merge", action="store_true", help="join the boxes of files that annotate the same "
                        "images; default: one of them is used")  # fmt: skip
    parser.add_argument("--link", choices=("hard", "sym"), help="link to the images instead of copying them")
    parser.add_argument("--json", action="store_true", help="print the report as JSON")
    parser.set_defaults(run=run_convert)


def run_convert(options: argparse.Namespace) -> int:
    """Convert as the command line says, print what came of it, and return the exit code.

    Raises:
        UserError: as `convert`, or a bad option.
    """
    if options.zero_based and options.format != "voc":
        raise UserError("--zero-based is for --from voc; COCO counts from 0 anyway")
    from detector.tools.convert.conversion import Options, convert, silent
    from detector.tools.convert.split import parse_fractions

    report = convert(
        Options(
            format=options.format,
            source=options.source,
            destination=options.destination,
            images=options.images,
            fractions=None if options.split is None else parse_fractions(options.split),
            seed=options.seed,
            names=None if options.names is None else _names(options.names),
            zero_based=options.zero_based,
            keep_difficult=options.keep_difficult,
            merge=options.merge,
            link=options.link,
        ),
        show_progress if sys.stderr.isatty() else silent,
    )
    text = json.dumps(report.as_json(), indent=1) if options.json else _text(report)
    print(text.encode(errors="backslashreplace").decode())  # file names need not be Unicode
    if complaint := report.complaint():
        say(for_terminal(f"error: {complaint}"))
    return int(bool(complaint))


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
    from detector.config.safe_yaml import printable
    from detector.data.data_yaml import shown

    lines = [f"{note.kind}: {note}" for note in report.notes[:SHOWN]]
    if len(report.notes) > SHOWN:
        lines.append(
            f"and {len(report.notes) - SHOWN} more, in {shown(report.data_yaml.with_name('conversion.json'))}"
        )
    for split, images in report.images.items():
        lines.append(
            f"{split:5} {_count(images, 'image'):>14} {_count(report.boxes[split], 'box', 'boxes'):>14}"
        )
    classes = ", ".join(printable(name) for name in report.names[:10]) + (
        ", …" if len(report.names) > 10 else ""
    )
    lines.append(f"{_count(len(report.names), 'class', 'classes')}: {classes}")
    lines.append(
        f"{_count(report.count('clipped'), 'box', 'boxes')} clipped, {report.count('dropped')} dropped, "
        f"{report.difficult} difficult or crowd skipped; {_count(report.count('left out'), 'image')} left out"
    )
    lines.append(f"written: {shown(report.data_yaml)}; next: detector check {shown(report.data_yaml)}")
    return "\n".join(lines)


def _count(number: int, one: str, many: str | None = None) -> str:
    return f"{number} {one if number == 1 else many or one + 's'}"
