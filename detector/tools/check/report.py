"""What `detector check` found, as tables for a person or as one JSON document for a program."""

from __future__ import annotations

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from detector.data.problems import Problem
from detector.data.statistics import Sizes, Statistics
from detector.errors import display_path, escape_control

if TYPE_CHECKING:
    from detector.data.dataset import Scan

CLASSES_SHOWN = 30
SHAPES_SHOWN = 3
WIDE = 200  # columns, where there is no terminal: a squeezed table in a file is of no use
_STYLES = {"error": "bold red", "warning": "yellow", "note": "cyan", "repair": "green"}


def print_json(found: Scan, statistics: Statistics, problems: Sequence[Problem]) -> None:
    """Print everything as one JSON document; the keys are part of the public interface."""
    severities = Counter(problem.severity for problem in problems)
    document = {
        "verdict": "problems" if set(severities) - {"note"} else "clean",
        "dataset": found.dataset.name,
        "file": str(found.data.file),
        "root": str(found.data.root),
        "fingerprint": found.dataset.fingerprint,
        "errors": severities["error"],
        "repairs": severities["repair"],
        "warnings": severities["warning"],
        "notes": severities["note"],
        "problems": [
            {
                "severity": problem.severity,
                "kind": problem.kind,
                "file": str(problem.file),
                "line": problem.line,
                "message": problem.message,
                "count": problem.count,
            }
            for problem in problems
        ],
        "statistics": _plain(statistics),
    }
    print(json.dumps(document, indent=1))


def print_unusable(file: str, error: str) -> None:
    """The JSON document of a dataset that cannot be read at all."""
    print(json.dumps({"verdict": "unusable", "file": file, "error": error}, indent=1))


def _plain(statistics: Statistics) -> dict[str, Any]:
    document = dataclasses.asdict(statistics)
    document["image_sizes"] = [
        {"width": width, "height": height, "images": images}
        for width, height, images in statistics.image_sizes
    ]
    return document


def print_report(
    found: Scan, statistics: Statistics, problems: Sequence[Problem], limit: int | None, seconds: float
) -> None:
    """Print the statistics, the problems (at most `limit` of each kind) and the verdict."""
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=WIDE)
    console.print(
        Text(f"{escape_control(found.dataset.name)}: {display_path(found.data.file)}", style="bold")
    )
    for part in (_split_table(statistics), _class_table(statistics), Text(_shapes(statistics))):
        console.print(part)
        console.print()
    for line, style in lines(problems, limit):
        # soft_wrap: a long path must stay one line that can be copied.
        console.print(Text(line, style=style), soft_wrap=True)
    if problems:
        console.print()
    console.print(_verdict(problems, len(found.files), seconds), soft_wrap=True)


def lines(problems: Iterable[Problem], limit: int | None) -> Iterable[tuple[str, str]]:
    """A heading and lines for each kind of problem, with their styles."""
    kinds: dict[tuple[str, str], list[Problem]] = {}
    for problem in problems:
        kinds.setdefault((problem.severity, problem.kind), []).append(problem)
    for (severity, kind), members in kinds.items():
        yield f"{severity}: {kind}" + (f" ({len(members)})" if len(members) > 1 else ""), _STYLES[severity]
        for problem in members[:limit]:
            yield f"  {escape_control(str(problem))}", ""
        if limit is not None and len(members) > limit:
            yield f"  … and {len(members) - limit} more; --all lists them", "dim"


def _split_table(statistics: Statistics) -> Table:
    table = _table("split", "images", "backgrounds", "boxes")
    for split, one in statistics.splits.items():
        table.add_row(split, f"{one.images}", f"{one.backgrounds}", f"{one.boxes}")
    return table


def _class_table(statistics: Statistics) -> Table:
    """Boxes by class, most frequent first; classes without any are among the problems."""
    table = _table("class", *statistics.splits, "small", "medium", "large", "median")
    present = sorted((one for one in statistics.classes if one.total), key=lambda one: -one.total)
    for one in present[:CLASSES_SHOWN]:
        cells = (_cell(one.boxes[split], one.images[split]) for split in statistics.splits)
        table.add_row(escape_control(one.name), *cells, *_size_cells(one.sizes))
    if len(present) > CLASSES_SHOWN:
        table.add_row(Text(f"… {len(present) - CLASSES_SHOWN} more", style="dim"))
    if len(present) > 1:
        totals = (_cell(one.boxes, one.images - one.backgrounds) for one in statistics.splits.values())
        table.add_row("all", *totals, *_size_cells(statistics.sizes))
    return table


def _cell(boxes: int, images: int) -> str:
    return f"{boxes} / {images}" if boxes else "–"


def _size_cells(sizes: Sizes) -> list[str]:
    median = "–"
    if sizes.median_width is not None and sizes.median_height is not None:
        median = f"{sizes.median_width:.0f} × {sizes.median_height:.0f}"
    return [f"{sizes.small}", f"{sizes.medium}", f"{sizes.large}", median]


def _table(*columns: str) -> Table:
    table = Table(box=None, pad_edge=False, header_style="bold", padding=(0, 2, 0, 0))
    for number, column in enumerate(columns):
        if number == 0:
            table.add_column(column, overflow="ellipsis", min_width=8)  # the one that gives way
        else:
            table.add_column(column, justify="right", no_wrap=True)
    return table


def _shapes(statistics: Statistics) -> str:
    shapes = statistics.image_sizes
    text = ", ".join(f"{width} x {height} ({images})" for width, height, images in shapes[:SHAPES_SHOWN])
    if len(shapes) > SHAPES_SHOWN:
        widths, heights = [one[0] for one in shapes], [one[1] for one in shapes]
        text += f" and others; {min(widths)} to {max(widths)} wide, {min(heights)} to {max(heights)} high"
    return (
        f"Boxes / images that show them. Sizes are at {statistics.image_size} px (--image-size): small is\n"
        "below 32², medium below 96² pixels of area; median is width × height.\n"
        f"Images in pixels: {text}."
    )


def _verdict(problems: Sequence[Problem], images: int, seconds: float) -> Text:
    severities = Counter(problem.severity for problem in problems)
    counts = ", ".join(
        f"{severities[key]} {key}{'' if severities[key] == 1 else 's'}"
        for key in ("error", "repair", "warning", "note")
        if key != "repair" or severities[key]
    )
    word, style = ("problems", "yellow") if set(severities) - {"note"} else ("clean", "bold green")
    if severities["error"]:
        word, style = "problems", "bold red"
    return Text.assemble((word, style), f": {counts} in {images} images, {seconds:.1f} s")
