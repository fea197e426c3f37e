"""Which image goes into which split."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence

from detector.data.near_duplicates import Thumbnail, look_alikes
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


def draw(
    digests: Sequence[bytes], fractions: Sequence[float], seed: int, pictures: Sequence[Thumbnail] = ()
) -> tuple[list[str], str]:
    """Draw a split for every image, by its content: names, folders and order do not matter.

    Args:
        digests: of the images' content, all different.
        fractions: of train, val and perhaps test; every split gets at least one image.
        seed: of the draw.
        pictures: small copies; images that look alike, as frames of one video do, stay in one split.

    Returns:
        The split of each image, in the given order, and what is to be said of it.

    Raises:
        UserError: there are fewer images than splits.
    """
    count = len(digests)
    if count < len(fractions):
        raise UserError(f"{count} usable images cannot be split into {len(fractions)}: add images")
    sizes = [max(1, round(fraction * count)) for fraction in fractions[1:]]
    while sum(sizes) >= count:  # a handful of images: train needs one too
        sizes[sizes.index(max(sizes))] -= 1
    room = dict(zip(SPLITS[1:], sizes, strict=False))
    groups, remark = look_alikes(pictures), ""
    if alike := sum(len(group) for group in groups if len(group) > 1):
        remark = f"{alike} of the {count} images look like another one and are kept in one split with it"
    if len(groups) < len(fractions):
        groups = [[index] for index in range(count)]
        if alike:
            remark = f"the {count} images look too much alike to be split: scores on val will say little"
    groups.sort(key=lambda group: min(digests[index] for index in group))
    random.Random(seed).shuffle(groups)
    homes = ["train"] * len(groups)
    for number, group in reversed(list(enumerate(groups))):
        for split in reversed(room):
            if len(group) <= room[split]:
                homes[number], room[split] = split, room[split] - len(group)
                break
    for split in room.keys() - homes:  # each group was larger than it: so it is now
        often = Counter(homes)
        spare = [number for number, home in enumerate(homes) if often[home] > 1]
        homes[min(spare, key=lambda number: len(groups[number]))] = split
    home = {index: homes[number] for number, group in enumerate(groups) for index in group}
    return [home[index] for index in range(count)], remark


def assign(
    own: Sequence[str | None],
    digests: Sequence[bytes],
    fractions: Sequence[float] | None,
    seed: int,
    pictures: Sequence[Thumbnail] = (),
) -> tuple[list[str], str]:
    """The split of every image: the source's own, else drawn, as `draw` returns it.

    With `fractions` all are drawn. Without, the source's own splits are kept if it has more than one; where
    val is missing, a fifth of train becomes val.

    Raises:
        UserError: there are too few images, or the source's own splits have no train.
    """
    named = {split for split in own if split is not None}
    if fractions is not None or len(named) < 2:  # all in val, say: that is no division
        return draw(digests, fractions or DEFAULT, seed, pictures)
    if None in own:
        raise UserError(f"{own.count(None)} images are in none of the source's splits "
                        f"{', '.join(sorted(named))}; --split 0.8,0.2 draws new ones for all")  # fmt: skip
    splits, remark = [split or "" for split in own], ""
    if "train" not in splits:
        raise UserError(
            f"the source has {' and '.join(sorted(named))} but no train; --split 0.8,0.2 draws new splits"
        )
    if "val" not in splits:
        train = [index for index, split in enumerate(splits) if split == "train"]
        thumbnails = [pictures[index] for index in train] if pictures else ()
        drawn, remark = draw([digests[index] for index in train], DEFAULT, seed, thumbnails)
        for index, split in zip(train, drawn, strict=True):
            splits[index] = split
    return splits, remark
