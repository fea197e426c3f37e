"""What an earlier reading found in files that have not changed since, so that they need not be read again.

A file is what it was if its size, its times and its number on the disk (inode) are. One that was changed just
before it was read is not kept: it could change again within one tick of the disk's clock and look the same.
"""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any, Generic, TypeVar

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data import geometry, images, labels, near_duplicates, reading
from detector.data.labels import Labels, Mistake
from detector.data.reading import Picture
from detector.runtime import array_cache, files, image_header
from detector.runtime.array_cache import Arrays
from detector.runtime.image_header import Header

FEW = 100  # files are read as fast as they are looked up
TICK = 2_000_000_000  # nanoseconds; of the coarsest clock: FAT's
_ABSENT, _UNKNOWN = -1, -2  # in place of a size
_63_BITS = 2**63 - 1

Found = TypeVar("Found")
Pack = Callable[[Sequence[Found]], Arrays]
Unpack = Callable[[Arrays, Sequence[int]], Sequence[Found]]  # the rows of these numbers


class FileCache(Generic[Found]):
    """Of some files, what an earlier reading found in them."""

    def __init__(self, what: Sequence[object], pack: Pack[Found], unpack: Unpack[Found]) -> None:
        """Nothing is looked up yet.

        Args:
            what: whose files these are, and everything that what is found depends on beside them.
            pack: what was found, as arrays whose first axis is that of the files.
            unpack: the way back. It raises LookupError or ValueError where the arrays are none of `pack`'s.
        """
        text = repr((*what, _reader(), cv2.__version__, np.__version__))
        self._name = hashlib.sha256(text.encode(errors="surrogateescape")).hexdigest()[:32]
        self._pack, self._unpack = pack, unpack
        self._states = np.empty((0, 4), np.int64)
        self._began = 0
        self._recalled: list[int] = []

    def recall(self, paths: Sequence[str], afresh: bool) -> dict[int, Found | None]:
        """What is known of the files, by their place in `paths`; None: it is known that there is none.

        Args:
            paths: of the files.
            afresh: know nothing; but `keep` needs to know how the files were before they are read.
        """
        if len(paths) < FEW:
            return {}
        self._began, self._states = time.time_ns(), file_states(paths)
        arrays = None if afresh else array_cache.load(self._name)
        found: Sequence[Found] = ()
        if arrays is not None:
            # Whatever is wrong with arrays that `keep` has not written: nothing is known then.
            with suppress(LookupError, ValueError, TypeError, AttributeError, RecursionError):
                names = arrays["paths"].tobytes().decode(errors="surrogateescape").split("\0")
                rows = np.arange(len(names))
                if names != list(paths):
                    row_of = {name: row for row, name in enumerate(names)}
                    rows = np.array([row_of.get(path, -1) for path in paths])
                same = (arrays["states"][rows] == self._states).all(axis=1) & (rows >= 0)
                found = self._unpack(arrays, rows[same].tolist())
                self._recalled = np.flatnonzero(same).tolist()
        absent = [] if afresh else np.flatnonzero(self._states[:, 0] == _ABSENT).tolist()
        known: dict[int, Found | None] = dict.fromkeys(absent)
        known.update(zip(self._recalled, found, strict=True))
        return known

    def keep(self, paths: Sequence[str], found: Mapping[int, Found]) -> None:
        """Keep what was found for the next time, if it is more than was recalled.

        Args:
            paths: as they were given to `recall`.
            found: by their place; what is not there, such as an image that cannot be decoded, is not kept.
        """
        if len(paths) < FEW:
            return
        old = (self._states[:, 0] >= 0) & (changed(self._states) < self._began - TICK)
        places = [place for place in np.flatnonzero(old).tolist() if place in found]
        if not set(places) - set(self._recalled):
            return
        names = "\0".join(paths[place] for place in places).encode(errors="surrogateescape")
        arrays = self._pack([found[place] for place in places])
        arrays |= {"paths": np.frombuffer(names, np.uint8), "states": self._states[places]}
        array_cache.save(self._name, arrays)


@cache
def _reader() -> str:
    """A digest of the code that reads: when that changes, nothing is known any more."""
    digest = hashlib.sha256()
    for module in (geometry, images, labels, near_duplicates, reading, files, image_header):
        digest.update(Path(str(module.__file__)).read_bytes())
    return digest.hexdigest() + hashlib.sha256(Path(__file__).read_bytes()).hexdigest()


def file_states(paths: Sequence[str]) -> NDArray[np.int64]:
    """(N, 4) size, time of the last change of content and of anything (nanoseconds), and inode."""
    states = []
    for path in paths:
        try:
            found = os.stat(path)
        except FileNotFoundError:
            states.append((_ABSENT,) * 4)
        except (OSError, ValueError):
            states.append((_UNKNOWN,) * 4)
        else:
            states.append((found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino))
    try:
        return np.array(states, np.int64).reshape(-1, 4)
    except OverflowError:  # an inode may need 64 bits, and so may a time after the year 2262
        small = [
            [number & _63_BITS if not -_63_BITS <= number <= _63_BITS else number for number in state]
            for state in states
        ]
        return np.array(small, np.int64)


def changed(states: NDArray[np.int64]) -> NDArray[np.int64]:
    """(N,) when each file was changed last, nanoseconds: by the system's clock, where it keeps such a time.

    The other time is whatever somebody set it to, such as one in the future. On Windows there is only that.
    """
    return states[:, 1] if os.name == "nt" else states[:, 2]


_NO_RANGE = (-1, -1)
_FORMATS = ("JPEG", "PNG", "BMP", "TIFF", "WebP")


def pack_pictures(pictures: Sequence[Picture]) -> Arrays:
    """Pictures, a row each."""
    headers = [one.header for one in pictures]
    return {
        "content": np.frombuffer(b"".join(one.content for one in pictures), np.uint8).reshape(-1, 16),
        "numbers": np.array(
            [
                (one.bytes, *one.size, *(one.dark or _NO_RANGE), _FORMATS.index(header.format), header.width,
                 header.height, header.orientation)
                for one, header in zip(pictures, headers, strict=True)
            ],
            np.int64,
        ),
        "signatures": np.stack([one.signature for one in pictures if one.signature is not None]),
    }  # fmt: skip


def unpack_pictures(arrays: Arrays, rows: Sequence[int]) -> list[Picture]:
    """Some of the pictures that `pack_pictures` was given."""
    content, numbers, signatures = (arrays[key] for key in ("content", "numbers", "signatures"))
    check(content, np.uint8, (len(numbers), 16))
    check(numbers, np.int64, (len(numbers), 9))
    check(signatures, np.uint8, (len(numbers), near_duplicates.SIDE, near_duplicates.SIDE + 1))
    digests, lists = content.tobytes(), numbers.tolist()
    headers: dict[tuple[int, ...], Header] = {}  # most are alike
    found = []
    for row in rows:
        size, width, height, low, high, *header = lists[row]
        key = tuple(header)
        if key not in headers:
            headers[key] = Header(_FORMATS[header[0]], *header[1:])
        found.append(
            Picture(
                digests[16 * row : 16 * row + 16],
                size,
                headers[key],
                (width, height),
                None if low < 0 else (low, high),
                signatures[row],
            )
        )
    return found


_COLUMNS: dict[str, tuple[type[np.generic], tuple[int, ...]]] = {
    "classes": (np.int64, ()),
    "boxes": (np.float32, (4,)),
    "lines": (np.int64, ()),
    "outside": (np.float32, (2,)),
    "corners": (np.bool_, ()),
}


def pack_labels(read: Sequence[Labels]) -> Arrays:
    """Label files: how many boxes each has, and all boxes in a row."""
    odd = {row: (one.mistakes, one.repairs) for row, one in enumerate(read) if one.mistakes or one.repairs}
    return {
        "counts": np.array([len(one.classes) for one in read], np.int64),
        "odd": np.frombuffer(json.dumps(odd).encode(), np.uint8),
        **{column: np.concatenate([getattr(one, column) for one in read]) for column in _COLUMNS},
    }


def unpack_labels(arrays: Arrays, rows: Sequence[int]) -> list[Labels]:
    """Some of the label files that `pack_labels` was given."""
    counts = arrays["counts"]
    check(counts, np.int64, (len(counts),))
    if (counts < 0).any():
        raise ValueError("a file has fewer boxes than none")
    for column, (kind, shape) in _COLUMNS.items():
        check(arrays[column], kind, (int(counts.sum()), *shape))
    odd = {
        int(row): tuple(tuple(Mistake(*one) for one in those) for those in both)
        for row, both in json.loads(arrays["odd"].tobytes()).items()
    }
    ends = counts.cumsum().tolist()
    columns = [arrays[column] for column in _COLUMNS]
    found = []
    for row in rows:
        part = slice(ends[row - 1] if row else 0, ends[row])
        classes, boxes, lines, outside, corners = (column[part] for column in columns)
        found.append(Labels(classes, boxes, lines, outside, corners, *odd.get(row, ((), ()))))
    return found


def check(array: NDArray[Any], kind: type[np.generic], shape: tuple[int, ...]) -> None:
    """Raise ValueError if an array is not of this type and shape."""
    if array.dtype != kind or array.shape != shape:
        raise ValueError("not an array that was kept")
