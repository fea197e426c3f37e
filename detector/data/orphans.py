"""Label files without an image and images without a label file, which often belong together.

A renamed image, `A.TXT` or `a.jpg.txt` for `a.jpg`, an accent written in another way: the image would be
taken as a background, and its labels as nothing.
"""

from __future__ import annotations

import os
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from detector.data.data_yaml import DataYaml
from detector.data.images import SUFFIXES
from detector.data.labels import MAX_BYTES
from detector.data.listing import Listed, label_path
from detector.data.problems import Problem
from detector.errors import display_path
from detector.runtime.files import read_bytes

_OTHER_TEXTS = {"classes", "labels", "notes"}  # what annotation tools leave beside labels


def stray_labels(
    images: Iterable[Path], labelled: Collection[Path], problems: list[Problem], repair: bool
) -> dict[Path, str]:
    """The label files of images that have none at their place: image -> file, where one reading is possible.

    Names are compared without case and with accents in one form. Files beside images of a folder called
    `images` are taken where none of these has labels in the folder `labels`.

    Args:
        images: all that are used.
        labelled: those of them that have a label file at its place.
        problems: what is found is added here.
        repair: otherwise nothing is taken, and what is found is an error.
    """
    found: dict[Path, str] = {}
    folders: dict[str, list[Path]] = defaultdict(list)
    for image in images:
        text = str(image)
        folders[text[: text.rfind(os.sep)] or os.sep].append(image)
    for folder, members in folders.items():
        bare = [image for image in members if image not in labelled]
        place = str(label_path(Path(folder, "any.jpg")).parent)
        here: dict[Path, str] = {}
        kind = "label-name"
        if bare:
            taken = {f"{_stem(image)}.txt" for image in members if image in labelled}
            here = _matches(bare, place, _texts(place) - taken)
        beside = {} if place == folder else _matches(members, folder, _texts(folder))
        if beside and len(bare) == len(members) and not here:
            here, kind, beside = beside, "labels-beside", {}
        unread = [image for image, file in beside.items() if _is_news(Path(file), label_path(image))]
        if unread:
            target = display_path(place)
            message = f"{len(unread)} label files beside their images are not read: move them to {target}"
            problems.append(Problem(Path(folder), None, message, "labels-beside", "warning", len(unread)))
        for image, file in here.items():
            message = (
                f"is read as the labels of {display_path(image)}"
                if repair
                else f"belongs to {display_path(image)}? rename it"
            )
            problems.append(Problem(Path(file), None, message, kind, "repair" if repair else "error"))
        found |= here
    return found if repair else {}


def _texts(folder: str) -> set[str]:
    """The names of a folder's files that may be labels."""
    try:
        return {name for name in os.listdir(folder) if _is_label(name)}
    except OSError:
        return set()


def _stem(path: str | Path) -> str:
    return os.path.splitext(os.path.basename(path))[0]


def _is_news(file: Path, read: Path) -> bool:
    """Whether a label file says something else than the one that is read, if there is one."""
    try:
        return not read.is_file() or read_bytes(file, MAX_BYTES) != read_bytes(read, MAX_BYTES)
    except OSError:
        return False


def _matches(images: Sequence[Path], folder: str, files: Collection[str]) -> dict[Path, str]:
    """Image -> its label file in this folder, where either could be no other's."""
    if not files:
        return {}
    by_name: dict[str, set[str]] = defaultdict(set)
    for file in files:
        by_name[_plain(_stem(file))].add(file)
    nothing: set[str] = set()
    candidates = {
        image: by_name.get(_plain(_stem(image)), nothing)
        | by_name.get(_plain(os.path.basename(image)), nothing)
        for image in images
    }
    owners = Counter(file for members in candidates.values() for file in members)
    single = {image: next(iter(members)) for image, members in candidates.items() if len(members) == 1}
    return {image: os.path.join(folder, file) for image, file in single.items() if owners[file] == 1}


def _plain(name: str) -> str:
    return unicodedata.normalize("NFC", name).casefold()


def orphan_labels(
    data: DataYaml, listed: Mapping[str, Sequence[Listed]], used: Collection[str]
) -> Iterator[tuple[Path, Path]]:
    """Label files whose image exists nowhere, each with the folder where its image should be.

    Looked for in the folders that belong to the images of any split. An image that exists but is in no
    split keeps its label file from being an orphan: list files may select from a larger collection.
    `used` are label files that are read.
    """
    lists = {str(entry.source) for entries in listed.values() for entry in entries if entry.line is not None}
    folders: dict[str, None] = {}
    for entries in listed.values():
        for entry in entries:
            folders[str(entry.source) if entry.line is None else os.path.dirname(entry.image)] = None
    seen: set[str] = {*used, *lists}
    for images in folders:
        labels = label_path(Path(images, "any.jpg")).parent
        for parent, below, files in os.walk(labels):
            below[:] = sorted(name for name in below if not name.startswith("."))
            folder = images / Path(parent).relative_to(labels)
            stems: set[str] | None = None
            inside = os.path.join(parent, "")
            for name in sorted(files):
                text = inside + name
                if text in seen or not _is_label(name):
                    continue
                seen.add(text)
                stems = _image_stems(folder) if stems is None else stems
                file = Path(text)
                if file.suffix != ".txt" or file.stem not in stems:
                    yield file, folder


def _is_label(name: str) -> bool:
    if name[-4:].lower() != ".txt":
        return False
    stem, suffix = os.path.splitext(name.lower())
    return suffix == ".txt" and not stem.startswith((".", "readme")) and stem not in _OTHER_TEXTS


def _image_stems(folder: Path) -> set[str]:
    """The names of a folder's images without their suffixes; none if there is no such folder."""
    try:
        names = map(os.path.splitext, os.listdir(folder))
    except OSError:
        return set()
    return {stem for stem, suffix in names if suffix.lower() in SUFFIXES}
