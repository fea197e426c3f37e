"""Reading pictures: any file name, upright, RGB, and never half a picture without saying so."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np

from detector.data.geometry import Image
from detector.errors import UserError

SUFFIXES = frozenset({".bmp", ".jpeg", ".jpg", ".png", ".tif", ".tiff", ".webp"})

# A JPEG marker that is neither a stuffed zero, a restart (both belong to the pixel data) nor fill.
_JPEG_MARKER = re.compile(rb"\xff+([^\x00\xd0-\xd7\xff])", re.DOTALL)
_PNG_END = b"IEND\xae\x42\x60\x82"


def decode(data: bytes) -> Image:
    """Decode a picture.

    The EXIF orientation is applied: annotation tools show pictures upright, so labels refer to that.

    Returns:
        (H, W, 3) uint8, RGB; greyscale is repeated, 16 bit is scaled to 8, transparency is dropped.

    Raises:
        ValueError: why it is no picture, in words for the user.
    """
    if not data:
        raise ValueError("the file is empty")
    if _is_truncated(data):
        raise ValueError("the image is truncated (its end is missing)")
    encoded = np.frombuffer(data, np.uint8)
    try:
        if hasattr(cv2, "IMREAD_COLOR_RGB"):
            image = cv2.imdecode(encoded, cv2.IMREAD_COLOR_RGB)
        else:
            image = cv2.imdecode(encoded, cv2.IMREAD_COLOR)
            image = image if image is None else cv2.cvtColor(image, cv2.COLOR_BGR2RGB)
    except cv2.error as error:  # such as more pixels than OpenCV's limit
        raise ValueError(f"the image cannot be decoded ({error.err})") from None
    if image is None:
        raise ValueError("the image cannot be decoded: it is corrupt or in an unknown format")
    return np.asarray(image, np.uint8)


def read_image(path: Path) -> Image:
    """Read a picture as (H, W, 3) uint8, RGB, upright.

    The bytes are read by Python, since OpenCV's own reader fails on non-ASCII names on Windows.

    Raises:
        UserError: the file is missing, unreadable or no picture.
    """
    try:
        return decode(path.read_bytes())
    except OSError as error:
        raise UserError(f"{path}: the image cannot be read: {error.strerror}") from None
    except ValueError as error:
        raise UserError(f"{path}: {error}; replace or remove it") from None


def _is_truncated(data: bytes) -> bool:
    """Whether the file stops early. OpenCV fills the missing part with grey and says nothing."""
    if data.startswith(b"\xff\xd8"):
        return not _jpeg_ends(data)
    if data.startswith(b"\x89PNG"):
        return _PNG_END not in data
    if data.startswith(b"RIFF") and data[8:12] == b"WEBP":
        return len(data) < int.from_bytes(data[4:8], "little") + 8
    return False


def _jpeg_ends(data: bytes) -> bool:
    """Whether the JPEG's own end marker is there.

    Looking at the last two bytes is not enough: cameras append data after the end. Nor is searching
    for the marker: the thumbnail inside the EXIF header has one too. So walk from marker to marker.
    """
    position = 2
    while found := _JPEG_MARKER.search(data, position):
        marker = found[1][0]
        if marker == 0xD9:  # end of image
            return True
        position = found.end()
        if marker != 0x01:  # every other marker has a length, which counts its own two bytes
            position += int.from_bytes(data[position : position + 2], "big")
    return False
