"""One image with its labels: what the two files hold, and what is wrong with either."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Floats, Image
from detector.data.images import MAX_BYTES, BadImage, decode_with_header, little_range
from detector.data.labels import MAX_BYTES as MAX_LABEL_BYTES
from detector.data.labels import Labels
from detector.data.problems import Problem
from detector.runtime.files import read_bytes
from detector.runtime.image_header import Header

Signature = NDArray[np.uint8]
Sign = Callable[[Image], Signature]
Parse = Callable[[str], Labels]


@dataclass(frozen=True, slots=True)
class Item:
    """One image and its objects."""

    image: Path  # absolute
    classes: NDArray[np.int64]  # (N,)
    boxes: Floats  # (N, 4) cx cy w h, fractions of the upright image, inside [0, 1]


class Picture(NamedTuple):
    """What an image file holds."""

    content: bytes  # digest of the file
    bytes: int
    header: Header  # of the image as stored
    size: tuple[int, int]  # width and height of the upright image, pixels
    dark: tuple[int, int] | None  # the range of a picture of 16 bits that is black or flat in 8
    signature: Signature | None  # where one was asked for


@dataclass(frozen=True, eq=False, slots=True)
class File:
    """What one image and its label file hold."""

    labels_at: str  # where its labels are, or would be
    item: Item | None = None  # None: the image is unusable
    picture: Picture | None = None
    labels: Labels | None = None
    labelled: bool = False  # there is a label file
    lost: bool = False  # there is one, but nothing in it can be used
    problems: tuple[Problem, ...] = ()

    @property
    def label_file(self) -> Path:
        """Where its labels are, or would be."""
        return Path(self.labels_at)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height of the upright image, pixels; nothing where it is unusable."""
        return (0, 0) if self.picture is None else self.picture.size

    @property
    def signature(self) -> Signature | None:
        """Of the picture, where there is one."""
        return None if self.picture is None else self.picture.signature


def read_picture(path: Path, sign: Sign | None) -> Picture | Problem:
    """Decode one image, or say why it is unusable."""
    try:
        data = read_bytes(path, MAX_BYTES)
        image, header = decode_with_header(data)
    except OSError as error:
        return Problem(path, None, f"the image cannot be read: {error.strerror}", "unreadable")
    except BadImage as error:
        return Problem(path, None, f"{error}; replace or remove it", error.kind)
    return Picture(
        content=hashlib.blake2b(data, digest_size=16).digest(),
        bytes=len(data),
        header=header,
        size=(image.shape[1], image.shape[0]),
        dark=little_range(data, image, header),
        signature=None if sign is None else sign(image),
    )


def read_label_file(path: str, parse: Parse) -> Labels | Problem | None:
    """Parse one label file, or say why it is no text; None: there is none."""
    try:
        data = read_bytes(Path(path), MAX_LABEL_BYTES)
        if _is_wide(data):  # UTF-16 without its mark is good UTF-8, half of it NULs
            raise UnicodeDecodeError("utf-8", data, 0, 1, "it is UTF-16")
        return parse(data.decode("utf-8-sig"))  # Windows editors write a BOM
    except FileNotFoundError:
        return None
    except UnicodeDecodeError as error:
        wide = data[:2] in (b"\xff\xfe", b"\xfe\xff") or _is_wide(data)
        reason: object = "UTF-16, save it as UTF-8" if wide else error
    except OSError as error:
        reason = error.strerror
    return Problem(Path(path), None, f"the labels cannot be read: {reason}", "unreadable")


def join(
    image: Path, labels_at: str, picture: Picture | Problem, labels: Labels | Problem | None, nothing: Labels
) -> File:
    """What was read of an image and of its label file; `nothing` is what an empty one holds."""
    if isinstance(picture, Problem):
        return File(labels_at, labelled=os.path.isfile(labels_at), problems=(picture,))
    if labels is None:  # a background: an image on purpose without objects
        return File(labels_at, Item(image, nothing.classes, nothing.boxes), picture, nothing)
    problems: list[Problem] = []
    if isinstance(labels, Problem):
        problems, labels = [labels], nothing
    if labels.mistakes or labels.repairs:
        file = Path(labels_at)
        problems += [Problem(file, line, message, kind) for line, kind, message in labels.mistakes]
    lost = bool(problems) and not len(labels.classes)
    if labels.repairs:
        problems += [Problem(file, line, text, kind, "repair") for line, kind, text in labels.repairs]
    item = Item(image, labels.classes, labels.boxes)
    return File(labels_at, item, picture, labels, True, lost, tuple(problems))


def _is_wide(data: bytes) -> bool:
    return len(data) / 3 < data.count(b"\0") < len(data) * 2 / 3
