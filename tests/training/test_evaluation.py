"""Leaving out padding: which part of an image is looked at, and that boxes come back to their place."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from detector.data.batch import Batch
from detector.data.dataset import Item
from detector.data.geometry import Letterbox
from detector.models.base import DetectionModel, Predictions
from detector.training.evaluation import predict_split, windows

SIZE = 128
WIDE, TALL, SQUARE = Letterbox(SIZE, 64, 32), Letterbox(SIZE, 32, 128), Letterbox(SIZE, 50, 50)


def batch_of(*letterboxes: Letterbox) -> Batch:
    count = len(letterboxes)
    return Batch(
        images=torch.arange(count * 3 * SIZE * SIZE).reshape(count, 3, SIZE, SIZE).to(torch.uint8),
        batch_idx=torch.zeros(0),
        cls=torch.zeros(0),
        boxes=torch.zeros(0, 4),
        indices=tuple(range(count)),
        letterboxes=letterboxes,
    )


def test_windows_hold_the_image_and_end_on_whole_cells() -> None:
    found = windows(batch_of(WIDE, SQUARE, TALL, WIDE), 32)
    # 64 x 32 fills 128 x 64 in the middle, rows 32 to 96; 32 x 128 fills columns 48 to 80.
    assert found == {(0, 32, 128, 96): [0, 3], (0, 0, 128, 128): [1], (32, 0, 96, 128): [2]}
    assert windows(batch_of(WIDE, TALL), None) == {(0, 0, SIZE, SIZE): [0, 1]}


class Bright(DetectionModel):
    """Sees one box, as wide and high as a cell of 32 pixels, in each cell whose first pixel is white."""

    strides, num_classes, reg_max = (32,), 1, 1

    def forward(self, images: Tensor) -> Predictions:
        cells = images[:, :1, ::32, ::32].float()  # (B, 1, H / 32, W / 32)
        scores = torch.where(cells.flatten(2) == 255, 2.0, -20.0)
        return {
            "boxes": torch.full((len(images), 4, scores.shape[2]), 0.5),
            "scores": scores,
            "feats": [cells],
        }


def test_what_is_found_is_where_it_was_with_the_padding() -> None:
    batch = batch_of(WIDE, SQUARE, TALL)
    images = torch.zeros_like(batch.images)
    for row, (x, y) in enumerate([(96, 64), (0, 0), (32, 96)]):
        images[row, :, y, x] = 255
    batch = replace(batch, images=images)
    empty = np.zeros(0, np.int64), np.zeros((0, 4), np.float32)
    items = [Item(Path(f"{index}.jpg"), *empty) for index in range(3)]
    model = Bright()
    (_, whole), (_, trimmed) = (
        predict_split(model, model, [batch], items, trim=trim) for trim in (False, True)
    )
    for one, other in zip(whole, trimmed, strict=True):
        assert len(one.boxes) == 1
        np.testing.assert_allclose(other.boxes, one.boxes)
    # The square's cell at (96, 64) to (128, 96) of the 64 x 32 image, which was doubled and moved down by 32.
    np.testing.assert_allclose(whole[0].boxes, [[48, 16, 64, 32]])
