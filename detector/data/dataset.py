"""The strict reader of datasets in the YOLO format: every mistake is named before training starts.

Nothing is executed and nothing is written: `download:` and every other key that is not needed
is ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Collection, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detector.data.data_yaml import DataYaml, read_data_yaml, shown
from detector.data.geometry import Floats, Image
from detector.data.images import MAX_BYTES, BadImage, decode_with_header
from detector.data.labels import MAX_BYTES as MAX_LABEL_BYTES
from detector.data.labels import Labels, read_labels
from detector.data.listing import Listed, label_path, list_split
from detector.data.problems import Problem
from detector.errors import UserError
from detector.runtime.files import read_bytes
from detector.runtime.image_header import Header

Signature = NDArray[np.uint8]
REPORTED = 10  # problems listed in one error: enough to see the pattern


@dataclass(frozen=True)
class Item:
    """One image and its objects."""

    image: Path  # absolute
    classes: NDArray[np.int64]  # (N,)
    boxes: Floats  # (N, 4) cx cy w h, fractions of the upright image, inside [0, 1]


@dataclass(frozen=True)
class Dataset:
    """A dataset that has been read and checked."""

    name: str
    names: tuple[str, ...]  # of the classes, by id
    splits: dict[str, tuple[Item, ...]]  # "train", "val" and, where there is one, "test"
    skipped: tuple[str, ...]  # what on_error="skip" dropped, one line each
    fingerprint: str  # sha256 of names, relative image paths, file sizes and labels


@dataclass(frozen=True, eq=False)
class File:
    """What one image and its label file hold."""

    item: Item | None = None  # None: the image is unusable
    labelled: bool = False  # there is a label file
    content: bytes = b""  # digest of the image file
    bytes: int = 0
    problems: tuple[Problem, ...] = ()
    header: Header | None = None  # of the image as stored
    size: tuple[int, int] = (0, 0)  # width and height of the upright image, pixels
    labels: Labels | None = None
    signature: Signature | None = None  # where one was asked for


@dataclass(frozen=True, eq=False)
class Scan:
    """Everything that reading a dataset showed."""

    data: DataYaml
    dataset: Dataset  # without what is bad
    problems: tuple[Problem, ...]
    listed: dict[str, tuple[Listed, ...]]  # split -> all its images, usable or not
    files: dict[Path, File]  # image -> what is in it


def read_dataset(
    yaml_path: Path,
    on_error: Literal["raise", "skip"] = "raise",
    *,
    root: Path | None = None,
    splits: Collection[str] | None = None,
    allow_outside: bool = False,
) -> Dataset:
    """Read and check a dataset: every label parsed, every image decoded once.

    Args:
        yaml_path: the data YAML: `train`, `val`, optional `test` (a folder, a .txt list of images, or
            a list of these, relative to `path`), `names` (list, or map 0..n-1), optional `nc`.
        on_error: "raise" reports all bad lines and images in one error; "skip" drops and notes them.
        root: the dataset's folder, instead of the YAML's `path`.
        splits: read these only; the fingerprint is then theirs, and images that another split holds too
            go unnoticed.
        allow_outside: accept images that a list file names outside the folders of the dataset and its YAML.

    Raises:
        UserError: with "raise", any problem; with either, what cannot be dropped, such as a missing
            folder, an empty split or wrong names.
    """
    dataset, problems = scan_dataset(yaml_path, root=root, splits=splits, allow_outside=allow_outside)
    if problems and on_error == "raise":
        lines = [str(problem) for problem in problems[:REPORTED]]
        if len(problems) > REPORTED:
            lines.append(f"and {len(problems) - REPORTED} more")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"{shown(yaml_path)}: {count} in the data (data.on_error=skip drops them):\n  "
                        + "\n  ".join(lines))  # fmt: skip
    return dataset


def scan_dataset(
    yaml_path: Path,
    *,
    root: Path | None = None,
    splits: Collection[str] | None = None,
    allow_outside: bool = False,
) -> tuple[Dataset, tuple[Problem, ...]]:
    """Read a dataset without its bad lines and images, and list those: the base of `read_dataset`.

    Raises:
        UserError: what cannot be dropped: a missing folder, an empty split, wrong names.
    """
    found = scan(yaml_path, root=root, splits=splits, allow_outside=allow_outside)
    return found.dataset, found.problems


def scan(
    yaml_path: Path,
    *,
    root: Path | None = None,
    splits: Collection[str] | None = None,
    allow_outside: bool = False,
    sign: Callable[[Image], Signature] | None = None,
    track: Callable[[Iterable[File], int], Iterable[File]] = lambda files, _: files,
) -> Scan:
    """Read a dataset and keep everything that was seen: see `scan_dataset`.

    Args:
        yaml_path: the data YAML.
        root: the dataset's folder, instead of the YAML's `path`.
        splits: read these only; None reads all.
        allow_outside: accept images that a list file names outside of it: see `read_dataset`.
        sign: what to keep of each picture's pixels, such as a small copy.
        track: is given the files as they are read and their number, and passes them on.

    Raises:
        UserError: what cannot be dropped: a missing folder, an empty split, wrong names.
    """
    data = read_data_yaml(yaml_path)
    if root is not None:
        data = data.at(root)
    wanted = data.splits if splits is None else splits
    for split in wanted:
        if split not in data.splits:
            raise UserError(f"{shown(yaml_path)}: has no split {split!r}, only {', '.join(data.splits)}")
    problems: list[Problem] = []
    listed = {split: tuple(list_split(data, split, problems, allow_outside)) for split in wanted}
    paths = list(dict.fromkeys(entry.image for entries in listed.values() for entry in entries))
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing release the GIL
        reading = pool.map(lambda path: _read(path, len(data.names), sign), paths)
        files = dict(zip(paths, track(reading, len(paths)), strict=True))

    digest = hashlib.sha256(repr(data.names).encode())
    read: dict[str, tuple[Item, ...]] = {}
    seen: dict[bytes, tuple[str, Path]] = {}  # content of an image -> where it was met
    for split, entries in listed.items():
        images = [entry.image for entry in entries]
        if split != "test" and not any(files[path].labelled for path in images):
            raise UserError(f"{shown(yaml_path)}: none of the {len(images)} images of {split!r} has a label "
                            f"file; the first is looked for at {shown(label_path(images[0]))}")  # fmt: skip
        items = []
        before = len(problems)
        for path in images:
            file = files[path]
            problems += file.problems
            if file.item is None:
                continue
            if file.content in seen:
                problems.append(_duplicate(path, split, *seen[file.content]))
                continue
            seen[file.content] = split, path
            items.append(file.item)
            name = Path(os.path.relpath(path, data.root)).as_posix()
            digest.update(f"{split}\0{name}\0{file.bytes}\0".encode(errors="surrogateescape"))
            digest.update(file.item.classes.tobytes() + file.item.boxes.tobytes())
        if not items:
            raise UserError(f"{shown(yaml_path)}: no image of {split!r} is usable; the first problem is "
                            f"{problems[before]}")  # fmt: skip
        read[split] = tuple(items)
    skipped = tuple(map(str, problems))
    dataset = Dataset(data.name, data.names, read, skipped, digest.hexdigest())
    return Scan(data, dataset, tuple(problems), listed, files)


def _read(path: Path, classes: int, sign: Callable[[Image], Signature] | None) -> File:
    """Decode one image and parse its labels."""
    labels_file = label_path(path)
    try:
        data = read_bytes(path, MAX_BYTES)
        image, header = decode_with_header(data)
    except OSError as error:
        problem = Problem(path, None, f"the image cannot be read: {error.strerror}", "unreadable")
        return File(problems=(problem,), labelled=labels_file.is_file())
    except BadImage as error:
        problem = Problem(path, None, f"{error}; replace or remove it", error.kind)
        return File(problems=(problem,), labelled=labels_file.is_file())
    problems: tuple[Problem, ...] = ()
    labelled, text = True, ""
    try:
        text = read_bytes(labels_file, MAX_LABEL_BYTES).decode("utf-8-sig")  # Windows editors write a BOM
    except FileNotFoundError:
        labelled = False  # a background: an image on purpose without objects
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        problems = (Problem(labels_file, None, f"the labels cannot be read: {reason}", "unreadable"),)
    labels = read_labels(text, classes)
    problems += tuple(Problem(labels_file, line, message, kind) for line, kind, message in labels.mistakes)
    return File(
        item=Item(path, labels.classes, labels.boxes),
        labelled=labelled,
        content=hashlib.blake2b(data, digest_size=16).digest(),
        bytes=len(data),
        problems=problems,
        header=header,
        size=(image.shape[1], image.shape[0]),
        labels=labels,
        signature=None if sign is None else sign(image),
    )


def _duplicate(path: Path, split: str, other_split: str, other: Path) -> Problem:
    """The problem of an image met before."""
    if split == other_split:
        return Problem(path, None, f"is identical to {shown(other)}; remove one of them",
                       "duplicate")  # fmt: skip
    return Problem(path, None, f"is in {split!r} and, as {shown(other)}, in {other_split!r}: "
                   f"scores on it would mean nothing; keep it in one split", "leak")  # fmt: skip
