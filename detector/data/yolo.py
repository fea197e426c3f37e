"""The strict reader of datasets in the YOLO format: every mistake is named before training starts.

Nothing is executed and nothing is written: `download:` and every other key that is not needed
is ignored.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Collection, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from detector.data.data_yaml import DataYaml, read_data_yaml, shown
from detector.data.geometry import Floats
from detector.data.images import SUFFIXES, decode
from detector.data.labels import parse_labels
from detector.errors import UserError

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


@dataclass(frozen=True)
class Problem:
    """Something wrong with one image or one line; the rest of the dataset is usable without it."""

    file: Path
    line: int | None
    message: str

    def __str__(self) -> str:
        """`file:line: what is wrong and the fix`."""
        return f"{shown(self.file)}{'' if self.line is None else f':{self.line}'}: {self.message}"


def read_dataset(
    yaml_path: Path,
    on_error: Literal["raise", "skip"] = "raise",
    *,
    root: Path | None = None,
    splits: Collection[str] | None = None,
) -> Dataset:
    """Read and check a dataset: every label parsed, every image decoded once.

    Args:
        yaml_path: the data YAML: `train`, `val`, optional `test` (a folder, a .txt list of images, or
            a list of these, relative to `path`), `names` (list, or map 0..n-1), optional `nc`.
        on_error: "raise" reports all bad lines and images in one error; "skip" drops and notes them.
        root: the dataset's folder, instead of the YAML's `path`.
        splits: read these only; the fingerprint is then theirs, and images that another split holds too
            go unnoticed.

    Raises:
        UserError: with "raise", any problem; with either, what cannot be dropped, such as a missing
            folder, an empty split or wrong names.
    """
    dataset, problems = scan_dataset(yaml_path, root=root, splits=splits)
    if problems and on_error == "raise":
        lines = [str(problem) for problem in problems[:REPORTED]]
        if len(problems) > REPORTED:
            lines.append(f"and {len(problems) - REPORTED} more")
        count = "1 problem" if len(problems) == 1 else f"{len(problems)} problems"
        raise UserError(f"{shown(yaml_path)}: {count} in the data (data.on_error=skip drops them):\n  "
                        + "\n  ".join(lines))  # fmt: skip
    return dataset


def scan_dataset(
    yaml_path: Path, *, root: Path | None = None, splits: Collection[str] | None = None
) -> tuple[Dataset, tuple[Problem, ...]]:
    """Read a dataset without its bad lines and images, and list those: the base of `read_dataset`.

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
    listed = {split: list(_list_split(data, split, problems)) for split in wanted}
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # decoding and hashing release the GIL
        paths = dict.fromkeys(path for images in listed.values() for path in images)
        files = dict(zip(paths, pool.map(lambda path: _read(path, len(data.names)), paths), strict=True))

    digest = hashlib.sha256(repr(data.names).encode())
    read: dict[str, tuple[Item, ...]] = {}
    seen: dict[bytes, tuple[str, Path]] = {}  # content of an image -> where it was met
    for split, images in listed.items():
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
    return Dataset(data.name, data.names, read, skipped, digest.hexdigest()), tuple(problems)


def label_path(image: Path) -> Path:
    """Where the labels of an image are: the last `/images/` becomes `/labels/`, the suffix `.txt`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):  # folders only, from the deepest
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


@dataclass(frozen=True)
class _File:
    """What one image and its label file hold."""

    item: Item | None = None  # None: the image is unusable
    labelled: bool = False  # there is a label file
    content: bytes = b""  # digest of the image file
    bytes: int = 0
    problems: tuple[Problem, ...] = ()


def _read(image: Path, classes: int) -> _File:
    """Decode one image and parse its labels."""
    labels = label_path(image)
    try:
        data = image.read_bytes()
        decode(data)
    except OSError as error:
        return _File(problems=(Problem(image, None, f"the image cannot be read: {error.strerror}"),),
                     labelled=labels.is_file())  # fmt: skip
    except ValueError as error:
        return _File(problems=(Problem(image, None, f"{error}; replace or remove it"),),
                     labelled=labels.is_file())  # fmt: skip
    problems: tuple[Problem, ...] = ()
    labelled, text = True, ""
    try:
        text = labels.read_text(encoding="utf-8-sig")  # some editors on Windows write a BOM
    except FileNotFoundError:
        labelled = False  # a background: an image on purpose without objects
    except (OSError, UnicodeDecodeError) as error:
        problems = (Problem(labels, None, f"the labels cannot be read: {error}"),)
    ids, boxes, mistakes = parse_labels(text, classes)
    problems += tuple(Problem(labels, line, message) for line, message in mistakes)
    content = hashlib.blake2b(data, digest_size=16).digest()
    return _File(Item(image, ids, boxes), labelled, content, len(data), problems)


def _duplicate(path: Path, split: str, other_split: str, other: Path) -> Problem:
    """The problem of an image met before."""
    if split == other_split:
        return Problem(path, None, f"is identical to {shown(other)}; remove one of them")
    return Problem(path, None, f"is in {split!r} and, as {shown(other)}, in {other_split!r}: "
                   f"scores on it would mean nothing; keep it in one split")  # fmt: skip


def _list_split(data: DataYaml, split: str, problems: list[Problem]) -> Iterator[Path]:
    """The images of a split, absolute, in a fixed order, each once."""
    seen: set[str] = set()  # real paths
    for source in data.sources(split):
        entries: Iterable[tuple[Path, Problem | None]]
        entries = _in_folder(source) if source.is_dir() else _in_list(source)
        for path, problem in entries:
            if problem is None and (real := os.path.realpath(path)) not in seen:
                seen.add(real)
                yield path
            else:
                problems.append(problem or Problem(path, None, f"is listed twice in {split!r}; remove one"))
    if not seen:
        raise UserError(f"{shown(data.file)}: {split!r} has no images: none of "
                        f"{', '.join(sorted(SUFFIXES))} in {data.describe(split)}")  # fmt: skip


def _in_folder(folder: Path) -> Iterator[tuple[Path, Problem | None]]:
    """All images below a folder, sorted. Links are followed, each real folder once, so loops end."""
    walked: set[str] = set()
    found: list[Path] = []
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        folders.sort()
        # Hidden files are not the user's: macOS leaves a `._photo.jpg` beside every photo it copies.
        found += [Path(parent, name) for name in files
                  if Path(name).suffix.lower() in SUFFIXES and not name.startswith(".")]  # fmt: skip
    for path in sorted(found):
        # Reading a pipe or a device would hang; a dangling link is worth a word.
        yield path, None if path.is_file() else Problem(path, None, "is not a file; remove it")


def _in_list(file: Path) -> Iterator[tuple[Path, Problem | None]]:
    """The images of a list file, in its order; relative ones start at the list's own folder."""
    try:
        lines = file.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown(file)}: the list of images cannot be read: {error}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path = Path(os.path.normpath(file.parent / line.strip()))
        problem: Problem | None = None
        if not os.path.isfile(path):  # unlike Path.is_file, no error for an overlong name
            problem = Problem(file, number, f"there is no image {line.strip()[:200]!r}")
        elif path.suffix.lower() not in SUFFIXES:
            problem = Problem(file, number, f"{path.name!r} is no image: write one of "
                              f"{', '.join(sorted(SUFFIXES))}")  # fmt: skip
        yield path, problem
