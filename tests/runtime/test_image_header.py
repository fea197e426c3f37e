"""Headers against Pillow, damaged ones, and the promise that a bomb is never decoded."""

from __future__ import annotations

import io
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage

from detector.data.images import BadImage, decode, decode_with_header
from detector.runtime.image_header import Header, read_header
from tests.hostile.images import huge_tile, two_sizes

NAMES = {"JPEG": "JPEG", "PNG": "PNG", "BMP": "BMP", "TIFF": "TIFF", "WEBP": "WebP"}
SAVED = {
    "jpeg": ("JPEG", {}), "progressive": ("JPEG", {"progressive": True}), "png": ("PNG", {}),
    "bmp": ("BMP", {}), "tiff": ("TIFF", {}), "lzw": ("TIFF", {"compression": "tiff_lzw"}),
    "bigtiff": ("TIFF", {"big_tiff": True}), "webp": ("WEBP", {}), "lossless": ("WEBP", {"lossless": True}),
}  # fmt: skip


def saved(case: str, size: tuple[int, int], orientation: int = 1) -> bytes:
    """A picture, red on its left half, written by Pillow."""
    form, options = SAVED[case]
    stream, exif = io.BytesIO(), PillowImage.Exif()
    if orientation != 1:
        exif[0x0112] = orientation
        options = {**options, "exif": exif}
    picture = PillowImage.new("RGB", size)
    picture.paste((255, 0, 0), (0, 0, size[0] // 2, size[1]))
    picture.save(stream, form, **options)
    return stream.getvalue()


@pytest.mark.parametrize("case", SAVED)
@pytest.mark.parametrize("size", [(1, 1), (80, 40), (300, 1000)])
def test_as_pillow_has_it(case: str, size: tuple[int, int]) -> None:
    data = saved(case, size)
    picture = PillowImage.open(io.BytesIO(data))
    assert read_header(data) == Header(NAMES[picture.format or ""], *picture.size)
    assert picture.size == size


@pytest.mark.parametrize("case", ["jpeg", "png", "tiff", "webp"])
@pytest.mark.parametrize("orientation", [2, 3, 6, 8])
def test_the_orientation_is_read_and_the_image_is_upright(case: str, orientation: int) -> None:
    image, header = decode_with_header(saved(case, (80, 40), orientation))
    assert header == Header(header.format, 80, 40, orientation)
    assert image.shape == ((80, 40, 3) if orientation > 4 else (40, 80, 3))
    red = image[2, 2, 0] > 200  # where the stored upper left corner comes to lie
    assert red == (orientation == 6)


def test_a_thumbnail_is_not_taken_for_the_picture() -> None:
    thumbnail = saved("jpeg", (8, 8))
    data = saved("jpeg", (80, 40))
    payload = b"Exif\0\0" + thumbnail
    app1 = b"\xff\xe1" + (len(payload) + 2).to_bytes(2, "big") + payload
    assert read_header(data[:2] + app1 + data[2:]) == Header("JPEG", 80, 40)


def test_big_endian_tiff() -> None:
    entries = b"".join(
        struct.pack(">HHIHH", tag, 3, 1, value, 0) for tag, value in ((256, 70), (257, 50), (274, 8))
    )
    data = b"MM\0*" + struct.pack(">IH", 8, 3) + entries + struct.pack(">I", 0)
    assert read_header(data) == Header("TIFF", 70, 50, 8)


def test_old_and_upside_down_bmp() -> None:
    os2 = b"BM" + struct.pack("<IHHIIHHHH", 0, 0, 0, 26, 12, 7, 5, 1, 24)
    assert read_header(os2) == Header("BMP", 7, 5)
    topdown = b"BM" + struct.pack("<IHHIIiiHH", 0, 0, 0, 54, 40, 7, -5, 1, 24)
    assert read_header(topdown) == Header("BMP", 7, 5)


@pytest.mark.parametrize(
    "data", [b"GIF89a\1\0\1\0", b"", b"\0\0\0\x1cftypavif", b"II*\0\xff\xff\xff\xff", b"BM"]
)
def test_what_cannot_be_read_is_refused(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"none of JPEG|header is damaged"):
        read_header(data)


STARTS = [b"\xff\xd8\xff\xe1", b"\x89PNG\r\n\x1a\n", b"RIFF\0\0\0\0WEBPVP8X", b"II*\0", b"MM\0+", b"BM"]


@given(st.sampled_from(STARTS), st.binary(max_size=300))
def test_no_bytes_break_it(start: bytes, rest: bytes) -> None:
    for data in (start + rest, start + b"Exif\0\0" + rest):
        try:
            header = read_header(data)
        except ValueError:
            continue
        assert header.width >= 0 and header.height >= 0 and 1 <= header.orientation <= 8


@given(st.sampled_from(sorted(SAVED)), st.integers(0, 2000), st.binary(max_size=8))
def test_no_damage_breaks_it(case: str, place: int, patch: bytes) -> None:
    data = saved(case, (33, 21), 1)
    place %= len(data)
    damaged = data[:place] + patch + data[place + len(patch) :]
    for part in (damaged, data[:place]):
        try:
            read_header(part)
        except ValueError:
            continue


@pytest.mark.parametrize("case", SAVED)
def test_a_bomb_is_refused_before_it_is_decoded(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = bytearray(saved(case, (33, 21)))
    monkeypatch.setattr("detector.data.images.MAX_PIXELS", 33 * 21 - 1)
    monkeypatch.setattr(cv2, "imdecode", lambda *_: pytest.fail("it was decoded"))
    with pytest.raises(BadImage, match="it has 33 x 21 pixels") as caught:
        decode(bytes(data))
    assert caught.value.kind == "too-large"


def test_the_limit_itself_is_accepted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.data.images.MAX_PIXELS", 33 * 21)
    assert decode(saved("png", (33, 21))).shape == (21, 33, 3)


def test_formats_that_not_every_opencv_can_read_are_refused() -> None:
    stream = io.BytesIO()
    PillowImage.fromarray(np.zeros((5, 5, 3), np.uint8)).save(stream, "GIF")
    with pytest.raises(BadImage, match="none of JPEG, PNG, BMP, TIFF and WebP"):
        decode(stream.getvalue())


DECODE = """
import re, sys
from pathlib import Path
from detector.data.images import BadImage, decode
try:
    words = decode(Path(sys.argv[1]).read_bytes()).shape
except BadImage as error:
    words = error
print(re.search(r"VmHWM:\\s*(\\d+) kB", Path("/proc/self/status").read_text())[1], words)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="the peak is read from /proc")
@pytest.mark.parametrize("build", [two_sizes, huge_tile])
def test_a_small_file_takes_little_memory(build: Callable[[], bytes], tmp_path: Path) -> None:
    file = tmp_path / "a.tif"
    file.write_bytes(build())
    assert file.stat().st_size < 30_000
    command = [sys.executable, "-c", DECODE, str(file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    kilobytes, words = done.stdout.split(maxsplit=1)
    assert int(kilobytes) < 500_000 and "cannot be decoded" in words


# Sizes in every type a TIFF knows, some of them twice, as a decoder might read them differently.
TYPES = {1: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 13: "I", 16: "I"}
sides = st.tuples(st.sampled_from([256, 257]), st.sampled_from(sorted(TYPES)), st.sampled_from([7, 20, 33]))


@given(st.lists(sides, min_size=1, max_size=3), st.sampled_from(["I", "H"]), st.booleans())
def test_the_decoder_sees_the_same_size(extra: list[tuple[int, int, int]], plain: str, ahead: bool) -> None:
    entries = [(tag, 4 if plain == "I" else 3, 20) for tag in {256, 257} - {tag for tag, *_ in extra[:1]}]
    sizes = extra + entries if ahead else entries + extra
    fixed = [
        (258, 3, 8),
        (259, 3, 1),
        (262, 3, 1),
        (273, 4, 400),
        (277, 3, 1),
        (278, 3, 33),
        (279, 4, 33 * 33),
    ]
    packed = b"".join(
        struct.pack("<HHI", tag, kind, 1) + struct.pack(f"<{TYPES[kind]}", value).ljust(4, b"\0")
        for tag, kind, value in sorted(sizes, key=lambda entry: entry[0]) + fixed
    )
    data = b"II*\0" + struct.pack("<IH", 8, len(sizes) + len(fixed)) + packed + bytes(4)
    data = data.ljust(400, b"\0") + bytes(33 * 33)
    decoded = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    try:
        header = read_header(data)
    except ValueError:
        return
    assert decoded is None or decoded.shape[:2] == (header.height, header.width)
