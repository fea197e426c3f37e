"""Letterboxed images on disk: where they do not fit in memory, each is decoded once and then only copied.

One file a split, in the user's cache folder and never beside the data, filled as images are first read.
Several processes, also of several runs, may fill and read it at once: they write the same bytes, and a
checksum tells whole images from torn ones. It is a copy of what can be read again: where anything fails, the
images are decoded as if there were none.
"""

from __future__ import annotations

import fcntl
import hashlib
import logging
import os
import shutil
import struct
from collections.abc import Sequence
from contextlib import suppress
from functools import cache
from pathlib import Path

import cv2
import numpy as np

from detector.data import geometry, images
from detector.data.geometry import Image, Letterbox
from detector.runtime import image_header
from detector.runtime.array_cache import LEAVE_FREE, unused
from detector.runtime.files import CACHE

FOLDER = CACHE / "images"
LAYOUT = 1  # of the file; another one gets other names
_HEAD = struct.Struct("<QII")  # checksum, width and height of the image as it was

_log = logging.getLogger(__name__)


class ImageCache:
    """The letterboxed images of one split, by their number."""

    def __init__(self, images: Sequence[Path], size: int, folder: Path | None = None) -> None:
        """Open the cache of these files as they are now, or begin it.

        Where that cannot be, for want of space or of the right to write, a line is logged, and nothing is
        ever found in it.

        Args:
            images: the files.
            size: of the letterboxed square, pixels.
            folder: where caches are kept; None: the user's cache folder.
        """
        folder = FOLDER if folder is None else folder
        self._set_up(size)
        try:
            path = folder / _name(images, size)
            folder.mkdir(parents=True, exist_ok=True)
            self._remove_unused(folder, path)
            # The file is sparse: what is not there yet takes no room so far.
            written = path.stat().st_blocks * 512 if path.exists() else 0
            free, needed = shutil.disk_usage(folder).free, self._slot * len(images) - written
            if needed > free * LEAVE_FREE:
                self._full = True
                _log.warning(
                    "data.cache: %s has room for %.1f GB, and %.1f GB are needed: nothing more is kept",
                    folder, free * LEAVE_FREE / 1e9, needed / 1e9,
                )  # fmt: skip
                if not written:
                    return
            self._open(path)
        except OSError as error:
            self.close()
            _log.warning(
                "data.cache: %s: %s: images are decoded anew", error.filename or folder, error.strerror
            )

    def _set_up(self, size: int) -> None:
        self._size, self._slot = size, _HEAD.size + size * size * 3
        self._file, self._path, self._full = -1, Path(), False

    def _open(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        self._path = path
        with suppress(OSError):  # a file system without locks: nothing is removed there while it is in use
            fcntl.flock(self._file, fcntl.LOCK_SH | fcntl.LOCK_NB)  # in use, by any number of processes
        os.utime(path)

    def get(self, index: int) -> tuple[Image, Letterbox] | None:
        """Image number `index`, (size, size, 3), and how it sits there; None if it is not there whole."""
        if self._file < 0:
            return None
        head, image = bytearray(_HEAD.size), np.empty((self._size, self._size, 3), np.uint8)
        try:
            read = os.preadv(self._file, [head, image.data.cast("B")], index * self._slot)
        except OSError:
            return None
        checksum, width, height = _HEAD.unpack(head)
        if read != self._slot or checksum != _checksum(image, width, height):
            return None
        return image, Letterbox(self._size, width, height)

    def put(self, index: int, image: Image, box: Letterbox) -> None:
        """Keep image number `index`. Where that fails, such as on a full disk, no more are kept."""
        if self._file < 0 or self._full:
            return
        head = _HEAD.pack(_checksum(image, box.width, box.height), box.width, box.height)
        try:
            written = os.pwritev(
                self._file, [head, np.ascontiguousarray(image).data.cast("B")], index * self._slot
            )
            if written == self._slot:
                return
            problem = "it could not be written whole"
        except OSError as error:
            problem = error.strerror or str(error)
        _log.warning("data.cache: %s: the images that are not there yet are decoded anew", problem)
        self._full = True

    def close(self) -> None:
        """Let go of the file."""
        if self._file >= 0:
            os.close(self._file)
        self._file = -1

    def __del__(self) -> None:
        self.close()

    def __getstate__(self) -> tuple[int, Path, bool]:
        """What a process that is not forked opens the same file by, whatever has become of the images."""
        return self._size, self._path if self._file >= 0 else Path(), self._full

    def __setstate__(self, state: tuple[int, Path, bool]) -> None:
        size, path, full = state
        self._set_up(size)
        self._full = full
        if path != Path():
            with suppress(OSError):
                self._open(path)

    @staticmethod
    def _remove_unused(folder: Path, wanted: Path) -> None:
        for path in unused(folder, "*.images"):
            with suppress(OSError):
                if path == wanted:
                    continue
                with path.open("r+b") as file:  # NFS has an exclusive lock only of what may be written to
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)  # nobody is using it
                    path.unlink()


def _name(images: Sequence[Path], size: int) -> str:
    """Of the cache of these files: another one when one of them changes, or what decodes them."""
    digest = hashlib.sha256(f"{LAYOUT} {size} {cv2.__version__} {_decoder()}".encode())
    for image in images:
        status = os.stat(image)
        digest.update(f"{image}\0{status.st_size} {status.st_mtime_ns} {status.st_ctime_ns}\0".encode(
            errors="surrogateescape"))  # fmt: skip
    return f"{digest.hexdigest()[:32]}.images"


@cache
def _decoder() -> str:
    """A digest of the code that decodes and letterboxes."""
    code = (Path(str(module.__file__)).read_bytes() for module in (geometry, images, image_header))
    return hashlib.sha256(b"".join(code)).hexdigest()


def _checksum(image: Image, width: int, height: int) -> int:
    """Of what a power cut leaves half written, no attack: never 0, as where nothing was written."""
    words = np.ascontiguousarray(image).reshape(-1).view(np.uint64)  # of a multiple of 32 pixels squared
    return (int(words.sum(dtype=np.uint64)) ^ width << 32 ^ height) or 1
