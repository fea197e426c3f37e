"""A large data set as the last run took it, if no file of it has changed since.

`file_cache` spares reading the files, and this what is then worked out of them: copies, statistics, notes.
What is kept is believed while everything is the same that a data set and its notes depend on: the data YAML,
how it is read, each file's state, and the names in all folders where images or labels are looked for.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import astuple
from functools import cache
from itertools import chain
from pathlib import Path

import cv2
import numpy as np

from detector.data import file_cache
from detector.data.data_yaml import read_data_yaml
from detector.data.dataset import Dataset, Reading
from detector.data.listing import label_path, label_paths, list_splits
from detector.data.problems import Note, Problem
from detector.data.reading import Item
from detector.errors import UserError
from detector.runtime import array_cache
from detector.runtime.files import PACKAGE

_ELSEWHERE = {"label-name", "labels-beside"}  # of labels whose states are not part of the key


class DatasetCache:
    """One data set, read in one way."""

    def __init__(self, yaml: Path, root: Path | None, image_size: int, how: Reading) -> None:
        """Look at its files as they are now, but read none."""
        self._of = yaml, root, image_size, how
        self._name, self._key, self._images = "", b"", list[Path]()
        problems: list[Problem] = []
        began = time.time_ns()
        try:
            data = read_data_yaml(yaml, repair=how["repair"])
            data = data if root is None else data.at(root)
            data = data.without_val() if how["val_fraction"] else data
            listed = list_splits(data, None, problems, how["val_fraction"] > 0, how["allow_outside"])
            here = os.getcwd()  # notes name files from there
        except (UserError, OSError):
            return  # as reading it will say
        entries = [entry for members in listed.values() for entry in members]
        paths = [str(entry.image) for entry in entries]
        unique = dict(zip(paths, (entry.image for entry in entries), strict=True))
        if len(unique) < file_cache.FEW:
            return
        folders = {path[: path.rfind(os.sep)] or os.sep for path in unique}
        folders |= {str(entry.source) for entry in entries if entry.line is None}
        contents = _contents(folders)
        texts = [os.path.join(one, name) for one in folders for name in contents[one] if _is_text(name)]
        # Labels beside their images count where they differ from those that are read.
        files = dict.fromkeys([*unique, *label_paths(unique.values()), *sorted(texts)])
        states = file_cache.file_states(list(files))
        if file_cache.changed(states).max() >= began - file_cache.TICK:
            return  # a file may change again within one tick of the disk's clock
        what = repr((data, data.folders, image_size, sorted(how.items()), here))
        sources = {id(entry.source): str(entry.source) for entry in entries}
        number = {place: index for index, place in enumerate(sources)}
        digest = hashlib.sha256(_code())
        digest.update(np.array([(number[id(one.source)], one.line or 0) for one in entries]).tobytes())
        digest.update(states.tobytes())
        counts = [(split, len(members)) for split, members in listed.items()]
        about = (what, repr(counts), repr(problems), *sources.values(), *paths)
        for part in ("\0".join(about), *("\0".join([one, *names]) for one, names in contents.items())):
            digest.update(f"{part}\0\0".encode(errors="surrogateescape"))
        self._name = hashlib.sha256(f"data set\0{what}".encode(errors="surrogateescape")).hexdigest()[:32]
        self._key, self._images = digest.digest(), list(unique.values())

    def recall(self) -> Dataset | None:
        """The data set, if it is known."""
        arrays = array_cache.load(self._name) if self._name else None
        # Whatever is wrong with arrays that `keep` has not written: nothing is known then.
        with suppress(LookupError, ValueError, TypeError, AttributeError, RecursionError):
            if arrays is None or arrays["key"].tobytes() != self._key:
                return None
            about = json.loads(arrays["about"].tobytes())
            rows, counts, classes, boxes = (arrays[key] for key in ("rows", "counts", "classes", "boxes"))
            file_cache.check(rows, np.int64, (sum(many for _, many in about["splits"]),))
            file_cache.check(counts, np.int64, rows.shape)
            file_cache.check(classes, np.int64, (int(counts.sum()),))
            file_cache.check(boxes, np.float32, (len(classes), 4))
            ends = counts.cumsum().tolist()
            items = [
                Item(self._images[row], classes[start:end], boxes[start:end])
                for row, start, end in zip(rows.tolist(), [0, *ends], ends, strict=False)
            ]
            splits, first = {}, 0
            for split, many in about["splits"]:
                splits[split] = tuple(items[first : first + many])
                first += many
            notes = tuple(Note(*note) for note in about["notes"])
            fingerprint, pixels = about["digests"]
            return Dataset(about["name"], tuple(about["names"]), splits, (), fingerprint, notes, pixels)
        return None

    def keep(self, dataset: Dataset) -> None:
        """Keep the data set for the next time, unless there is something in it that the key does not see."""
        if not self._name or dataset.skipped or {note.kind for note in dataset.notes} & _ELSEWHERE:
            return
        if DatasetCache(*self._of)._key != self._key:
            return  # it changed while it was read
        row_of = {image: row for row, image in enumerate(self._images)}
        items = [item for members in dataset.splits.values() for item in members]
        about = {
            "name": dataset.name,
            "names": dataset.names,
            "splits": [(split, len(members)) for split, members in dataset.splits.items()],
            "digests": (dataset.fingerprint, dataset.pixels),
            "notes": [astuple(note) for note in dataset.notes],
        }
        array_cache.save(
            self._name,
            {
                "key": np.frombuffer(self._key, np.uint8),
                "about": np.frombuffer(json.dumps(about).encode(), np.uint8),
                "rows": np.array([row_of[item.image] for item in items]),
                "counts": np.array([len(item.classes) for item in items]),
                "classes": np.concatenate([item.classes for item in items]),
                "boxes": np.concatenate([item.boxes for item in items]),
            },
        )


@cache
def _code() -> bytes:
    """A digest of the code that works it out."""
    digest = hashlib.sha256(f"{cv2.__version__} {np.__version__}".encode())
    parts = [sorted(Path(PACKAGE, folder).glob("*.py")) for folder in ("data", "runtime", "config")]
    for path in (Path(PACKAGE, "errors.py"), *chain.from_iterable(parts)):
        digest.update(path.read_bytes())
    return digest.digest()


def _contents(folders: Iterable[str]) -> dict[str, list[str]]:
    """What is in these folders of images, and in the folders that labels of such images may be in."""
    found: dict[str, list[str]] = {}
    for folder in sorted(folders):
        found[folder] = _names(folder)
        labels = label_path(Path(folder, "any.jpg")).parent
        for parent, below, files in os.walk(labels):
            found[parent] = sorted([*below, *files])
            images = os.path.normpath(os.path.join(folder, os.path.relpath(parent, labels)))
            if images not in found:
                found[images] = _names(images)
    return found


def _names(folder: str) -> list[str]:
    try:
        return sorted(os.listdir(folder))
    except OSError:
        return []


def _is_text(name: str) -> bool:
    return name[-4:].lower() == ".txt"
