"""From annotations to a dataset on disk: one function, and what it reports."""

from __future__ import annotations

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from detector.errors import UserError, display_path, escape_control, has_control, shorten
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
    merge: bool = False
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

    @property
    def lost(self) -> int:
        """How many of the source's boxes were not written."""
        return self.difficult + sum(note.boxes for note in self.notes)

    @property
    def exit_code(self) -> int:
        """1 if most boxes were lost, else 0."""
        return int(bool(self.complaint()))

    def complaint(self) -> str:
        """Why most boxes were lost; empty if they were not."""
        written = sum(self.boxes.values())
        if self.lost <= written:
            return ""
        reasons = [f"{self.lost} of {self.lost + written} boxes were lost"]
        if self.difficult:
            reasons.append(f"{self.difficult} are marked difficult or iscrowd (--keep-difficult keeps them)")
        for kind, what in (("dropped", "cannot be used"), ("left out", "belong to images that are left out")):
            notes = [note for note in self.notes if note.kind == kind and note.boxes]
            if notes:
                reasons.append(f"{sum(note.boxes for note in notes)} {what}, first {notes[0]}")
        return "; ".join(reasons)

    def as_json(self) -> dict[str, object]:
        """The same as plain data."""
        return {
            "data": display_path(self.data_yaml),
            "names": list(self.names),
            "splits": {
                name: {"images": self.images[name], "boxes": self.boxes[name]} for name in self.images
            },
            "difficult": self.difficult,
            "lost": self.lost,
            **{
                kind.replace(" ", "_"): self.count(kind)
                for kind in ("left out", "dropped", "clipped", "check")
            },
            "notes": [
                {
                    "kind": note.kind,
                    "file": display_path(note.file),
                    "where": note.where,
                    "message": note.message,
                }
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
                         own_splits=options.fractions is None, merge=options.merge)  # fmt: skip
    else:
        found = read_coco(options.source, options.images, keep_crowd=options.keep_difficult)
    names = _ordered(found, options.names)
    for name in names:
        if has_control(name):
            source, written = display_path(options.source), escape_control(name)
            raise UserError(f"{source}: the class {written} holds a control character; rename it there")
    notes = list(found.notes)
    groups = _look(found.pictures, notes, options.merge, progress)
    own, looks = [pictures[0].split for pictures, _ in groups], [look for _, look in groups]
    digests, thumbnails = [look.digest for look in looks], [look.thumbnail for look in looks]
    splits, remark = split.assign(own, digests, options.fractions, options.seed, thumbnails)
    if remark:
        notes.append(Note("check", options.source, "", remark))
    ids = {name: index for index, name in enumerate(names)}
    entries = []
    for (pictures, look), name in zip(groups, splits, strict=True):
        lines, more = label_lines(pictures, look, ids)
        entries.append(Entry(pictures[0].image, name, tuple(lines)))
        notes += more
    order = [name for name in split.SPLITS if name in splits]
    boxes = {name: sum(len(entry.lines) for entry in entries if entry.split == name) for name in order}
    images = {name: splits.count(name) for name in order}
    data = Path(os.path.abspath(options.destination)) / "data.yaml"
    report = Report(data, names, images, boxes, found.difficult, tuple(notes))
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
            raise UserError(
                f"{display_path(found.pictures[0].file)}: neither it nor any other file has an object"
            )
        return found.names
    for picture in found.pictures:
        for box in picture.boxes:
            if box.name not in wanted:
                raise UserError(f"{display_path(picture.file)}: {box.where}: --names does not list the class "
                                f"{shorten(box.name)!r}; add it, or correct the file")  # fmt: skip
    return wanted


def _look(
    pictures: tuple[Picture, ...], notes: list[Note], merge: bool, progress: Progress
) -> list[tuple[list[Picture], Look]]:
    """Open every image once. Those that cannot be opened, and copies of another, are left out.

    Of copies a labelled one stays; then the one in test, else in val: leaving it in train too would make
    their scores meaningless. With `merge` the boxes of all are kept.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing release the GIL
        seen = []
        for look in pool.map(lambda picture: _try(picture.image), pictures):
            seen.append(look)
            progress("read", len(seen), len(pictures))
    groups: dict[bytes, tuple[list[Picture], Look]] = {}
    for picture, look in zip(pictures, seen, strict=True):
        if isinstance(look, Look):
            groups.setdefault(look.digest, ([], look))[0].append(picture)
        else:
            notes.append(Note("left out", picture.image, "", look, len(picture.boxes)))
    if not groups:
        raise UserError(f"none of the {len(pictures)} images can be used; the first problem is {notes[-1]}")
    for same, _ in groups.values():
        same.sort(key=lambda one: (not one.boxes, {"test": 0, "val": 1}.get(one.split or "", 2)))
        if not merge:
            notes += [_copy(other, same[0]) for other in same[1:]]
            del same[1:]
    return list(groups.values())


def _copy(picture: Picture, kept: Picture) -> Note:
    what, lost = f"is identical to {display_path(kept.image)}", 0
    if kept.image == picture.image:
        again = display_path(picture.file)
        what = f"is annotated in {display_path(kept.file)}; {again} does so again and is not used"
        lost = len(picture.boxes)
    if len(kept.boxes) != len(picture.boxes):
        what += f"; {len(kept.boxes)} boxes there, {len(picture.boxes)} here"
    return Note("left out", picture.image, "", f"{what} (--merge joins them)" if lost else what, lost)


def _try(image: Path) -> Look | str:
    try:
        return look_at(image)
    except ValueError as error:
        return f"{error}; replace or remove it"
