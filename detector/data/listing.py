"""Which images a split has, and where their labels are. Nothing is read but folders and lists."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from detector.data.data_yaml import DataYaml, shown
from detector.data.images import SUFFIXES
from detector.data.problems import Problem
from detector.errors import UserError
from detector.runtime.files import read_bytes

MAX_LIST_BYTES = 100_000_000  # a million paths


@dataclass(frozen=True)
class Listed:
    """An image of a split, and who says that it is one."""

    image: Path  # absolute
    source: Path  # the folder or list file
    line: int | None  # in the list file, from 1


def label_path(image: Path) -> Path:
    """Where the labels of an image are: the last `/images/` becomes `/labels/`, the suffix `.txt`."""
    parts = list(image.parts)
    for index in range(len(parts) - 2, -1, -1):  # folders only, from the deepest
        if parts[index] == "images":
            parts[index] = "labels"
            break
    return Path(*parts).with_suffix(".txt")


def list_split(
    data: DataYaml, split: str, problems: list[Problem], allow_outside: bool = False
) -> Iterator[Listed]:
    """The images of a split in a fixed order, each once; what cannot be used is added to `problems`.

    A folder of somebody's may be shared with a list file in it, so a list may name only what lies in the
    dataset's folder or the data YAML's, unless `allow_outside`.

    Raises:
        UserError: there are none, or a source is missing or unreadable.
    """
    seen: set[str] = set()  # real paths
    before = len(problems)
    inside = None if allow_outside else (data.root, data.file.parent)
    for source in data.sources(split):
        entries: Iterable[Listed | Problem]
        entries = _in_folder(source) if source.is_dir() else _in_list(source, inside)
        for entry in entries:
            if isinstance(entry, Problem):
                problems.append(entry)
            elif (real := os.path.realpath(entry.image)) not in seen:
                seen.add(real)
                yield entry
            else:
                problems.append(Problem(entry.image, None, f"is listed twice in {split!r}; remove one",
                                        "listed-twice"))  # fmt: skip
    if not seen and len(problems) > before:
        raise UserError(f"{shown(data.file)}: {split!r} has no usable image; the first problem is "
                        f"{problems[before]}")  # fmt: skip
    if not seen:
        raise UserError(f"{shown(data.file)}: {split!r} has no images: none of "
                        f"{', '.join(sorted(SUFFIXES))} in {data.describe(split)}")  # fmt: skip


def _in_folder(folder: Path) -> Iterator[Listed | Problem]:
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
        if path.is_file():
            yield Listed(path, folder, None)
        else:
            yield Problem(path, None, "is not a file; remove it", "no-image")


def _in_list(file: Path, inside: tuple[Path, ...] | None) -> Iterator[Listed | Problem]:
    """The images of a list file, in its order; relative ones start at the list's own folder.

    What lies in none of the folders `inside` is refused; None allows everything.
    """
    try:
        lines = read_bytes(file, MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{shown(file)}: the list of images cannot be read: {reason}") from None
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        path = Path(os.path.normpath(file.parent / line.strip()))
        if inside is not None and not _is_inside(path, inside):
            yield Problem(file, number, f"{line.strip()[:200]!r} lies outside the dataset's folder "
                          f"{shown(inside[0])}; data.allow_outside=true accepts that", "outside")  # fmt: skip
        elif not os.path.isfile(path):  # unlike Path.is_file, no error for an overlong name
            yield Problem(file, number, f"there is no image {line.strip()[:200]!r}", "no-image")
        elif path.suffix.lower() not in SUFFIXES:
            yield Problem(file, number, f"{path.name!r} is no image: write one of "
                          f"{', '.join(sorted(SUFFIXES))}", "no-image")  # fmt: skip
        else:
            yield Listed(path, file, number)


def _is_inside(path: Path, folders: tuple[Path, ...]) -> bool:
    """Whether a path lies in one of the folders as written or, where that is a link, as it really is."""
    if any(path.is_relative_to(folder) for folder in folders):
        return True
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
