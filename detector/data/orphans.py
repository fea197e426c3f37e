"""Label files without an image: usually an image was renamed, and is now taken as a background."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from detector.data.data_yaml import DataYaml
from detector.data.images import SUFFIXES
from detector.data.listing import Listed, label_path

_OTHER_TEXTS = {"classes", "labels", "notes"}  # what annotation tools leave beside labels


def orphan_labels(data: DataYaml, listed: Mapping[str, Sequence[Listed]]) -> Iterator[tuple[Path, Path]]:
    """Label files whose image exists nowhere, each with the folder where its image should be.

    Looked for in the folders that belong to the images of any split. An image that exists but is in no
    split keeps its label file from being an orphan: list files may select from a larger collection.
    """
    lists = {entry.source for entries in listed.values() for entry in entries if entry.line is not None}
    folders: dict[Path, None] = {}
    for entries in listed.values():
        for entry in entries:
            folders[entry.source if entry.line is None else entry.image.parent] = None
    seen: set[Path] = set()
    for images in folders:
        labels = label_path(images / "any.jpg").parent
        for parent, below, files in os.walk(labels):
            below.sort()
            folder = images / Path(parent).relative_to(labels)
            stems: set[str] | None = None
            for name in sorted(files):
                file = Path(parent, name)
                if file.suffix != ".txt" or file in seen or file in lists or not _is_label(file):
                    continue
                seen.add(file)
                stems = _image_stems(folder) if stems is None else stems
                if file.stem not in stems:
                    yield file, folder


def _is_label(file: Path) -> bool:
    stem = file.stem.lower()
    return not stem.startswith((".", "readme")) and stem not in _OTHER_TEXTS


def _image_stems(folder: Path) -> set[str]:
    """The names of a folder's images without their suffixes; none if there is no such folder."""
    try:
        return {Path(name).stem for name in os.listdir(folder) if Path(name).suffix.lower() in SUFFIXES}
    except OSError:
        return set()
