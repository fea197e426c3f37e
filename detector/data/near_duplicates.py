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

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Image

Thumbnail = NDArray[np.uint8]  # (16, 17), grey

SIDE = 16
MAX_BITS = 32  # of 256
MIN_CORRELATION = 0.9
MIN_CONTRAST = 2.0  # grey levels, standard deviation: below it there is nothing to compare
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


def look_alikes(pictures: Sequence[Thumbnail]) -> list[list[int]]:
    """The pictures' numbers in groups, in order: those that look the same, directly or by way of others."""
    groups = {number: [number] for number in range(len(pictures))}  # the group of each picture
    for pair in _pairs(pictures, pictures, closest=False):
        one, other = groups[pair.query], groups[pair.reference]
        if one is not other:
            one += other
            groups |= dict.fromkeys(other, one)
    return sorted({id(group): sorted(group) for group in groups.values()}.values())


def near_duplicates(queries: Sequence[Thumbnail], references: Sequence[Thumbnail]) -> list[Pair]:
    """For each query that looks like some reference, the reference that is closest to it."""
    return _pairs(queries, references, closest=True)


def _pairs(queries: Sequence[Thumbnail], references: Sequence[Thumbnail], closest: bool) -> list[Pair]:
    """For each query the closest reference that looks like it, or all of them."""
    if not queries or not references:
        return []
    query_pixels, pixels = np.stack(queries), np.stack(references)
    query_hashes, hashes = _hashes(query_pixels), _hashes(pixels)
    query_vectors, vectors = _vectors(query_pixels), _vectors(pixels)
    pairs = []
    for query, (code, vector) in enumerate(zip(query_hashes, query_vectors, strict=True)):
        bits = np.bitwise_count(hashes ^ code).sum(axis=1)  # (references,)
        close = np.flatnonzero(bits <= MAX_BITS)
        close = close[np.argsort(bits[close], kind="stable")[: _CANDIDATES if closest else None]]
        alike = close[vectors[close] @ vector >= MIN_CORRELATION]
        pairs += [Pair(query, int(one), int(bits[one])) for one in (alike[:1] if closest else alike)]
    return pairs


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
