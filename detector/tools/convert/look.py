"""What an image is: its upright size, whether it is another one's copy, and what it looks like."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

from detector.data.images import MAX_BYTES, decode_with_header
from detector.data.near_duplicates import Thumbnail, thumbnail
from detector.runtime.files import read_bytes
from detector.tools.convert.records import Corners


@dataclass(frozen=True, eq=False)
class Look:
    """One image file."""

    width: int  # pixels, upright: as the project reads it, and as annotation tools show it
    height: int
    orientation: int  # EXIF, where it swaps width and height (5 to 8), else 1
    digest: bytes  # of the file's content
    thumbnail: Thumbnail

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height as stored in the file."""
        return (self.height, self.width) if self.orientation > 1 else (self.width, self.height)


def look_at(path: Path) -> Look:
    """Read an image as training will.

    Raises:
        ValueError: why it is no picture, in words for the user.
    """
    try:
        data = read_bytes(path, MAX_BYTES)
    except OSError as error:
        raise ValueError(f"the image cannot be read: {error.strerror or error}") from None
    image, header = decode_with_header(data)
    height, width = image.shape[:2]
    swapped = (header.height, header.width) == (width, height) != (height, width)
    digest = hashlib.blake2b(data, digest_size=16).digest()
    return Look(width, height, header.orientation if swapped else 1, digest, thumbnail(image))


def turn(corners: Corners, look: Look) -> Corners:
    """A box in the stored picture's pixels -> the same box in the upright picture, for orientations 5 to 8.

    The EXIF standard (CIPA DC-008, tag 0x0112) says where the stored first row and column are to be shown:
    5 left and top, 6 right and top, 7 right and bottom, 8 left and bottom.
    """
    left, top, right, bottom = corners
    x0, x1 = (top, bottom) if look.orientation in (5, 8) else (look.width - bottom, look.width - top)
    y0, y1 = (left, right) if look.orientation in (5, 6) else (look.height - right, look.height - left)
    return x0, y0, x1, y1
