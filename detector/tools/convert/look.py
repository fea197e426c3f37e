"""What an image is, without decoding it: its upright size, and whether it is another one's copy."""

from __future__ import annotations

import hashlib
import warnings
from dataclasses import dataclass
from pathlib import Path

from PIL import Image as PillowImage
from PIL import UnidentifiedImageError

from detector.data.images import decode
from detector.tools.convert.records import Corners

_ORIENTATION = 0x0112  # the EXIF tag; 1 is upright, 5 to 8 are on their side


@dataclass(frozen=True)
class Look:
    """One image file."""

    width: int  # pixels, upright: as the project reads it, and as annotation tools show it
    height: int
    orientation: int  # EXIF
    digest: bytes  # of the file's content

    @property
    def on_its_side(self) -> bool:
        """Whether the stored picture is a quarter turn off, with width and height swapped."""
        return self.orientation >= 5

    @property
    def stored(self) -> tuple[int, int]:
        """Width and height as stored in the file."""
        return (self.height, self.width) if self.on_its_side else (self.width, self.height)


def look_at(path: Path) -> Look:
    """Read an image's header.

    Raises:
        ValueError: why it is no picture, in words for the user.
    """
    try:
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).digest()
            file.seek(0)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # of large images, and of damaged EXIF
                with PillowImage.open(file) as picture:
                    width, height = picture.size
                    orientation = picture.getexif().get(_ORIENTATION, 1)
            if orientation in range(
                2, 9
            ):  # whether that counts depends on the format, so ask the reader itself
                file.seek(0)
                turned_height, turned_width = decode(file.read()).shape[:2]
                is_read_turned = (turned_width, turned_height) != (width, height) or orientation < 5
                return Look(turned_width, turned_height, orientation if is_read_turned else 1, digest)
    except UnidentifiedImageError:
        raise ValueError("the image is empty, corrupt or in an unknown format") from None
    except OSError as error:
        raise ValueError(f"the image cannot be read: {error.strerror or error}") from None
    except PillowImage.DecompressionBombError:
        raise ValueError("the image is too large") from None
    return Look(width, height, 1, digest)


def turn(corners: Corners, look: Look) -> Corners:
    """A box in the stored picture's pixels -> the same box in the upright picture, for orientations 5 to 8.

    The EXIF standard (CIPA DC-008, tag 0x0112) says where the stored first row and column are to be shown:
    5 left and top, 6 right and top, 7 right and bottom, 8 left and bottom.
    """
    left, top, right, bottom = corners
    x0, x1 = (top, bottom) if look.orientation in (5, 8) else (look.width - bottom, look.width - top)
    y0, y1 = (left, right) if look.orientation in (5, 6) else (look.height - right, look.height - left)
    return x0, y0, x1, y1
