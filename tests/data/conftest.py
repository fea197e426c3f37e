"""A small valid dataset on disk, which each test then damages in one way."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest

LABEL = "0 0.5 0.5 0.25 0.5\n"


def picture(seed: int, width: int = 32, height: int = 24, suffix: str = ".jpg") -> bytes:
    """An encoded picture that differs from that of every other seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return cv2.imencode(suffix, pixels)[1].tobytes()


@pytest.fixture
def encode() -> Callable[..., bytes]:
    """The function `picture`."""
    return picture


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """A folder with data.yaml, two classes, two train images and one val image, all labelled."""
    root = tmp_path / "mine"
    for seed, name in enumerate(["train/a", "train/b", "val/c"]):
        image, label = root / "images" / f"{name}.jpg", root / "labels" / f"{name}.txt"
        image.parent.mkdir(parents=True, exist_ok=True)
        label.parent.mkdir(parents=True, exist_ok=True)
        image.write_bytes(picture(seed))
        label.write_text(LABEL)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root
