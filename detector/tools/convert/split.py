"""Which image goes into which split."""

from __future__ import annotations

import random
from collections.abc import Sequence

from detector.errors import UserError

SPLITS = ("train", "val", "test")
DEFAULT = (0.8, 0.2)


def parse_fractions(text: str) -> tuple[float, ...]:
    """`0.8,0.2` or `0.7,0.2,0.1`.

    Raises:
        UserError: not two or three positive numbers that add up to 1.
    """
    try:
        fractions = tuple(float(part) for part in text.split(","))
    except ValueError:
        fractions = ()
    if len(fractions) not in (2, 3) or min(fractions) <= 0 or not abs(sum(fractions) - 1) < 1e-6:
        raise UserError(f"--split {text}: write the parts of train, val and perhaps test, which add up to 1, "
                        f"such as 0.8,0.2")  # fmt: skip
    return fractions


def draw(digests: Sequence[bytes], fractions: Sequence[float], seed: int) -> list[str]:
    """Draw a split for every image, by its content: names, folders and order do not matter.

    Args:
        digests: of the images' content, all different.
        fractions: of train, val and perhaps test; every split gets at least one image.
        seed: of the draw.

    Returns:
        The split of each image, in the given order.

    Raises:
        UserError: there are fewer images than splits.
    """
    count = len(digests)
    if count < len(fractions):
        raise UserError(f"{count} usable images cannot be split into {len(fractions)}: add images")
    order = sorted(range(count), key=lambda index: digests[index])
    random.Random(seed).shuffle(order)
    held_out = [max(1, round(fraction * count)) for fraction in fractions[1:]]
    while sum(held_out) >= count:  # a handful of images: train needs one too
        held_out[held_out.index(max(held_out))] -= 1
    sizes = [count - sum(held_out), *held_out]
    chosen = [split for split, size in zip(SPLITS, sizes, strict=False) for _ in range(size)]
    splits = [""] * count
    for index, split in zip(order, chosen, strict=True):
        splits[index] = split
    return splits


def assign(
    own: Sequence[str | None], digests: Sequence[bytes], fractions: Sequence[float] | None, seed: int
) -> list[str]:
    """The split of every image: the source's own, else drawn.

    With `fractions` all are drawn. Without, the source's own splits are kept if it has more than one; where
    val is missing, a fifth of train becomes val.

    Raises:
        UserError: there are too few images, or the source's own splits have no train.
    """
    named = {split for split in own if split is not None}
    if fractions is not None or len(named) < 2:  # all in val, say: that is no division
        return draw(digests, fractions or DEFAULT, seed)
    if None in own:
        raise UserError(f"{own.count(None)} images are in none of the source's splits "
                        f"{', '.join(sorted(named))}; --split 0.8,0.2 draws new ones for all")  # fmt: skip
    splits = [split or "" for split in own]
    if "train" not in splits:
        raise UserError(
            f"the source has {' and '.join(sorted(named))} but no train; --split 0.8,0.2 draws new splits"
        )
    if "val" not in splits:
        train = [index for index, split in enumerate(splits) if split == "train"]
        for index, split in zip(train, draw([digests[i] for i in train], DEFAULT, seed), strict=True):
            splits[index] = split
    return splits
