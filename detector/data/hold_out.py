"""Which training images to hold out for validation, where nobody has divided them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from detector.data.near_duplicates import Thumbnail, look_alikes

_HOLD_OUT = 3  # first word of the random seed: no other purpose shares this stream


def hold_out(images: Sequence[Path], pictures: Sequence[Thumbnail], fraction: float, seed: int) -> set[Path]:
    """Draw images; those that look alike, as frames of one video do, are drawn together or not at all.

    Args:
        images: each once.
        pictures: their small copies.
        fraction: of the images, which is exceeded only where the smallest group of look-alikes does.
        seed: decides which.

    Returns:
        At least one image and not all; none where they all look alike.
    """
    groups = look_alikes(pictures)
    if len(groups) < 2:
        return set()
    order = np.random.default_rng([_HOLD_OUT, seed]).permutation(len(groups)).tolist()
    wanted = min(max(1, round(fraction * len(images))), len(images) - 1)
    held: set[int] = set()
    for number in order:
        if len(held) + len(groups[number]) <= wanted:
            held.update(groups[number])
    if not held:
        held.update(groups[min(order, key=lambda number: len(groups[number]))])
    return {images[index] for index in held}
