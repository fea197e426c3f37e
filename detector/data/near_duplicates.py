"""Pictures that look the same: re-encoded, resized, a little brighter, or the next frame of a video.

Each picture is kept as 17 x 16 grey pixels. The signs of the differences between neighbours give the
256 bits of a difference hash (Krawetz, "Kind of Like That", 2013), which is fast to compare. Two pictures
with large plain areas can share a hash by chance, so what it finds must also correlate.

On BCCD, 364 photographs of blood cells that look alike at a glance, the only true pair (two shots of one
field) differs in 24 bits and correlates at 0.99; the next pair differs in 84 bits, and none correlates
above 0.76. Re-encoding at JPEG quality 20, halving and brightening change at most 23 bits, cutting 1 %
off two sides 30. Mirrored pictures and stronger crops are not found.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Image
from detector.runtime.array_cache import load, save

Thumbnail = NDArray[np.uint8]  # (16, 17), grey

SIDE = 16
MAX_BITS = 32  # of 256
MIN_CORRELATION = 0.9
MIN_CONTRAST = 2.0  # grey levels, standard deviation: below it there is nothing to compare
_LONG = 10_000_000  # comparisons; they take a tenth of a second
_PART = 64  # pictures a task
_CANDIDATES = 8  # how many of the closest by hash are looked at more closely


@dataclass(frozen=True)
class Pair:
    """Two pictures that look the same; the indices are those of the arguments."""

    query: int
    reference: int
    bits: int  # of 256 that differ


def thumbnail(image: Image) -> Thumbnail:
    """(H, W, 3) RGB -> the (16, 17) grey pixels by which it is compared."""
    small = cv2.resize(image, (SIDE + 1, SIDE), interpolation=cv2.INTER_AREA)
    return np.asarray(cv2.cvtColor(small, cv2.COLOR_RGB2GRAY), np.uint8)


def near_duplicates(queries: Sequence[Thumbnail], references: Sequence[Thumbnail]) -> list[Pair]:
    """For each query that looks like some reference, the reference that is closest to it."""
    if not queries or not references:
        return []
    pixels, others = np.stack(queries), np.stack(references)

    def pairs() -> NDArray[np.int64]:
        found = [
            (query, alike[0], bits[0])
            for query, alike, bits in _alike(pixels, others, _CANDIDATES)
            if len(alike)
        ]
        return np.array(found, np.int64).reshape(-1, 3)

    return [Pair(*row) for row in _once("pairs", pixels, others, pairs).tolist()]


def look_alikes(pictures: Sequence[Thumbnail]) -> list[list[int]]:
    """The pictures' numbers in groups, in order: those that look the same, directly or by way of others."""
    if not pictures:
        return []
    pixels = np.stack(pictures)

    def groups() -> NDArray[np.int64]:
        before = np.arange(len(pixels))  # of each picture: one of its group that comes before it, or itself

        def first(picture: int) -> int:
            while (other := int(before[picture])) != picture:
                before[picture] = before[other]
                picture = other
            return picture

        for _, alike, _ in _alike(pixels, pixels, None):
            joined = sorted({first(picture) for picture in np.unique(before[alike]).tolist()})
            before[joined] = joined[:1] or 0
        return np.array([first(picture) for picture in range(len(before))])

    group = _once("groups", pixels, pixels, groups)
    order = np.argsort(group, kind="stable")
    return [part.tolist() for part in np.split(order, np.flatnonzero(np.diff(group[order])) + 1)]


def _once(
    what: str,
    queries: NDArray[np.uint8],
    references: NDArray[np.uint8],
    compute: Callable[[], NDArray[np.int64]],
) -> NDArray[np.int64]:
    """What `compute` says. Where that takes long, it is kept, by what the pictures are."""
    if len(queries) * len(references) <= _LONG:
        return compute()
    digest = hashlib.sha256(f"{what} {len(queries)} {np.__version__}".encode())
    for part in (Path(__file__).read_bytes(), queries.data, references.data):
        digest.update(part)
    name = digest.hexdigest()[:32]
    found = (load(name) or {}).get(what)
    if found is None or found.dtype != np.int64:
        found = compute()
        save(name, {what: found})
    return found


def _alike(
    queries: NDArray[np.uint8], references: NDArray[np.uint8], most: int | None
) -> Iterator[tuple[int, NDArray[np.int64], NDArray[np.int64]]]:
    """Of each query the references that look like it, the closest first, and how many bits differ.

    `most` of the closest by hash are looked at; None: all.
    """
    codes, hashes = _hashes(queries), _hashes(references)
    words = np.ascontiguousarray(hashes.T)  # (4, N): one word of all at a time is ten times as fast

    def of(query: int) -> tuple[int, NDArray[np.int64], NDArray[np.int64]]:
        about = np.zeros(len(hashes), np.uint8)  # differing bits, but for 256, which are 0 here
        for word, code in zip(words, codes[query], strict=True):
            about += np.bitwise_count(word ^ code)
        close = np.flatnonzero(about <= MAX_BITS)
        if not len(close):
            return query, close, close
        bits = np.bitwise_count(hashes[close] ^ codes[query]).sum(axis=1, dtype=np.int64)
        close, bits = close[bits <= MAX_BITS], bits[bits <= MAX_BITS]
        order = np.argsort(bits, kind="stable")[:most]
        close, bits = close[order], bits[order]
        same = _vectors(references[close]) @ _vectors(queries[query, None])[0] >= MIN_CORRELATION
        return query, close[same], bits[same]

    parts = [range(first, min(first + _PART, len(queries))) for first in range(0, len(queries), _PART)]
    with ThreadPoolExecutor(os.cpu_count()) as pool:  # counting bits releases the GIL
        for found in pool.map(lambda part: [of(query) for query in part], parts):
            yield from found


def _hashes(pixels: NDArray[np.uint8]) -> NDArray[np.uint64]:
    """(N, 16, 17) -> (N, 4): bit (y, x) is whether the right neighbour is brighter."""
    bits = pixels[:, :, 1:] > pixels[:, :, :-1]  # (N, 16, 16)
    return np.packbits(bits.reshape(len(pixels), -1), axis=1).view(np.uint64)


def _vectors(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """(N, 16, 17) -> (N, 272) whose dot products are correlations; zero for a plain picture."""
    flat = pixels.reshape(len(pixels), -1).astype(np.float32)
    flat -= flat.mean(axis=1, keepdims=True)
    norm = np.linalg.norm(flat, axis=1, keepdims=True)
    plain = norm < MIN_CONTRAST * np.sqrt(flat.shape[1])
    return np.where(plain, 0, flat / np.maximum(norm, 1e-6)).astype(np.float32)
