"""Small sets that a network of 40 convolutions learns in 60 steps, and runs broken in one way each."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np

from detector import fit, load_config
from detector.config.schema import Config
from detector.models.build import build_network
from detector.tools.why.cells import nine_decades

SIZE = 96
NAMES = ("square", "disc", "triangle")
COLOURS = ((220, 60, 60), (60, 200, 80), (70, 90, 230))

Row = tuple[int, float, float, float, float]  # class, and a box as YOLO writes it
Change = Callable[[Row], Row]


def draw(
    folder: Path,
    *,
    seed: int = 0,
    train: int = 48,
    sides: tuple[int, int] = (24, 48),
    coloured: bool = True,
    labelled: float = 1.0,
    change: Change = lambda row: row,
    only: Sequence[str] = ("train", "val"),
) -> Path:
    """Up to three shapes an image on grey noise; return the data YAML.

    Args:
        folder: to write into.
        seed: of the pictures.
        train: images of train; val has 24.
        sides: the least and the largest side of a shape, pixels.
        coloured: each class has its colour; else colours say nothing.
        labelled: the share of objects that have a label.
        change: what is written instead of a label.
        only: the splits that `change` is for.
    """
    rng, leave_out = np.random.default_rng(seed), np.random.default_rng(99)
    for split, count in (("train", train), ("val", 24)):
        for kind in ("images", "labels"):
            (folder / kind / split).mkdir(parents=True)
        for index in range(count):
            image, rows = _picture(rng, sides, coloured)
            rows = [row for row in rows if leave_out.random() < labelled]
            rows = [change(row) if split in only else row for row in rows]
            cv2.imwrite(str(folder / "images" / split / f"{index}.png"), image[..., ::-1])
            lines = (" ".join(f"{value:.6g}" for value in row) for row in rows)
            (folder / "labels" / split / f"{index}.txt").write_text("\n".join(lines))
    path = folder / "data.yaml"
    path.write_text(f"train: images/train\nval: images/val\nnames: {json.dumps(NAMES)}\n")
    return path


def _picture(
    rng: np.random.Generator, sides: tuple[int, int], coloured: bool
) -> tuple[np.ndarray, list[Row]]:
    noise = rng.normal(rng.integers(60, 190), 12, (SIZE, SIZE, 3))
    image = np.ascontiguousarray(noise.clip(0, 255).astype(np.uint8))
    taken: list[tuple[int, int, int]] = []
    rows: list[Row] = []
    for _ in range(int(rng.integers(1, 4))):
        for _ in range(20):
            side = int(rng.integers(sides[0], sides[1] + 1))
            x, y = (int(v) for v in rng.integers(0, SIZE - side, 2))
            if all(x + side < a or a + s < x or y + side < b or b + s < y for a, b, s in taken):
                break
        else:
            continue
        taken.append((x, y, side))
        label = int(rng.integers(3))
        own = tuple(int(v) for v in rng.integers(0, 255, 3))
        colour = COLOURS[label] if coloured else own
        right, low, middle = x + side - 1, y + side - 1, x + side // 2
        if label == 0:
            cv2.rectangle(image, (x, y), (right, low), colour, -1)
        elif label == 1:
            cv2.circle(image, (middle, y + side // 2), side // 2, colour, -1)
        else:
            cv2.fillPoly(image, [np.array([[x, low], [right, low], [middle, y]])], colour)
        share = side / SIZE
        rows.append((label, x / SIZE + share / 2, y / SIZE + share / 2, share, share))
    return image, rows


DEEP = "model.depths=[1, 4, 2, 1]"  # 21 convolutions of the trunk
SHORT = (
    "data.image_size=96", "model.depths=[1, 1, 1, 1]", "model.reg_max=8", "train.batch=8",
    "train.optimizer=adamw", "train.lr=0.008", "train.warmup_steps=5", "train.steps=60",
    "train.eval_every=null", "train.threads=1", "train.device=cpu", "gradients.ledger=false",
    "tracking.plots=false", "tracking.images=0", "tracking.wandb=disabled",
)  # fmt: skip


def train(folder: Path, data: Path, *overrides: str) -> Path:
    """A short run; return its directory."""
    run = folder / "run"
    fit(load_config("coco8", [*SHORT, f"data.path={data}", f"run.dir={run}", *overrides]))
    return run


def corners(row: Row) -> Row:
    label, x, y, width, height = row
    return label, x - width / 2, y - height / 2, x + width / 2, y + height / 2


def next_class(row: Row) -> Row:
    return ((row[0] + 1) % 3, *row[1:])


def shifted(row: Row) -> Row:
    label, x, y, width, height = row
    return label, min(x + 0.3 * width, 1 - width / 2), min(y + 0.3 * height, 1 - height / 2), width, height


def profile(folder: Path) -> str:
    """A curve that falls by nine decades, for `gradients.impose`."""
    config = Config().model.model_copy(update={"depths": (1, 4, 2, 1)})
    path = folder / "profile.json"
    path.write_text(json.dumps(nine_decades(list(build_network(config, 3).backbone_layers()))))
    return str(path)


def newcomer(folder: Path) -> Path:
    """A run on nine pictures in uneven batches, with objects that hardly a cell hits at first.

    It learns most of them, though its loss begins so low that it ends at no less than half of that.
    """
    data = draw(folder / "d", seed=5, train=9, sides=(12, 30))
    return train(folder, data, "train.batch=4", "model.reg_max=16", "train.steps=80")


# What is broken -> how the run is made in an empty folder.
BROKEN: dict[str, Callable[[Path], Path]] = {
    "corners for centres": lambda f: train(f, draw(f / "d", change=corners), "train.steps=5"),
    "half of the labels left out": lambda f: train(f, draw(f / "d", labelled=0.5)),
    "a learning rate of 1/10,000": lambda f: train(f, draw(f / "d"), "train.lr=8e-7", "train.steps=20"),
    "a learning rate × 100": lambda f: train(f, draw(f / "d"), "train.lr=0.8", "train.steps=30"),
    "objects of 3 to 5 pixels": lambda f: train(f, draw(f / "d", sides=(3, 5)), "train.steps=20"),
    "running statistics that stand still": lambda f: train(f, draw(f / "d"), "train.norm_momentum=0.0001"),
    "a trunk without signal": lambda f: train(
        f, draw(f / "d"), DEEP, "model.norm=none", "model.shortcut=none", "model.init=naive", "train.steps=30"
    ),
    "a gradient that falls by nine decades": lambda f: train(
        f, draw(f / "d", seed=5, train=96, coloured=False), DEEP, f"gradients.impose={profile(f)}",
        "train.optimizer=sgd", "train.lr=0.02", "train.steps=80",
    ),
    "twelve steps": lambda f: train(f, draw(f / "d"), "train.steps=12"),
    "four training images": lambda f: train(
        f, draw(f / "d", seed=5, train=4), "train.batch=4", "train.steps=80"
    ),
    "other class numbers in val": lambda f: train(f, draw(f / "d", change=next_class, only=("val",))),
    "boxes of val beside the objects": lambda f: train(f, draw(f / "d", change=shifted, only=("val",))),
}  # fmt: skip
