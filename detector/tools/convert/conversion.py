"""From annotations to a dataset on disk: one function, and what it reports."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.config.safe_yaml import printable
from detector.data.data_yaml import shown
from detector.errors import UserError, has_control, spelt_out
from detector.tools.convert import split
from detector.tools.convert.coco import read_coco
from detector.tools.convert.lines import label_lines
from detector.tools.convert.look import Look, look_at
from detector.tools.convert.records import Annotations, Note, Picture
from detector.tools.convert.voc import read_voc
from detector.tools.convert.write import Entry, LinkKind, check_destination, write_dataset

Progress = Callable[[str, int, int], None]  # what is done, how many of them, of how many


@dataclass(frozen=True)
class Options:
    """What the command line says; `detector convert --help` explains each."""

    format: Literal["voc", "coco"]
    source: Path
    destination: Path
    images: Path | None = None
    fractions: tuple[float, ...] | None = None
    seed: int = 0
    names: tuple[str, ...] | None = None
    zero_based: bool = False
    keep_difficult: bool = False
    link: LinkKind | None = None


@dataclass(frozen=True)
class Report:
    """What was written, and what did not come through."""

    data_yaml: Path
    names: tuple[str, ...]
    images: dict[str, int]  # by split
    boxes: dict[str, int]
    difficult: int
    notes: tuple[Note, ...]

    def count(self, kind: str) -> int:
        """How many notes there are of a kind."""
        return sum(note.kind == kind for note in self.notes)

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {
            "data": shown(self.data_yaml),
            "names": list(self.names),
            "splits": {
                name: {"images": self.images[name], "boxes": self.boxes[name]} for name in self.images
            },
            "difficult": self.difficult,
            **{
                kind.replace(" ", "_"): self.count(kind)
                for kind in ("left out", "dropped", "clipped", "check")
            },
            "notes": [
                {"kind": note.kind, "file": shown(note.file), "where": note.where, "message": note.message}
                for note in self.notes
            ],
        }


def silent(stage: str, done: int, total: int) -> None:
    """Report no progress."""


def convert(options: Options, progress: Progress = silent) -> Report:
    """Convert a dataset into a new folder, which appears whole or not at all.

    Nothing is written beside the source. `progress` is called for every image that was read or written.

    Raises:
        UserError: the source cannot be used, the destination is taken or lies in the source, or a class is
            not in `options.names`.
    """
    check_destination(options.destination, options.source)
    if options.format == "voc":
        found = read_voc(options.source, options.images,
                         zero_based=options.zero_based, keep_difficult=options.keep_difficult,
                         own_splits=options.fractions is None)  # fmt: skip
    else:
        found = read_coco(options.source, options.images, keep_crowd=options.keep_difficult)
    names = _ordered(found, options.names)
    for name in names:
        if has_control(name):
            shown_name = spelt_out(name)
            raise UserError(
                f"{shown(options.source)}: the class {shown_name} holds a control character; rename it there"
            )
    notes = list(found.notes)
    pictures, looks = _look(found.pictures, notes, progress)
    splits = split.assign([picture.split for picture in pictures], [look.digest for look in looks],
                          options.fractions, options.seed)  # fmt: skip
    ids = {name: index for index, name in enumerate(names)}
    entries = []
    for picture, look, name in zip(pictures, looks, splits, strict=True):
        lines, more = label_lines(picture, look, ids)
        entries.append(Entry(picture.image, name, tuple(lines)))
        notes += more
    images = Counter(entry.split for entry in entries)
    boxes = Counter(dict.fromkeys(images, 0))
    for entry in entries:
        boxes[entry.split] += len(entry.lines)
    order = [name for name in split.SPLITS if name in images]
    report = Report(Path(os.path.abspath(options.destination)) / "data.yaml", names,
                    {name: images[name] for name in order}, {name: boxes[name] for name in order},
                    found.difficult, tuple(notes))  # fmt: skip
    write_dataset(
        options.destination,
        entries,
        names,
        report.as_json(),
        options.link,
        lambda done: progress("written", done, len(entries)),
    )
    return report


def _ordered(found: Annotations, wanted: tuple[str, ...] | None) -> tuple[str, ...]:
    """The class names in the order of their ids.

    Raises:
        UserError: there is none, or a box has a class that `--names` does not list.
    """
    if wanted is None:
        if not found.names:
            raise UserError(f"{shown(found.pictures[0].file)}: neither it nor any other file has an object")
        return found.names
    for picture in found.pictures:
        for box in picture.boxes:
            if box.name not in wanted:
                raise UserError(f"{shown(picture.file)}: {box.where}: --names does not list the class "
                                f"{printable(box.name)!r}; add it, or correct the file")  # fmt: skip
    return wanted


def _look(
    pictures: tuple[Picture, ...], notes: list[Note], progress: Progress
) -> tuple[list[Picture], list[Look]]:
    """Open every image once. Those that cannot be opened, and copies of another, are left out.

    Of copies in several splits the one in test stays, else the one in val: leaving it in train too would make
    their scores meaningless.
    """
    with ThreadPoolExecutor() as pool:  # reading and hashing release the GIL
        seen = []
        for look in pool.map(lambda picture: _try(picture.image), pictures):
            seen.append(look)
            progress("read", len(seen), len(pictures))
    usable: list[tuple[Picture, Look]] = []
    for picture, look in zip(pictures, seen, strict=True):
        if isinstance(look, Look):
            usable.append((picture, look))
        else:
            notes.append(Note("left out", picture.image, "", look))
    first: dict[bytes, Picture] = {}
    order = {"test": 0, "val": 1}
    for picture, look in sorted(usable, key=lambda pair: order.get(pair[0].split or "", 2)):
        if look.digest in first:
            kept = first[look.digest]
            what = f"is identical to {shown(kept.image)}"
            if kept.image == picture.image:
                what = (
                    f"is annotated in {shown(kept.file)}; {shown(picture.file)} does so again and is not used"
                )
            if len(kept.boxes) != len(picture.boxes):
                what += f"; {len(kept.boxes)} boxes there, {len(picture.boxes)} here"
            notes.append(Note("left out", picture.image, "", what))
        else:
            first[look.digest] = picture
    kept_ones = [(picture, look) for picture, look in usable if first[look.digest] is picture]
    if not kept_ones:
        raise UserError(f"none of the {len(pictures)} images can be used; the first problem is {notes[-1]}")
    return [picture for picture, _ in kept_ones], [look for _, look in kept_ones]


def _try(image: Path) -> Look | str:
    try:
        return look_at(image)
    except ValueError as error:
        return f"{error}; replace or remove it"
