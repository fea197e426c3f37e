"""What training would accept and a person should know: the check beyond reading.

Reading finds errors. The findings here are warnings, which cost accuracy or make scores mean less than
they seem to, and notes, which are only worth knowing.
"""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from detector.data.boxes import Boxes, same_objects
from detector.data.dataset import File, Scan, Signature
from detector.data.images import DARK, JPEG_SUFFIXES
from detector.data.near_duplicates import near_duplicates
from detector.data.orphans import orphan_labels
from detector.data.problems import SEVERITIES, Problem
from detector.data.reading import Picture
from detector.data.statistics import STRIDE, Statistics, box_sides, count
from detector.errors import display_path

CLIPPED = 1.0  # pixels beyond the edge: less is rounding
IMBALANCE = 100  # times as many boxes in the most frequent class as in the rarest
TINY_SHARE = 0.05  # of a class's boxes: below it, a few tiny ones are a note
LISTED = 8  # names in one message

_SUFFIXES = {
    "BMP": {".bmp"}, "JPEG": JPEG_SUFFIXES, "PNG": {".png"}, "TIFF": {".tif", ".tiff"}, "WebP": {".webp"}
}  # fmt: skip


def inspect(scan: Scan, image_size: int) -> tuple[list[Problem], Statistics]:
    """All problems of a dataset and its statistics: what the check prints and a run counts.

    Args:
        scan: what reading it showed.
        image_size: side of the square that images are letterboxed to, pixels.
    """
    statistics = count(scan.dataset, {path: file.size for path, file in scan.files.items()}, image_size)
    return preflight(scan, statistics), statistics


def preflight(scan: Scan, statistics: Statistics) -> list[Problem]:
    """All problems of a dataset: the errors of reading it, then repairs, then warnings, then notes.

    Near-duplicates are looked for where the scan kept thumbnails (`sign=thumbnail`).
    """
    found = list(scan.problems)
    boxes = Boxes.of(scan.files.values())
    of_labels = _of_labels(boxes)
    for path, file in scan.files.items():
        found += _of_image(path, file.picture)
        found += of_labels.get(file, ())
    found += _corners(boxes)
    found += _same_images(scan)
    found += _outside(scan)
    found += _orphans(scan)
    found += _near_duplicates(scan)
    found += _unlabelled(scan)
    found += _without_objects(scan.data.file, statistics)
    found += _classes(scan.data.file, statistics)
    found += _tiny(scan, statistics)
    return sorted(found, key=lambda problem: SEVERITIES.index(problem.severity))  # stable


def _warning(kind: str, file: Path, line: int | None, message: str) -> Problem:
    return Problem(file, line, message, kind, "warning")


def _note(kind: str, file: Path, line: int | None, message: str) -> Problem:
    return Problem(file, line, message, kind, "note")


def _of_image(path: Path, picture: Picture | None) -> Iterator[Problem]:
    text = str(path)
    if not text.isascii() and not path.name.isascii():
        yield _note("non-ascii-name", path, None, "the name is not ASCII, which some tools cannot open")
    if picture is None:
        return
    header = picture.header
    if os.path.splitext(text)[1].lower() not in _SUFFIXES[header.format]:
        yield _warning("mislabelled", path, None, f"is a {header.format} file named {path.suffix}; rename it")
    if header.orientation != 1:
        width, height = picture.size
        message = (
            f"is stored turned (EXIF orientation {header.orientation}) and read upright, "
            f"{width} x {height}; its labels must refer to that"
        )
        yield _note("exif-rotated", path, None, message)
    if picture.dark is not None:
        low, high = picture.dark
        message = (
            f"is nearly {'black' if high < 256 * DARK else 'flat'}: its 16 bits hold {low} to {high} of 0 to "
            "65535; stretch all images in the same way before training"
        )
        yield _warning("dark", path, None, message)


def _of_labels(table: Boxes) -> dict[File, list[Problem]]:
    """What is odd about the boxes of each file."""
    found: dict[File, list[Problem]] = defaultdict(list)
    for row in np.flatnonzero(table.beyond > CLIPPED).tolist():
        file = table.files[table.owner[row]]
        message = f"the box leaves the image by {table.beyond[row]:.0f} pixels and is clipped; check it"
        found[file].append(_warning("clipped", file.label_file, int(table.lines[row]), message))
    for first, second, iou in same_objects(table):
        file = table.files[table.owner[second]]
        message = f"covers the same object as line {table.lines[first]} (IoU {iou:.2f}); remove one"
        found[file].append(_warning("double-box", file.label_file, int(table.lines[second]), message))
    return found


def _corners(table: Boxes) -> Iterator[Problem]:
    """Whether labels are corners: most boxes would leave the image, and nearly all could be x1 y1 x2 y2."""
    outside, corners = int((table.beyond > CLIPPED).sum()), int(table.corners.sum())
    boxes = len(table.lines)
    if outside > boxes / 2 and corners >= 0.95 * boxes:
        first = int(table.corners.argmax())
        message = (
            f"this looks like x1 y1 x2 y2 instead of cx cy w h: {outside} of {boxes} boxes would leave "
            "their image; write centres and sizes"
        )
        yield _warning(
            "corners", table.files[table.owner[first]].label_file, int(table.lines[first]), message
        )


def _same_images(scan: Scan) -> Iterator[Problem]:
    for split, other in scan.same.items():
        message = f"{split!r} holds the images of {other!r}: its scores show what was memorised, no more"
        kind = "same-test" if split == "test" else "same-images"
        yield _warning(kind, scan.data.file, None, message)


def _outside(scan: Scan) -> Iterator[Problem]:
    """Images that a list file takes from outside the dataset's folders."""
    inside = scan.data.folders
    is_inside: dict[str, bool] = {}  # by folder
    for entries in scan.listed.values():
        for entry in entries:
            if entry.line is None:
                continue
            parent = os.path.dirname(entry.image)
            if parent not in is_inside:
                is_inside[parent] = any(entry.image.is_relative_to(folder) for folder in inside)
            if not is_inside[parent]:
                root = display_path(inside[0])
                message = f"{display_path(entry.image)} lies outside the dataset's folder {root}"
                yield _note("outside", entry.source, entry.line, message)


def _orphans(scan: Scan) -> Iterator[Problem]:
    for file, folder in orphan_labels(
        scan.data, scan.listed, {file.labels_at for file in scan.files.values() if file.labelled}
    ):
        message = f"no image is called {file.stem!r} in {display_path(folder)}; add it or remove the labels"
        yield _warning("orphan-label", file, None, message)


def _near_duplicates(scan: Scan) -> Iterator[Problem]:
    """Images of val and test that look like one of an earlier split; identical ones are errors already."""
    earlier: list[tuple[str, Path]] = []
    pictures: list[Signature] = []
    for split, items in scan.dataset.splits.items():
        if split in scan.same:
            continue
        signed = [(item.image, scan.files[item.image].signature) for item in items]
        here = [image for image, thumb in signed if thumb is not None]
        thumbs = [thumb for _, thumb in signed if thumb is not None]
        for pair in near_duplicates(thumbs, pictures):
            other_split, other = earlier[pair.reference]
            message = (
                f"is in {split!r} and looks like {display_path(other)} in {other_split!r} "
                f"({pair.bits} of 256 bits differ): keep both in one split"
            )
            yield _warning("near-leak", here[pair.query], None, message)
        earlier += [(split, path) for path in here]
        pictures += thumbs


def _unlabelled(scan: Scan) -> Iterator[Problem]:
    for split, items in scan.dataset.splits.items():
        missing = [item.image for item in items if not scan.files[item.image].labelled]
        if missing:
            message = (
                f"{len(missing)} of {len(items)} images of {split!r} without a label file, taken as "
                f"backgrounds; the first is {display_path(missing[0])}"
            )
            yield replace(_note("unlabelled", scan.data.file, None, message), count=len(missing))
        lost = [entry.image for entry in scan.listed.get(split, ()) if scan.files[entry.image].lost]
        if lost:
            message = (
                f"{len(lost)} images of {split!r} have lost all their labels: data.on_error=skip leaves them "
                f"out; the first is {display_path(lost[0])}"
            )
            yield replace(_note("labels-lost", scan.data.file, None, message), count=len(lost))


def _without_objects(file: Path, statistics: Statistics) -> Iterator[Problem]:
    for split, one in statistics.splits.items():
        if split != "test" and not one.boxes:
            what = "there is nothing to learn" if split == "train" else "it has no mAP"
            yield _warning("no-objects", file, None, f"{split!r} shows no object at all: {what}")


def _classes(file: Path, statistics: Statistics) -> Iterator[Problem]:
    """Classes that are absent, from everywhere or from a split, or drowned by others."""
    classes = statistics.classes
    if not {"train", "val"} <= statistics.splits.keys():
        return
    if empty := [one.name for one in classes if one.total == 0]:
        message = f"{len(empty)} of {len(classes)} classes without a box: {_names(empty)}"
        yield _warning("empty-class", file, None, message)
    for split, other, consequence in (
        ("val", "train", "their score is not measured"),
        ("train", "val", "they cannot be learnt"),
    ):
        absent = [one.name for one in classes if one.boxes[other] and not one.boxes[split]]
        if absent:
            message = (
                f"{len(absent)} of {len(classes)} classes in {other!r} but not in {split!r}, so that "
                f"{consequence}: {_names(absent)}"
            )
            yield _warning(f"missing-from-{split}", file, None, message)
    trained = sorted((one.boxes["train"], one.name) for one in classes if one.boxes["train"])
    if trained and trained[-1][0] >= IMBALANCE * trained[0][0]:
        (fewest, rare), (most, common) = trained[0], trained[-1]
        message = (
            f"{common!r} has {most} boxes in 'train', {most // fewest} times as many as {rare!r} "
            f"with {fewest}, which will hardly be learnt"
        )
        yield _warning("imbalance", file, None, message)


def _tiny(scan: Scan, statistics: Statistics) -> Iterator[Problem]:
    """One finding a class whose boxes, as the network sees them, fall below its finest grid."""
    if not statistics.sizes.below_stride:
        return
    first: dict[int, tuple[Path, int]] = {}  # class -> where its first tiny box is
    for items in scan.dataset.splits.values():
        files = [scan.files[item.image] for item in items]
        pairs = [(file.picture.size, file.labels.lines) for file in files if file.picture and file.labels]
        narrow = box_sides(items, [size for size, _ in pairs], statistics.image_size).min(axis=1) < STRIDE
        owners = np.repeat(np.arange(len(items)), [len(lines) for _, lines in pairs])[narrow]
        lines = np.concatenate([lines for _, lines in pairs])[narrow]
        classes, rows = np.unique(np.concatenate([item.classes for item in items])[narrow], return_index=True)
        for index, row in zip(classes.tolist(), rows.tolist(), strict=True):
            first.setdefault(index, (files[owners[row]].label_file, int(lines[row])))
    for index, (path, line) in sorted(first.items()):
        one = statistics.classes[index]
        share = one.sizes.below_stride / one.total
        many = "1 box" if one.sizes.below_stride == 1 else f"{one.sizes.below_stride} boxes"
        message = (
            f"here and in all {many} of {one.name!r} ({share:.1%}), a side is below {STRIDE} pixels, the "
            f"finest grid, at {statistics.image_size} px; train on larger images"
        )
        yield (_warning if share >= TINY_SHARE else _note)("tiny", path, line, message)


def _names(names: list[str]) -> str:
    more = f" and {len(names) - LISTED} more" if len(names) > LISTED else ""
    return ", ".join(names[:LISTED]) + more
