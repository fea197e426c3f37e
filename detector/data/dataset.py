"""The strict reader of datasets in the YOLO format: every mistake is named before training starts.

Nothing is executed and nothing is written: `download:` and every other key that is not needed
is ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Literal, TypedDict, Unpack

from detector.data.data_yaml import DataYaml, read_data_yaml
from detector.data.hold_out import hold_out
from detector.data.listing import Listed, label_path, label_paths, list_splits, same_splits
from detector.data.near_duplicates import thumbnail
from detector.data.orphans import stray_labels
from detector.data.problems import Note, Problem, tally
from detector.data.reader import Reader
from detector.data.reading import File, Item, Sign, Signature
from detector.errors import UserError, display_path

__all__ = [
    "Dataset",
    "File",
    "Item",
    "Options",
    "Reading",
    "Scan",
    "Signature",
    "Track",
    "label_path",
    "no_track",
    "read_dataset",
    "refuse",
    "scan",
]

REPORTED = 10  # problems listed in one error: enough to see the pattern
Track = Callable[[Iterable[File], int], Iterable[File]]


def no_track(files: Iterable[File], total: int) -> Iterable[File]:
    """Show nobody how far reading is."""
    return files


class Reading(TypedDict, total=False):
    """How a configuration says that a dataset is read, beside `on_error`."""

    allow_outside: bool  # accept images that a list file names outside the folders of dataset and YAML
    repair: bool  # read what has one meaning only, and count it; otherwise that is an error
    ignore_scores: bool  # do without the sixth field of a label line
    val_fraction: float  # hold out so much of train as val; 0: the data has a val split
    seed: int  # of the images that are held out


class Options(Reading, total=False):
    """How a dataset is read, and which part of it."""

    root: Path | None  # the dataset's folder, instead of the YAML's `path`
    # Read these only; the fingerprint is then theirs, and images that another split holds too go unnoticed.
    splits: Collection[str] | None


@dataclass(frozen=True)
class Dataset:
    """A dataset that has been read and checked."""

    name: str
    names: tuple[str, ...]  # of the classes, by id
    splits: dict[str, tuple[Item, ...]]  # "train", "val" and, where there is one, "test"
    skipped: tuple[str, ...]  # what on_error="skip" dropped, one line each
    fingerprint: str  # sha256 of names, relative image paths, file sizes and labels
    notes: tuple[Note, ...] = ()  # what was left out, repaired or is odd, one for each kind
    pixels: str = ""  # sha256 of what is in the image files; empty where they were not all read


@dataclass(frozen=True, eq=False)
class Scan:
    """Everything that reading a dataset showed."""

    data: DataYaml
    dataset: Dataset  # without what is bad
    problems: tuple[Problem, ...]
    listed: dict[str, tuple[Listed, ...]]  # split -> all its images, usable or not
    files: dict[Path, File]  # image -> what is in it
    same: dict[str, str]  # split -> an earlier one of exactly the same images


def read_dataset(
    yaml_path: Path, on_error: Literal["raise", "skip"] = "raise", **options: Unpack[Options]
) -> Dataset:
    """Read and check a dataset: every label parsed, every image decoded once.

    Args:
        yaml_path: the data YAML: `train`, `val`, optional `test` (a folder, a .txt list of images, or
            a list of these, relative to `path`), `names` (list, or map 0..n-1), optional `nc`.
        on_error: "raise" reports all bad lines and images in one error; "skip" drops and notes them, and with
            them each image that has lost all its labels.
        options: see `Reading` and `Options`.

    Raises:
        UserError: with "raise", any problem; with either, what cannot be dropped, such as a missing
            folder, an empty split or wrong names.
    """
    found = scan(yaml_path, **options)
    refuse(found, on_error)
    return found.dataset


def refuse(found: Scan, on_error: Literal["raise", "skip"]) -> None:
    """Raise UserError for the errors of a dataset: for all of them, or for those that cannot be skipped."""
    errors = [problem for problem in found.problems if problem.severity == "error"]
    hint = "data.on_error=skip drops them"
    if on_error == "skip":  # a box is not dropped for its score
        errors = [problem for problem in errors if problem.kind == "score"]
        hint = "data.on_error=skip would drop good boxes"
    if not errors:
        return
    lines = [str(problem) for problem in errors[:REPORTED]]
    if len(errors) > REPORTED:
        lines.append(f"and {len(errors) - REPORTED} more")
    count = "1 problem" if len(errors) == 1 else f"{len(errors)} problems"
    where = display_path(found.data.file)
    raise UserError(f"{where}: {count} in the data ({hint}):\n  " + "\n  ".join(lines))


def scan(
    yaml_path: Path,
    *,
    root: Path | None = None,
    splits: Collection[str] | None = None,
    allow_outside: bool = False,
    repair: bool = True,
    ignore_scores: bool = False,
    val_fraction: float = 0.0,
    seed: int = 0,
    sign: Sign | None = None,
    afresh: bool = False,
    track: Track = no_track,
) -> Scan:
    """Read a dataset without its bad lines and images, and keep everything that was seen: see `Options`.

    Args:
        sign: what to keep of each picture's pixels, such as a small copy.
        afresh: read files that have not changed since they were last read, too.
        track: is given the files as they are read and their number, and passes them on.

    Raises:
        UserError: what cannot be dropped: a missing folder, an empty split, wrong names.
    """
    data = read_data_yaml(yaml_path, repair=repair)
    if root is not None:
        data = data.at(root)
    if val_fraction:
        data = data.without_val()
        sign = sign or thumbnail
    problems = list(data.problems)
    listed = list_splits(data, splits, problems, val_fraction > 0, allow_outside)
    new = _first_met(listed)
    paths = [path for images in new.values() for path in images]
    labels_at = {split: label_paths(images) for split, images in new.items()}
    with Reader(data, repair=repair, ignore_scores=ignore_scores, sign=sign, afresh=afresh) as reader:
        reading = chain.from_iterable(reader.read(split, new[split], labels_at[split]) for split in new)
        files = dict(zip(paths, track(reading, len(paths)), strict=True))
        labelled = {path for path, file in files.items() if file.labelled}
        strays = stray_labels(paths, labelled, problems, repair)
        files.update(zip(strays, reader.read_strays(files, strays), strict=True))

    same = same_splits(listed)
    read = _usable(data, listed, files, same, problems)
    digests = _digests(data, read, files)
    if val_fraction and "train" in read:
        read = _divide(data, read.pop("train"), files, val_fraction, seed) | read
    if splits is not None:
        read = {split: read[split] for split in splits}
    skipped = tuple(str(problem) for problem in problems if problem.severity == "error")
    dataset = Dataset(data.name, data.names, read, skipped, digests[0], tally(problems), digests[1])
    return Scan(data, dataset, tuple(problems), listed, files, same)


def _first_met(listed: Mapping[str, Sequence[Listed]]) -> dict[str, list[Path]]:
    """The images of each split that are in no earlier one, each once."""
    new: dict[str, list[Path]] = {}
    met: set[Path] = set()
    for split, entries in listed.items():
        images = dict.fromkeys(entry.image for entry in entries)
        new[split] = [image for image in images if image not in met] if met else list(images)
        met |= images.keys()
    return new


def _digests(
    data: DataYaml, read: Mapping[str, Sequence[Item]], files: Mapping[Path, File]
) -> tuple[str, str]:
    """`Dataset.fingerprint` and `Dataset.pixels`."""
    digest, pixels = hashlib.sha256(repr(data.names).encode()), hashlib.sha256()
    below = os.path.join(data.root, "")
    for split, items in read.items():
        for item in items:
            if (picture := files[item.image].picture) is None:
                continue  # there is one for every item
            name = str(item.image)
            plain = name.startswith(below) and ".." not in name
            name = name[len(below) :] if plain else os.path.relpath(name, data.root)
            name = name if os.sep == "/" else Path(name).as_posix()
            digest.update(f"{split}\0{name}\0{picture.bytes}\0".encode(errors="surrogateescape"))
            digest.update(item.classes.tobytes() + item.boxes.tobytes())
            pixels.update(picture.content)
    return digest.hexdigest(), pixels.hexdigest()


def _usable(
    data: DataYaml,
    listed: Mapping[str, Sequence[Listed]],
    files: Mapping[Path, File],
    same: Mapping[str, str],
    problems: list[Problem],
) -> dict[str, tuple[Item, ...]]:
    """The images of each split that can be used, one copy of each; what is wrong is added to `problems`.

    Raises:
        UserError: nothing is left of a split, or it has no labels at all.
    """
    home: dict[Path, str] = {}  # the first split of each image
    for split, entries in listed.items():
        home = {entry.image: split for entry in entries} | home
    best = _best_copies(files)
    kept: dict[str, set[Path]] = {}
    read: dict[str, tuple[Item, ...]] = {}
    for split, entries in listed.items():
        images = [entry.image for entry in entries]
        if split != "test" and not any(files[path].labelled for path in images):
            stray = next((f"; {one}" for one in problems if one.kind in ("label-name", "labels-beside")), "")
            expected = display_path(label_path(images[0]))
            raise UserError(f"{display_path(data.file)}: none of the {len(images)} images of {split!r} has a "
                            f"label file; the first is looked for at {expected}{stray}")  # fmt: skip
        found: list[Problem] = []
        kept[split] = set(kept[same[split]]) if split in same else set()
        for path in dict.fromkeys(images) if split not in same else ():
            file = files[path]
            found += file.problems
            if file.item is None or file.picture is None or file.lost:
                continue
            copy = best[file.picture.content]
            if (copy is path or copy == path) and home[path] == split:
                kept[split].add(path)
            else:
                found.append(_copy(path, split, copy, home[copy], files, data.repair))
        items = [item for path in images if path in kept[split] and (item := files[path].item) is not None]
        if not items:
            first = next(problem for problem in found if problem.severity == "error")
            raise UserError(
                f"{display_path(data.file)}: no image of {split!r} is usable; the first problem is {first}"
            )
        problems += found
        read[split] = tuple(items)
    return read


def _best_copies(files: Mapping[Path, File]) -> dict[bytes, Path]:
    """Of equal files the first with objects, else the first with a label file, else the first."""
    best: dict[bytes, tuple[tuple[bool, bool], Path]] = {}
    for path, file in files.items():
        if file.item is not None and file.picture is not None and not file.lost:
            rank, content = (len(file.item.classes) > 0, file.labelled), file.picture.content
            if content not in best or rank > best[content][0]:
                best[content] = rank, path
    return {content: path for content, (_, path) in best.items()}


def _copy(
    path: Path, split: str, other: Path, other_split: str, files: Mapping[Path, File], repair: bool
) -> Problem:
    """The problem of an image of which another copy is used."""
    copy = display_path(other)
    if split != other_split:
        where = f"is in {split!r} and, as {copy}, in {other_split!r}"
        message = f"{where}: scores on it would mean nothing; keep it in one split"
        return Problem(path, None, message, "leak")
    here, there = ({*map(tuple, item.boxes.tolist())} for one in (path, other) if (item := files[one].item))
    lost = f", and its labels show {len(here - there)} other objects" if here - there else ""
    if repair:
        return Problem(path, None, f"is identical to {copy}, which is used{lost}", "duplicate", "repair")
    return Problem(path, None, f"is identical to {copy}{lost}; remove one of them", "duplicate")


def _divide(
    data: DataYaml, items: Sequence[Item], files: Mapping[Path, File], fraction: float, seed: int
) -> dict[str, tuple[Item, ...]]:
    """Train and val, by the seed. Raises UserError."""
    pictures = {item.image: thumb for item in items if (thumb := files[item.image].signature) is not None}
    held = hold_out(list(pictures), list(pictures.values()), fraction, seed)
    if not held:
        raise UserError(
            f"{display_path(data.file)}: data.val_fraction={fraction} needs images that can be told apart, "
            f"and the {len(pictures)} of 'train' look alike"
        )
    return {
        "train": tuple(item for item in items if item.image not in held),
        "val": tuple(item for item in items if item.image in held),
    }
