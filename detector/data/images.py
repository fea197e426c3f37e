"""Reading pictures: any file name, upright, RGB, and never half a picture without saying so."""

from __future__ import annotations

from contextlib import suppress
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Image
from detector.errors import UserError
from detector.runtime.files import read_bytes
from detector.runtime.image_header import JPEG_END, JPEG_SCAN, Header, jpeg_segments, read_header

JPEG_SUFFIXES = frozenset({".jpeg", ".jpg", ".jpe", ".jfif", ".mpo"})  # of a stereo picture, the first half
SUFFIXES = JPEG_SUFFIXES | {".bmp", ".png", ".tif", ".tiff", ".webp"}
UNREAD_SUFFIXES = frozenset(
    {
        ".arw",
        ".avif",
        ".cr2",
        ".dng",
        ".exr",
        ".gif",
        ".heic",
        ".heif",
        ".jp2",
        ".jxl",
        ".nef",
        ".pgm",
        ".ppm",
    }
    | {".psd", ".raw", ".svg", ".tga"}
)

MAX_PIXELS = 100_000_000  # 300 MB once decoded; what is larger is a bomb, or wants to be cut into tiles
MAX_BYTES = 400_000_000  # of the file: more than MAX_PIXELS take uncompressed
MAX_SCANS = 100  # of a JPEG: a progressive one has about ten, and each costs as much as decoding it all
DARK = 64  # of 255: what 14 bits come to where 16 are expected
FLAT = 16  # of 255: a picture of fewer shades shows hardly anything
_TRUNCATED = "the image is truncated (its end is missing)"
_PNG_END = b"IEND\xae\x42\x60\x82"


class BadImage(ValueError):  # noqa: N818  what it says, not that it is an error
    """Why a file is no usable picture, in words for the user."""

    def __init__(self, kind: str, message: str) -> None:
        super().__init__(message)
        self.kind = kind  # empty, truncated, corrupt or too-large


def decode(data: bytes) -> Image:
    """Decode a picture.

    The EXIF orientation is applied: annotation tools show pictures upright, so labels refer to that.

    Returns:
        (H, W, 3) uint8, RGB; greyscale is repeated, 16 bit is scaled to 8, transparency is dropped.

    Raises:
        BadImage: it is no picture, in none of the accepted formats, or larger than `MAX_PIXELS`.
    """
    return decode_with_header(data)[0]


def decode_with_header(data: bytes) -> tuple[Image, Header]:
    """Decode a picture, as `decode`, and say what its header says: format, stored size, orientation."""
    if not data:
        raise BadImage("empty", "the file is empty")
    if data.startswith(b"\xff\xd8"):
        _check_jpeg(data)
    elif _is_truncated(data):
        raise BadImage("truncated", _TRUNCATED)
    try:
        header = read_header(data)
    except ValueError as error:
        raise BadImage("corrupt", f"the image cannot be decoded: {error}") from None
    if header.width * header.height > MAX_PIXELS:
        raise BadImage("too-large", f"the image cannot be decoded: it has {header.width} x {header.height} "
                       f"pixels, and at most {MAX_PIXELS // 1_000_000} megapixels are accepted")  # fmt: skip
    encoded = np.frombuffer(data, np.uint8)
    try:
        if hasattr(cv2, "IMREAD_COLOR_RGB"):
            image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
        else:
            image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            image = image if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except cv2.error as error:  # such as a side longer than OpenCV's limit
        raise BadImage("corrupt", f"the image cannot be decoded ({error.err})") from None
    if image is None:
        raise BadImage(*_why_not(encoded, header))
    return np.asarray(image, np.uint8), header


def _why_not(encoded: NDArray[np.uint8], header: Header) -> tuple[str, str]:
    """Why OpenCV gives no 8-bit picture: the kind of problem and the message."""
    raw = None
    if (
        header.width * header.height <= MAX_PIXELS // 10
    ):  # with 64 bits a channel it takes eight times as much
        with suppress(cv2.error):
            raw = cv2.imdecode(encoded, cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype == np.uint8:
        return "corrupt", "the image cannot be decoded: it is corrupt"
    kind = f"{raw.dtype} numbers in {1 if raw.ndim == 2 else raw.shape[2]} channels"
    return "pixels", f"the image cannot be decoded: its pixels are {kind}; save it with 8 bits, grey or RGB"


def little_range(data: bytes, image: Image, header: Header) -> tuple[int, int] | None:
    """The least and largest value of a picture of 16 bits that 8 bits turn black or flat; else None.

    So do those of a camera of 12 bits, or of a thermal one that measures in kelvin. A thousandth of
    the values at either end does not count: sensors have pixels that are stuck.
    """
    if header.format not in ("PNG", "TIFF") or (header.format == "PNG" and data[24] != 16):
        return None
    low, high = _extremes(image)
    if high >= DARK and high - low >= FLAT:
        return None
    raw = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    if raw is None or raw.dtype != np.uint16 or raw.min() == raw.max():
        return None
    return _extremes(raw)


def _extremes(values: NDArray[Any]) -> tuple[int, int]:
    """The least and the largest but for a thousandth at either end."""
    levels = np.iinfo(values.dtype).max + 1
    below = cv2.calcHist([values.reshape(-1, 1)], [0], None, [levels], [0, levels]).cumsum(dtype=np.float64)
    ends = np.searchsorted(below, [values.size // 1000, values.size - 1 - values.size // 1000], side="right")
    return int(ends[0]), int(ends[1])


def read_image(path: Path) -> Image:
    """Read a picture as (H, W, 3) uint8, RGB, upright.

    The bytes are read by Python, since OpenCV's own reader fails on non-ASCII names on Windows.

    Raises:
        UserError: the file is missing, unreadable or no picture.
    """
    try:
        return decode(read_bytes(path, MAX_BYTES))
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; replace or remove it") from None


def _is_truncated(data: bytes) -> bool:
    """Whether the file stops early. OpenCV fills the missing part with grey and says nothing."""
    if data.startswith(b"\x89PNG"):
        return _PNG_END not in data
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def _check_jpeg(data: bytes) -> None:
    """Raise BadImage if a JPEG's own end marker is missing, or it would take hours to decode.

    Looking at the last two bytes is not enough: cameras append data after the end. Nor is searching
    for the marker: the thumbnail inside the EXIF header has one too. So walk from marker to marker.
    """
    scans = 0
    for marker, _, _ in jpeg_segments(data):
        if marker == JPEG_END:
            return
        scans += marker == JPEG_SCAN
        if scans > MAX_SCANS:
            raise BadImage("corrupt", f"the image cannot be decoded: it has more than {MAX_SCANS} scans")
    raise BadImage("truncated", _TRUNCATED)
