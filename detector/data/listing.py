"""Which images a split has, and where their labels are. Nothing is read but folders and lists."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.data.data_yaml import DataYaml
from detector.data.images import SUFFIXES, UNREAD_SUFFIXES
from detector.data.places import other_readings
from detector.data.problems import Problem
from detector.errors import UserError, display_path
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


def list_splits(
    data: DataYaml, splits: Collection[str] | None, problems: list[Problem], divide: bool, allow_outside: bool
) -> dict[str, tuple[Listed, ...]]:
    """The images of the splits that are asked for; `test`, if nobody asks for it, may be missing.

    Args:
        data: the data YAML.
        splits: None asks for train and val.
        problems: what cannot be used or is odd is added here.
        divide: val is held out of train.
        allow_outside: see `list_split`.

    Raises:
        UserError: a split is missing, or has no images.
    """
    wanted = dict.fromkeys(splits or ("train", "val", *(["test"] if "test" in data.splits else [])))
    if divide:
        wanted = dict.fromkeys("train" if split == "val" else split for split in wanted)
    for split in wanted:
        data.require(split)
    listed = {}
    for split in wanted:
        found: list[Problem] = []
        try:
            listed[split] = tuple(list_split(data, split, found, allow_outside))
        except UserError as error:
            if splits is not None or split != "test":
                raise
            found = [Problem(data.file, None, f"'test' is left out: {error}", "missing-split", "note")]
        problems += found
    return listed


def same_splits(listed: Mapping[str, Sequence[Listed]]) -> dict[str, str]:
    """The splits that hold just the images of an earlier one, as `val` where it is the folder of `train`."""
    first: dict[frozenset[Path], str] = {}
    same = {}
    for split, entries in listed.items():
        images = frozenset(entry.image for entry in entries)
        if (earlier := first.setdefault(images, split)) != split:
            same[split] = earlier
    return same


def list_split(
    data: DataYaml, split: str, problems: list[Problem], allow_outside: bool = False
) -> Iterator[Listed]:
    """The images of a split in a fixed order; what cannot be used or is odd is added to `problems`.

    An image that is listed again is there again, under the name by which it was met first: people repeat
    images that are to be seen more often.

    A folder of somebody's may be shared with a list file in it, so a list may name only what lies in
    `data.folders`, unless `allow_outside`.

    Raises:
        UserError: there are none, or a source is missing or unreadable.
    """
    seen: dict[str, Path] = {}  # by real path
    sources = data.sources(split, problems)
    before = len(problems)
    for source in sources:
        entries = _in_folder(source) if source.is_dir() else _in_list(source, data, allow_outside)
        for entry in entries:
            if isinstance(entry, Problem):
                problems.append(entry)
                continue
            first = seen.setdefault(os.path.realpath(entry.image), entry.image)
            if first is not entry.image:
                message = f"is listed twice in {split!r}; " + (
                    "it counts twice" if data.repair else "remove one"
                )
                problems.append(Problem(entry.image, None, message, "listed-twice",
                                        "repair" if data.repair else "error"))  # fmt: skip
                if not data.repair:
                    continue
            yield Listed(first, entry.source, entry.line)
    if not seen and len(problems) > before:
        raise UserError(f"{display_path(data.file)}: {split!r} has no usable image; the first problem is "
                        f"{problems[before]}")  # fmt: skip
    if not seen:
        places = ", ".join(map(display_path, sources))
        suffixes = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{display_path(data.file)}: {split!r} has no images: none of {suffixes} in {places}")


def _in_folder(folder: Path) -> Iterator[Listed | Problem]:
    """All images below a folder, sorted. Links are followed, each real folder once, so loops end."""
    walked: set[str] = set()
    found: list[Path] = []
    unread: Counter[str] = Counter()
    for parent, folders, files in os.walk(folder, followlinks=True):
        real = os.path.realpath(parent)
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        # What is hidden is not the user's: macOS leaves a `._photo.jpg` beside every photo it copies, and
        # Jupyter copies of what it showed in `.ipynb_checkpoints`.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in files:
            suffix = os.path.splitext(name)[1].lower()
            if suffix in SUFFIXES and not name.startswith("."):
                found.append(Path(parent, name))
            elif suffix in UNREAD_SUFFIXES and not name.startswith("."):
                unread[suffix] += 1
    for path in sorted(found):
        # Reading a pipe or a device would hang; a dangling link is worth a word.
        if path.is_file():
            yield Listed(path, folder, None)
        else:
            yield Problem(path, None, "is not a file; remove it", "no-image")
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
        message = f"holds pictures in formats that are not read ({kinds}): save them as JPEG or PNG"
        yield Problem(folder, None, message, "unread-format", "warning", unread.total())


def _in_list(file: Path, data: DataYaml, allow_outside: bool) -> Iterator[Listed | Problem]:
    """The images of a list file, in its order; relative ones start at the list's own folder."""
    inside = data.folders
    try:
        lines = read_bytes(file, MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{display_path(file)}: the list of images cannot be read: {reason}") from None
    for number, line in enumerate(lines, start=1):
        if not (written := line.strip()):
            continue
        path = Path(os.path.normpath(file.parent / written))
        # os.path.isfile: unlike Path.is_file, no error for an overlong name.
        if data.repair and not os.path.isfile(path):
            others = filter(os.path.isfile, other_readings(written, file.parent, *inside))
            if (other := next(others, None)) is not None:
                path = other
                message = f"{written[:200]!r} is read as {display_path(path)}"
                yield Problem(file, number, message, "path", "repair")
        if _is_hidden(path, file.parent):
            yield Problem(file, number, f"{path.name!r} is hidden, and so no data; remove it", "hidden",
                          "repair" if data.repair else "error")  # fmt: skip
        elif not allow_outside and not _is_inside(path, inside):
            message = (
                f"{written[:200]!r} lies outside the dataset's folder {display_path(inside[0])}; "
                "data.allow_outside=true accepts that"
            )
            yield Problem(file, number, message, "outside")
        elif not os.path.isfile(path):
            hint = ": write / instead of \\" if "\\" in written else ""
            yield Problem(file, number, f"there is no image {written[:200]!r}{hint}", "no-image")
        elif path.suffix.lower() not in SUFFIXES:
            yield Problem(file, number, f"{path.name!r} is no image: write one of "
                          f"{', '.join(sorted(SUFFIXES))}", "no-image")  # fmt: skip
        else:
            yield Listed(path, file, number)


def _is_hidden(path: Path, folder: Path) -> bool:
    """Whether a path is what macOS or Jupyter leave behind; the folder itself may well be hidden."""
    below = path.relative_to(folder).parts if path.is_relative_to(folder) else path.parts[-1:]
    return any(part.startswith(".") for part in below)


def _is_inside(path: Path, folders: tuple[Path, ...]) -> bool:
    """Whether a path lies in one of the folders as written or, where that is a link, as it really is."""
    if any(path.is_relative_to(folder) for folder in folders):
        return True
    if "\0" in str(path):
        return False
    real = Path(os.path.realpath(path))
    return any(real.is_relative_to(os.path.realpath(folder)) for folder in folders)
