"""Which images a split has, and where their labels are. Nothing is read but folders and lists."""

from __future__ import annotations

import os
import stat
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from operator import itemgetter
from pathlib import Path

from detector.data.data_yaml import DataYaml
from detector.data.images import SUFFIXES, UNREAD_SUFFIXES
from detector.data.places import other_readings
from detector.data.problems import Problem
from detector.errors import UserError, display_path
from detector.runtime.files import read_bytes

MAX_LIST_BYTES = 100_000_000  # a million paths


@dataclass(frozen=True, slots=True)
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


def label_paths(images: Iterable[Path]) -> list[str]:
    """The same of many, as text: those of one folder are all in one."""
    folders: dict[str, str] = {}
    found = []
    for image in map(str, images):
        start = image.rfind(os.sep) + 1
        folder = image[:start]
        if (place := folders.get(folder)) is None:
            place = folders[folder] = os.path.join(label_path(Path(folder, "any.jpg")).parent, "")
        found.append(f"{place}{image[start : image.rfind('.')]}.txt")
    return found


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
        for found in entries:
            if isinstance(found, Problem):
                problems.append(found)
                continue
            entry, real = found
            first = seen.setdefault(real, entry.image)
            if first is not entry.image:
                message = f"is listed twice in {split!r}; " + (
                    "it counts twice" if data.repair else "remove one"
                )
                problems.append(Problem(entry.image, None, message, "listed-twice",
                                        "repair" if data.repair else "error"))  # fmt: skip
                if not data.repair:
                    continue
            yield entry if first is entry.image else Listed(first, entry.source, entry.line)
    if not seen and len(problems) > before:
        raise UserError(f"{display_path(data.file)}: {split!r} has no usable image; the first problem is "
                        f"{problems[before]}")  # fmt: skip
    if not seen:
        places = ", ".join(map(display_path, sources))
        suffixes = ", ".join(sorted(SUFFIXES))
        raise UserError(f"{display_path(data.file)}: {split!r} has no images: none of {suffixes} in {places}")


def _in_folder(folder: Path) -> Iterator[tuple[Listed, str] | Problem]:
    """All images below a folder, sorted, with their real paths.

    Links are followed, each real folder once, so loops end.
    """
    found: list[tuple[str, str, Path, os.DirEntry[str]]] = []
    unread: Counter[str] = Counter()
    for real, path, entry in _walk(folder):
        _, point, kind = entry.name.rpartition(".")
        suffix = point + kind.lower()
        if suffix in SUFFIXES:
            key = os.path.normcase(entry.path).replace(os.sep, "\0")  # as paths are sorted, folder by folder
            found.append((key, real, path, entry))
        elif suffix in UNREAD_SUFFIXES:
            unread[suffix] += 1
    found.sort(key=itemgetter(0))
    for _, real, path, entry in found:
        link = entry.is_symlink()
        # Reading a pipe or a device would hang; a dangling link is worth a word.
        if os.path.isfile(path) if link else entry.is_file():
            yield Listed(path, folder, None), os.path.realpath(path) if link else real + entry.name
        else:
            yield Problem(path, None, "is not a file; remove it", "no-image")
    if unread:
        kinds = ", ".join(f"{count} {suffix}" for suffix, count in sorted(unread.items()))
        message = f"holds pictures in formats that are not read ({kinds}): save them as JPEG or PNG"
        yield Problem(folder, None, message, "unread-format", "warning", unread.total())


def _walk(folder: Path) -> Iterator[tuple[str, Path, os.DirEntry[str]]]:
    """What is in a folder and in those below it, after the real path of its folder; each real folder once.

    What is hidden is not the user's: macOS leaves a `._photo.jpg` beside every photo it copies, and Jupyter
    copies of what it showed in `.ipynb_checkpoints`.
    """
    walked: set[str] = set()
    left = [folder]
    while left:
        real = os.path.join(os.path.realpath(parent := left.pop()), "")
        if real in walked:
            continue
        walked.add(real)
        below = []
        with suppress(OSError), os.scandir(parent) as entries:
            paths = {path.name: path for path in parent.iterdir()}  # which parses no text: half of the time
            for entry in entries:
                path = paths.get(entry.name)
                if path is None or entry.name.startswith("."):
                    continue
                if os.path.isdir(path) if entry.is_symlink() else entry.is_dir():
                    below.append(path)
                else:
                    yield real, path, entry
        left += sorted(below, reverse=True)


def _in_list(file: Path, data: DataYaml, allow_outside: bool) -> Iterator[tuple[Listed, str] | Problem]:
    """The images of a list file, in its order, with their real paths; relative ones start at its folder."""
    inside, folder = data.folders, str(file.parent)
    try:
        lines = read_bytes(file, MAX_LIST_BYTES).decode("utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"{display_path(file)}: the list of images cannot be read: {reason}") from None
    known: dict[str, tuple[bool, bool, str]] = {}  # folder: is it hidden, are its files inside, its real path
    for number, line in enumerate(lines, start=1):
        if not (written := line.strip()):
            continue
        text = os.path.normpath(os.path.join(folder, written))
        exists, link = _look(text)
        if data.repair and not exists:
            others = filter(os.path.isfile, other_readings(written, file.parent, *inside))
            if (other := next(others, None)) is not None:
                text = str(other)
                exists, link = _look(text)
                message = f"{written[:200]!r} is read as {display_path(text)}"
                yield Problem(file, number, message, "path", "repair")
        path = Path(text)
        if exists and not link:
            parent, name = os.path.split(text)
            if parent not in known:
                real = os.path.join(os.path.realpath(parent), "")
                known[parent] = _is_hidden(path.with_name("x"), file.parent), _is_inside(path, inside), real
            hidden, within, real = known[parent]
            hidden, real = hidden or name.startswith("."), real + name
        else:
            hidden, within = _is_hidden(path, file.parent), _is_inside(path, inside)
            real = os.path.realpath(path) if exists else ""
        if hidden:
            yield Problem(file, number, f"{path.name!r} is hidden, and so no data; remove it", "hidden",
                          "repair" if data.repair else "error")  # fmt: skip
        elif not allow_outside and not within:
            message = (
                f"{written[:200]!r} lies outside the dataset's folder {display_path(inside[0])}; "
                "data.allow_outside=true accepts that"
            )
            yield Problem(file, number, message, "outside")
        elif not exists:
            hint = ": write / instead of \\" if "\\" in written else ""
            yield Problem(file, number, f"there is no image {written[:200]!r}{hint}", "no-image")
        elif path.suffix.lower() not in SUFFIXES:
            yield Problem(file, number, f"{path.name!r} is no image: write one of "
                          f"{', '.join(sorted(SUFFIXES))}", "no-image")  # fmt: skip
        else:
            yield Listed(path, file, number), real


def _look(path: str) -> tuple[bool, bool]:
    """Whether there is a file, and whether it is a link. No error for an overlong name, unlike Path's."""
    try:
        mode = os.lstat(path).st_mode
    except (OSError, ValueError):
        return False, False
    link = stat.S_ISLNK(mode)
    return os.path.isfile(path) if link else stat.S_ISREG(mode), link


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
