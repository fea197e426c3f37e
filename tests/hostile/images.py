"""Bad pictures, and a few odd ones that must simply be read."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from tests.hostile.corpus import CHECK, TRAIN, Case, content, damaged, folder, link, pipe, sparse

PLACE = "data/images/train/a.jpg"
_PIXELS = np.random.default_rng(9).integers(0, 256, (24, 32, 3), np.uint8)


def encoded(form: str, mode: str = "RGB", **options: object) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(_PIXELS).convert(mode).save(stream, form, **options)
    return stream.getvalue()


def _chunk(name: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def _png(width: int, height: int, *extra: bytes) -> bytes:
    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    pixels = zlib.compress(b"\0" * 1000)
    chunks = [_chunk(b"IHDR", header), *extra, _chunk(b"IDAT", pixels), _chunk(b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunks)


def _png_bomb() -> bytes:
    """A real picture of 100.01 megapixels in 12 kB."""
    stream = io.BytesIO()
    Image.new("1", (10001, 10000)).save(stream, "PNG")
    return stream.getvalue()


def _scans() -> bytes:
    """A progressive JPEG whose last scan is repeated: each costs as much as decoding all of it."""
    data = encoded("JPEG", progressive=True)
    last = data[data.rindex(b"\xff\xda") : -2]
    return data[:-2] + last * 2000 + b"\xff\xd9"


def _tiff(*tags: tuple[int, int]) -> bytes:
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags)
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 8)  # the next is itself


def two_sizes() -> bytes:
    """A TIFF of 12 kB: 24,000 x 24,000 for libtiff, 30 x 30 for a reader that skips signed numbers.

    All white in CCITT group 4 (ITU T.6), where one bit says that a row is as the row before. It is cut
    into strips of 16 rows, so that no buffer but the picture itself is large, and all are the same bytes.
    """
    strips = 24_000 // 16
    sizes = [(256, 9, 1, 24_000), (256, 4, 1, 30), (257, 9, 1, 24_000), (257, 4, 1, 30)]
    numbers = [*sizes, (258, 3, 1, 1), (259, 3, 1, 4), (262, 3, 1, 0), (273, 4, strips, 200),
               (277, 3, 1, 1), (278, 4, 1, 16), (279, 4, strips, 200 + 4 * strips)]  # fmt: skip
    entries = b"".join(struct.pack("<HHII", *number) for number in numbers)
    directory = struct.pack("<IH", 8, len(numbers)) + entries + bytes(4)
    arrays = struct.pack("<I", 200 + 8 * strips) * strips + struct.pack("<I", 5) * strips
    return (b"II*\0" + directory).ljust(200, b"\0") + arrays + b"\xff\xff\x00\x10\x01"


def huge_tile() -> bytes:
    """A TIFF of 30 x 30 in one tile of 16,000 x 16,000, in the same coding."""
    numbers = [(256, 30), (257, 30), (258, 1), (259, 4), (262, 0), (277, 1), (322, 16_000), (323, 16_000),
               (324, 200), (325, 2003)]  # fmt: skip
    return _tiff(*numbers).ljust(200, b"\0") + b"\xff" * 2000 + b"\x00\x10\x01"


def _bmp(width: int, height: int) -> bytes:
    return b"BM" + struct.pack("<IHHIIiiHHIIiiII", 54, 0, 0, 54, 40, width, height, 1, 24, 0, 0, 0, 0, 0, 0)


def _webp(width: int, height: int) -> bytes:
    canvas = (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBPVP8X" + struct.pack("<I", 10) + b"\0\0\0\0" + canvas
    return b"RIFF" + struct.pack("<I", len(body)) + body


def _frames(form: str) -> bytes:
    stream = io.BytesIO()
    frames = [Image.fromarray(np.roll(_PIXELS, shift, 0)) for shift in range(3)]
    frames[0].save(stream, form, save_all=True, append_images=frames[1:])
    return stream.getvalue()


def _zip_behind(data: bytes) -> bytes:
    import zipfile

    stream = io.BytesIO(data)
    with zipfile.ZipFile(stream, "a") as package:
        package.writestr("../../ran", "x")
    return stream.getvalue()


class _Payload:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        return os.system, ("touch ran",)


def _text_bomb() -> bytes:
    return _png(3, 0, _chunk(b"zTXt", b"x\0\0" + zlib.compress(b"A" * 10**8)))


def _bad(name: str, data: bytes | Callable[[], bytes], words: str = "cannot be decoded") -> Case:
    """`data`: or what makes them where that takes long, so that only the test which needs them waits."""

    def spoil(root: Path) -> None:
        content(PLACE, data() if callable(data) else data)(root)

    return Case(f"image: {name}", spoil, TRAIN, words)


def _odd(name: str, data: bytes, code: int = 0, words: str = "clean", suffix: str = ".jpg") -> Case:
    """What is unusual but a picture: it is read."""

    def spoil(root: Path) -> None:
        (root / PLACE).unlink()
        (root / PLACE).with_suffix(suffix).write_bytes(data)

    return Case(f"image: {name}", spoil, CHECK, words, code)


def _named(name: str | bytes) -> Callable[[Path], None]:
    def spoil(root: Path) -> None:
        folder = os.fsencode(root / "data/images/train")
        with open(os.path.join(folder, os.fsencode(name)), "wb") as file:
            file.write(b"no picture")

    return spoil


CASES = [
    _bad("empty", b"", "the file is empty"),
    _bad("half a JPEG", encoded("JPEG")[:300], "truncated"),
    _bad("half a PNG", encoded("PNG")[:300], "truncated"),
    _bad("half a WebP", encoded("WEBP")[:-20], "truncated"),
    _bad("a web page", b"<html>404</html>", "none of JPEG"),
    _bad("an SVG", b"<svg xmlns='http://www.w3.org/2000/svg'/>", "none of JPEG"),
    _bad("a GIF", _frames("GIF"), "none of JPEG"),
    _bad("a pickle", pickle.dumps(_Payload()), "none of JPEG"),
    _bad("PNG bomb", _png_bomb, "at most 100 megapixels"),
    _bad("PNG that claims 2^62 pixels", _png(2**31 - 1, 2**31 - 1), "at most 100 megapixels"),
    _bad("PNG without width", _png(0, 10)),
    _bad("PNG that stops before its pixels do", _png(3000, 3000)),
    _bad("PNG of only its two ends", b"\x89PNG\r\n\x1a\n" + _chunk(b"IEND", b"")),
    _bad("PNG with a text bomb", _text_bomb),
    _bad("JPEG of fill bytes", b"\xff\xd8" + b"\xff" * 2_000_000 + b"\x00", "truncated"),
    _bad("JPEG of two thousand scans", _scans(), "more than 100 scans"),
    _bad("JPEG of empty segments", b"\xff\xd8" + b"\xff\xe0\0\0" * 500_000 + b"\xff\xd9", "truncated"),
    _bad("JPEG without a frame", b"\xff\xd8\xff\xd9"),
    _bad("JPEG that claims 65535 x 65535", encoded("JPEG").replace(
        b"\x00\x18\x00\x20", b"\xff\xff\xff\xff", 1), "at most 100 megapixels"),
    _bad("TIFF with two widths", _tiff((256, 100_000), (256, 10), (257, 10)), "header is damaged"),
    _bad("TIFF of two sizes", two_sizes(), "header is damaged"),
    _bad("TIFF with a tile of 256 megapixels", huge_tile(), "tiles are larger than the picture"),
    _bad("TIFF that is a loop", _tiff((256, 10), (257, 10))),
    _bad("TIFF whose directory is nowhere", b"II*\0\xff\xff\xff\xff" + b"\0" * 8, "header is damaged"),
    _bad("BMP of 2^31 pixels a side", _bmp(2**31 - 1, -(2**31)), "at most 100 megapixels"),
    _bad("BMP without pixels", _bmp(0, 0)),
    _bad("WebP of 2^24 pixels a side", _webp(2**24, 2**24), "at most 100 megapixels"),
    _bad("WebP without a frame", _webp(10, 10)),
    Case("image: terabytes", sparse(PLACE, 10**12), TRAIN, "at most 400 MB are accepted"),
    Case("image: no header", damaged(PLACE, lambda data: data[:2] + bytes(200) + data[200:]), TRAIN, "image"),
    Case("image: a pipe", pipe(PLACE), TRAIN, "is not a file; remove it"),
    Case("image: a device", link(PLACE, "/dev/zero"), TRAIN, "is not a file; remove it"),
    Case("image: a loop of links", link(PLACE, "a.jpg"), TRAIN, "is not a file; remove it"),
    Case("image: a link to nothing", link(PLACE, "gone.jpg"), TRAIN, "is not a file; remove it"),
    Case("image: a folder", folder(PLACE), CHECK, "clean", 0),
    Case("image: a name that moves the cursor", _named("\x1b[2J\x07.jpg"), TRAIN, r"\x1b[2J\x07.jpg"),
    Case("image: a name with a newline", _named("a\nerror: b.jpg"), TRAIN, r"a\nerror: b.jpg"),
    Case("image: a name that is no text", _named(b"\xff\xfe.jpg"), TRAIN, r"\udcff\udcfe.jpg"),
    Case("image: a folder that holds itself", link("data/images/train/loop", "."), CHECK, "clean", 0),
    _odd("a zip file behind a JPEG", _zip_behind(encoded("JPEG"))),
    _odd("CMYK", encoded("JPEG", "CMYK")),
    _odd("16 bits that hold 8", encoded("PNG", "I;16"), 1, "is nearly black: its 16 bits", suffix=".png"),
    _odd("TIFF of floating-point numbers", encoded("TIFF", "F"), 1, "its pixels are float32", suffix=".tif"),
    _odd("a palette", encoded("PNG", "P"), suffix=".png"),
    _odd("animated WebP", _frames("WEBP"), suffix=".webp"),
    _odd("TIFF of three pages", _frames("TIFF"), suffix=".tif"),
    _odd("a PNG named .jpg", encoded("PNG"), 1, "is a PNG file named .jpg"),
    _odd("EXIF that is a loop", encoded("JPEG", exif=b"Exif\0\0" + _tiff((274, 99)))),
]  # fmt: skip
