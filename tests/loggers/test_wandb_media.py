"""What is sent to W&B beside the rows."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from detector.loggers.base import PredictionImage
from detector.loggers.wandb_media import pictures


def test_images_of_different_sizes_are_brought_to_one(
    make_picture: Callable[..., PredictionImage], caplog: pytest.LogCaptureFixture
) -> None:
    tall = replace(make_picture(), image=np.full((90, 40, 3), 7, np.uint8))
    wide = replace(make_picture(), image=np.full((50, 80, 3), 9, np.uint8))
    with caplog.at_level(logging.WARNING):
        shown = pictures([tall, wide])
    assert [image.image.size for image in shown] == [(80, 90), (80, 90)]
    pixels = np.asarray(shown[1].image).astype(int)  # as JPEG, which blurs what lies within 8 pixels
    assert abs(pixels[:48, :80] - 9).max() <= 3  # the picture stays where its boxes are
    assert abs(pixels[56:] - 114).max() <= 3
    assert pictures([]) == []
