"""Bad archives in place of a data set that is downloaded."""

from __future__ import annotations

import io
import stat
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path

from tests.hostile.corpus import UNZIP, Case, archive, content, damaged


def _entry(
    name: str, data: bytes = b"x", mode: int = 0o644 | stat.S_IFREG
) -> Callable[[zipfile.ZipFile], None]:
    def fill(package: zipfile.ZipFile) -> None:
        entry = zipfile.ZipInfo(name)
        entry.external_attr = mode << 16
        package.writestr(entry, data)

    return fill


def _many(package: zipfile.ZipFile) -> None:
    for number in range(300):
        package.writestr(f"coco8/{number}", b"")


def _overlapping(root: Path) -> None:
    """Two names in the directory that share one local entry."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as package:
        package.writestr("aaaa", b"\0" * 1_000_000)
    data = stream.getvalue()
    begin, end = data.index(b"PK\x01\x02"), data.index(b"PK\x05\x06")
    one = data[begin:end]
    directory = one + one.replace(b"aaaa", b"bbbb")
    tail = struct.pack("<4s4H2IH", b"PK\x05\x06", 0, 0, 2, 2, len(directory), begin, 0)
    (root / "given.zip").write_bytes(data[:begin] + directory + tail)


def _encrypted(data: bytes) -> bytes:
    """The flag that says so, in both headers."""
    data = bytearray(data)
    data[6] |= 1
    data[data.index(b"PK\x01\x02") + 8] |= 1
    return bytes(data)


def _twice(root: Path) -> None:
    archive("given.zip", _entry("x"))(root)
    damaged("given.zip", _encrypted)(root)


def _zip(name: str, fill: Callable[[zipfile.ZipFile], None], words: str) -> Case:
    return Case(f"zip: {name}", archive("given.zip", fill), UNZIP, words)


CASES = [
    _zip("leads out", _entry("../../ran"), "unsafe path"),
    _zip("absolute", _entry("/tmp/ran"), "unsafe path"),
    _zip("of Windows", _entry("..\\ran"), "unsafe path"),
    _zip("of a drive", _entry("C:/ran"), "unsafe path"),
    _zip("a link", _entry("x", b"/etc/passwd", 0o777 | stat.S_IFLNK), "a link or a special file"),
    _zip("a device", _entry("x", b"", 0o666 | stat.S_IFCHR), "a link or a special file"),
    _zip("a bomb", _entry("x", b"\0" * 60_000_000), "unpacks to more than"),
    _zip("hundreds of entries", _many, "more than 200"),
    _zip("a name that moves the cursor", _entry("../\x1b[2J"), "unsafe path"),
    Case("zip: entries that overlap", _overlapping, UNZIP, "zip file"),
    Case("zip: encrypted", _twice, UNZIP, "damaged"),
    Case("zip: text", content("given.zip", "hello"), UNZIP, "damaged"),
    Case("zip: empty", content("given.zip", ""), UNZIP, "damaged"),
]
