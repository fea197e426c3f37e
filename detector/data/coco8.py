"""COCO8: eight pictures of COCO train2017, fetched from the official address.

What arrives is not trusted: every wait is bounded, the archive is checked before a byte of it is
unpacked, and the folder appears whole or not at all.
"""

from __future__ import annotations

import os
import shutil
import stat
import tempfile
import zipfile
import zlib
from pathlib import Path, PurePosixPath, PureWindowsPath
from urllib.error import HTTPError

from detector.data.download import STALL_SECONDS, download
from detector.errors import UserError

URL = "https://github.com/ultralytics/assets/releases/download/v0.0.0/coco8.zip"
TOTAL_SECONDS = 300.0  # against a server that sends a byte every nine seconds
MAX_BYTES = 50_000_000  # of the download, and again of its content; the real one has 0.4 MB
MAX_FILES = 200
CONTENT = {  # folder: (suffix, count)
    "images/train": (".jpg", 4),
    "images/val": (".jpg", 4),
    "labels/train": (".txt", 4),
    "labels/val": (".txt", 4),
}


class DatasetUnavailable(UserError):  # noqa: N818  what it says, not that it is an error
    """A dataset can be neither found nor fetched. The caller may use another one."""


def fetch_coco8(
    destination: Path, *, url: str = URL, stall_seconds: float = STALL_SECONDS,
    total_seconds: float = TOTAL_SECONDS,
) -> Path:  # fmt: skip
    """Download COCO8 into a new folder with `images/` and `labels/`.

    Everything happens in a temporary folder beside the destination, which is removed whatever
    happens, and is renamed at the end. An existing destination is never touched.

    Args:
        destination: the folder to create; its parent is created if the grandparent exists.
        url: http or https address of the zip file.
        stall_seconds: how long to wait for the next byte.
        total_seconds: how long the whole download may take.

    Returns:
        `destination`.

    Raises:
        DatasetUnavailable: it could not be had; the message says why and what to do.
        UserError: the destination exists already.
    """
    if os.path.lexists(destination):
        raise UserError(f"{destination}: exists already; remove it to download COCO8 again")
    try:
        destination.parent.mkdir(exist_ok=True)
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".coco8-") as folder:
            archive, content = Path(folder, "coco8.zip"), Path(folder, "content")
            download(
                url, archive, largest=MAX_BYTES, stall_seconds=stall_seconds, total_seconds=total_seconds
            )
            content.mkdir()
            extract_safely(archive, content)
            _publish(_verified(content), destination)
    except (OSError, ValueError) as error:
        reason = error if isinstance(error, HTTPError) else getattr(error, "strerror", None) or error
        raise DatasetUnavailable(
            f"COCO8 could not be downloaded from {url} to {destination}: {reason}; check the network, or put "
            f"its images/ and labels/ there yourself"
        ) from error
    return destination


def extract_safely(archive: Path, folder: Path) -> None:
    """Unpack a zip file of unknown origin into an empty folder.

    Raises:
        ValueError: it is no intact zip file, or it holds a path outside the folder, a link, a name
            twice, an encrypted file, more than MAX_FILES entries or more than MAX_BYTES unpacked.
    """
    try:
        with zipfile.ZipFile(archive) as package:
            entries = package.infolist()
            if len(entries) > MAX_FILES:
                raise ValueError(f"the zip file holds {len(entries)} entries, more than {MAX_FILES}")
            if sum(entry.file_size for entry in entries) > MAX_BYTES:
                raise ValueError(f"the zip file unpacks to more than {MAX_BYTES // 1_000_000} MB")
            for entry in entries:
                _check_entry(entry)
            for entry in entries:  # only now that all of them are harmless
                target = folder / entry.filename
                if entry.is_dir():
                    target.mkdir(parents=True, exist_ok=True)
                    continue
                target.parent.mkdir(parents=True, exist_ok=True)
                # zipfile stops at the announced size and then compares the checksum: no entry can
                # unpack to more than was counted above. "x" refuses a name that was there before.
                with package.open(entry) as source, target.open("xb") as file:
                    shutil.copyfileobj(source, file)
    except FileExistsError as error:
        raise ValueError(f"the zip file holds {Path(error.filename).name!r} twice") from error
    except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError) as error:
        raise ValueError(f"the zip file is damaged: {error}") from error


def _check_entry(entry: zipfile.ZipInfo) -> None:
    """Refuse an entry that could end up outside the folder, or as anything but a file or a folder."""
    name = entry.filename
    posix, windows = PurePosixPath(name), PureWindowsPath(name)
    if posix.is_absolute() or windows.drive or "\\" in name or ".." in posix.parts:
        raise ValueError(f"the zip file holds an unsafe path: {name!r}")
    kind = stat.S_IFMT(entry.external_attr >> 16)
    if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
        raise ValueError(f"the zip file holds a link or a special file: {name!r}")


def _verified(content: Path) -> Path:
    """The folder that holds `images` and `labels`, once their counts are right."""
    root = content / "coco8" if (content / "coco8").is_dir() else content
    for name, (suffix, expected) in CONTENT.items():
        count = sum(not path.name.startswith(".") for path in (root / name).glob(f"*{suffix}"))
        if count != expected:
            raise ValueError(f"the zip file has {count} {suffix} files in {name}, expected {expected}")
    return root


def _publish(folder: Path, destination: Path) -> None:
    """Rename into place. Losing a race against another run that fetches the same is a success."""
    try:
        folder.rename(destination)
    except OSError:
        if not destination.is_dir():
            raise
