"""The contact sheet of `detector check`: labelled images as training will see them."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from detector.data.dataset import Dataset, Item
from detector.data.geometry import Image, xywh_to_xyxy
from detector.data.images import read_image
from detector.errors import UserError, display_path, escape_control
from detector.loggers import images as pictures

IMAGES = 16
COLORS = (
    (86, 180, 233),
    (230, 159, 0),
    (0, 158, 115),
    (240, 228, 66),
    (213, 94, 0),
    (204, 121, 167),
    (0, 114, 178),
)  # fmt: skip  Okabe and Ito's palette, told apart by the colour-blind too


def refuse_existing(path: Path) -> None:
    """Raise UserError if a sheet cannot be written to `path`; called before the long work."""
    if path.suffix.lower() not in (".png", ".jpg", ".jpeg"):
        raise UserError(f"--sheet {path}: the name must end in .png or .jpg")
    if os.path.lexists(path):
        raise UserError(f"--sheet {path}: exists already; name another file, or remove it")
    if not path.parent.is_dir():
        raise UserError(f"--sheet {path}: there is no folder {display_path(path.parent)}")


def write_sheet(dataset: Dataset, path: Path) -> int:
    """Draw up to 16 images with their boxes into a new file; return how many.

    Raises:
        UserError: the file exists or cannot be written.
    """
    chosen = choose(dataset, IMAGES)
    tiles = [_draw(item, split, dataset.names) for split, item in chosen]
    try:
        with path.open("xb") as file:  # x: never over an existing file
            file.write(pictures.encode(pictures.grid(tiles), path.suffix))
    except FileExistsError:
        refuse_existing(path)
    except OSError as error:
        raise UserError(f"--sheet {path}: cannot be written: {error.strerror or error}") from error
    return len(tiles)


def choose(dataset: Dataset, most: int) -> list[tuple[str, Item]]:
    """One image of each class, the rarest first, then others evenly over all splits; in their order."""
    every = [(split, item) for split, items in dataset.splits.items() for item in items]
    total = sum(np.bincount(item.classes, minlength=len(dataset.names)) for _, item in every)
    chosen: set[int] = set()
    shown_classes: set[int] = set()
    for index in np.argsort(total, kind="stable").tolist():
        if index in shown_classes or len(chosen) == most:
            continue
        place = next((place for place, (_, item) in enumerate(every) if index in item.classes), None)
        if place is not None:
            chosen.add(place)
            shown_classes.update(every[place][1].classes.tolist())
    rest = [place for place in range(len(every)) if place not in chosen]
    wanted = min(most - len(chosen), len(rest))
    chosen.update(rest[len(rest) * number // wanted] for number in range(wanted))
    return [every[place] for place in sorted(chosen)]


def _draw(item: Item, split: str, names: tuple[str, ...]) -> Image:
    """One image, enlarged or reduced to a readable size, with its boxes and their classes."""
    image = read_image(item.image)
    canvas, scale = pictures.fit(image)
    corners = xywh_to_xyxy(item.boxes) * np.array([image.shape[1], image.shape[0]] * 2) * scale
    colors = [COLORS[index % len(COLORS)] for index in item.classes.tolist()]
    labels = [names[index] for index in item.classes.tolist()]
    canvas = pictures.draw_boxes(canvas, corners, labels, colors, line=2)
    boxes = f"{len(corners)} box{'' if len(corners) == 1 else 'es'}"
    return pictures.caption(canvas, f"{split}: {escape_control(item.image.name)}, {boxes}")
