"""What a picture file says of itself before any pixel is decoded: format, size, orientation.

A file of a few kilobytes can decode to gigabytes, so its size has to be known first. Only the five
formats that are accepted are parsed, each as far as its size and its EXIF orientation. Sources: the
specifications of JPEG (ITU T.81), PNG (third edition), BMP, TIFF 6.0 and WebP (RFC 9649); EXIF is a TIFF.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# A JPEG marker that is neither a stuffed zero, a restart (both belong to the pixel data) nor fill.
# Only the last of several fill bytes is matched: `\xff+` would walk a long row of them once for each.
_JPEG_MARKER = re.compile(rb"\xff([^\x00\xd0-\xd7\xff])", re.DOTALL)
JPEG_END, JPEG_SCAN = 0xD9, 0xDA
_JPEG_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # these three hold tables
_JPEG_APP1 = 0xE1
_WIDTH, _HEIGHT, _ORIENTATION, _TILE_WIDTH, _TILE_HEIGHT = 256, 257, 274, 322, 323  # TIFF tags
_SIZES = frozenset({_WIDTH, _HEIGHT, _TILE_WIDTH, _TILE_HEIGHT})
_INTEGERS = {1: "B", 3: "H", 4: "I"}  # TIFF field types
_MOST_TAGS = 4096  # real files have a few dozen
_LARGE_TILE = 4096 * 4096  # pixels; a decoder holds a whole tile, however small the picture is
_MOST_SEGMENTS = 200_000  # a PNG of 400 MB has 50,000; millions of empty ones would take minutes


@dataclass(frozen=True)
class Header:
    """A picture as stored, which is not upright if `orientation` is not 1."""

    format: str  # JPEG, PNG, BMP, TIFF or WebP
    width: int  # pixels
    height: int
    orientation: int = 1  # EXIF: 1 is upright, 2 to 8 are turned or mirrored


def read_header(data: bytes) -> Header:
    """Read the header of a picture.

    Raises:
        ValueError: it is in none of the five formats, or its header is damaged.
    """
    try:
        if data.startswith(b"\xff\xd8"):
            return _jpeg(data)
        if data.startswith(b"\x89PNG\r\n\x1a\n"):
            return _png(data)
        if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
            return _webp(data)
        if data.startswith((b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")):
            return _tiff(data)
        if data.startswith(b"BM"):
            return _bmp(data)
    except (struct.error, KeyError) as error:
        raise ValueError("its header is damaged") from error
    raise ValueError("it is none of JPEG, PNG, BMP, TIFF and WebP")


def jpeg_segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """The segments of a JPEG as (marker, start of its content, length of its content)."""
    position = 2
    for _ in range(_MOST_SEGMENTS):
        if (found := _JPEG_MARKER.search(data, position)) is None:
            return
        marker, position = found[1][0], found.end()
        if marker in (JPEG_END, 0x01):  # these two have no content, and so no length
            yield marker, position, 0
            continue
        length = int.from_bytes(data[position : position + 2], "big")  # counts its own two bytes
        yield marker, position + 2, max(0, length - 2)
        position += length


def _jpeg(data: bytes) -> Header:
    orientation: int | None = None
    for marker, start, length in jpeg_segments(data):
        if marker == _JPEG_APP1 and orientation is None and data[start : start + 6] == b"Exif\0\0":
            orientation = _exif(data[start + 6 : start + length])
        elif marker in _JPEG_FRAMES:
            height, width = struct.unpack_from(">HH", data, start + 1)
            return Header("JPEG", width, height, orientation or 1)
        elif marker == JPEG_END:
            break
    raise ValueError("its header is damaged")


def _png(data: bytes) -> Header:
    width, height = struct.unpack_from(">II", data, 16)
    orientation, position = 1, 8
    for _ in range(_MOST_SEGMENTS):
        if position + 8 > len(data):
            break
        length = int.from_bytes(data[position : position + 4], "big")
        if data[position + 4 : position + 8] == b"eXIf":
            orientation = _exif(data[position + 8 : position + 8 + length])
        position += length + 12  # length, name and checksum
    return Header("PNG", width, height, orientation)


def _webp(data: bytes) -> Header:
    name = data[12:16]
    if name == b"VP8X":
        width, height = (int.from_bytes(data[at : at + 3], "little") + 1 for at in (24, 27))
    elif name == b"VP8L":
        (bits,) = struct.unpack_from("<I", data, 21)
        width, height = (bits & 0x3FFF) + 1, (bits >> 14 & 0x3FFF) + 1
    elif name == b"VP8 ":
        width, height = (side & 0x3FFF for side in struct.unpack_from("<HH", data, 26))
    else:
        raise ValueError("its header is damaged")
    orientation, position = 1, 12
    for _ in range(_MOST_SEGMENTS):
        if position + 8 > len(data):
            break
        length = int.from_bytes(data[position + 4 : position + 8], "little")
        if data[position : position + 4] == b"EXIF":
            exif = data[position + 8 : position + 8 + length]
            orientation = _exif(exif.removeprefix(b"Exif\0\0"))  # which some writers put there
        position += 8 + length + length % 2
    return Header("WebP", width, height, orientation)


def _bmp(data: bytes) -> Header:
    (size,) = struct.unpack_from("<I", data, 14)
    width, height = struct.unpack_from("<HH" if size == 12 else "<ii", data, 18)
    return Header("BMP", abs(width), abs(height))  # a negative height: stored from the top


def _tiff(data: bytes) -> Header:
    tags = _tags(data)
    width, height = tags[_WIDTH], tags[_HEIGHT]
    if tags.get(_TILE_WIDTH, 0) * tags.get(_TILE_HEIGHT, 0) > max(width * height, _LARGE_TILE):
        raise ValueError("its tiles are larger than the picture")
    return Header("TIFF", width, height, _upright_unless(tags))


def _exif(data: bytes) -> int:
    """The orientation; 1 where the block is damaged, as decoders have it."""
    try:
        return _upright_unless(_tags(data))
    except (struct.error, KeyError):
        return 1


def _upright_unless(tags: dict[int, int]) -> int:
    orientation = tags.get(_ORIENTATION, 1)
    return orientation if 1 <= orientation <= 8 else 1


def _tags(data: bytes) -> dict[int, int]:
    """The first integer of each integer tag in a TIFF's first directory.

    What is ambiguous is damaged: the size read here must be the one that the decoder allocates.

    Raises:
        struct.error: the directory is cut off or too long, or a tag in it is given twice or oddly.
    """
    order = "<" if data[:2] == b"II" else ">"
    big = data[2:4] in (b"+\0", b"\0+")  # BigTIFF: 64-bit offsets
    (start,) = struct.unpack_from(f"{order}{'Q' if big else 'I'}", data, 8 if big else 4)
    if start >= len(data):  # an offset of 64 bits is too large for struct to refuse by itself
        raise struct.error("the directory lies beyond the end")
    (count,) = struct.unpack_from(f"{order}{'Q' if big else 'H'}", data, start)
    if count > _MOST_TAGS:
        raise struct.error("the directory is too long")
    integers = _INTEGERS | ({16: "Q"} if big else {})  # elsewhere 64 bits lie behind an offset
    first, step, value = (start + 8, 20, 12) if big else (start + 2, 12, 8)
    tags, seen = {}, set()
    for entry in range(first, first + count * step, step):
        tag, kind = struct.unpack_from(f"{order}HH", data, entry)
        if tag in seen or (tag in _SIZES and kind not in integers):  # readers disagree on what counts
            raise struct.error("a tag is given twice, or a size in another type")
        seen.add(tag)
        if kind in integers:
            (tags[tag],) = struct.unpack_from(f"{order}{integers[kind]}", data, entry + value)
    return tags
