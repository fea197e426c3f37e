"""A tiny task, in memory: coloured rectangles, one network of a few thousand weights."""

from collections.abc import Callable

import numpy as np
import pytest
import torch

from detector.config.schema import ModelConfig, TrainConfig
from detector.data.batch import Batch
from detector.data.geometry import Letterbox
from detector.models.detector import build_detector
from detector.models.loss import DetectionLoss
from detector.runtime.random_state import seed_everything
from detector.training.state import TrainState
from tests.training.harness import create_state

SIZE = 64


@pytest.fixture
def make_state() -> Callable[..., tuple[TrainState, DetectionLoss]]:
    def make(seed: int = 0, norm: str = "batch", **train: object) -> tuple[TrainState, DetectionLoss]:
        config = TrainConfig(**train)
        seed_everything(seed)
        model_config = ModelConfig(depths=(1, 1, 1, 1), widths=(8,) * 5, neck_width=8, norm=norm)
        model = build_detector(model_config, num_classes=2)
        return create_state(model, config), DetectionLoss(model, config)

    return make


@pytest.fixture
def make_batch() -> Callable[..., Batch]:
    def make(*, seed: int = 0, images: int = 2) -> Batch:
        rng = np.random.default_rng(seed)
        pixels = rng.integers(0, 60, (images, SIZE, SIZE, 3), dtype=np.uint8)
        boxes = np.empty((images, 4), np.float32)
        for i in range(images):
            x, y, w, h = (int(v) for v in rng.integers([0, 0, 16, 16], [32, 32, 32, 32]))
            pixels[i, y : y + h, x : x + w, i % 2] = 255
            boxes[i] = np.array([x + w / 2, y + h / 2, w, h]) / SIZE
        return Batch(
            images=torch.from_numpy(pixels).permute(0, 3, 1, 2),
            batch_idx=torch.arange(images, dtype=torch.float32),
            cls=torch.tensor([i % 2 for i in range(images)], dtype=torch.float32),
            boxes=torch.from_numpy(boxes),
            indices=tuple(range(images)),
            letterboxes=(Letterbox(SIZE, SIZE, SIZE),) * images,
        )

    return make
