"""The predictor as a function: sizes, batches, thresholds, and what it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torchvision.ops import box_iou

from detector.config.schema import DataConfig, TrainConfig
from detector.data.images import read_image
from detector.data.loader import Loader
from detector.data.sources import load_dataset
from detector.errors import UserError
from detector.predictor import Predictor
from detector.training.evaluation import evaluate
from tests.checkpoints import NAMES, confident, picture, save
from tests.training.harness import ALONE, create_state


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save(confident(), tmp_path_factory.mktemp("run") / "best.pt", image_size=128)


@pytest.mark.slow
def test_it_finds_what_the_evaluation_finds(tmp_path: Path, coco8: Path) -> None:
    # With a single class, where a box cannot count twice; through the training's own loader and engine.
    model = confident(names=("thing",), share=0.2)
    path = save(model, tmp_path / "best.pt", names=("thing",), image_size=128)
    items = load_dataset("datasets/coco8.yaml").splits["val"]
    loader = Loader(items, DataConfig(image_size=128))
    state = create_state(model, TrainConfig(device="cpu"))
    evaluated = evaluate(state, loader.eval_batches(batch=4), items, ALONE).predictions
    predictor = Predictor(path, confidence=0.001, device="cpu")
    assert predictor.names == ("thing",)
    assert predictor.image_size == 128
    for found, expected in zip(
        predictor.batch([read_image(item.image) for item in items]), evaluated, strict=True
    ):
        real = (expected.boxes[:, 2:] > expected.boxes[:, :2]).all(1)
        assert len(found.boxes) > 10
        np.testing.assert_allclose(found.boxes, expected.boxes[real], atol=1e-3)
        np.testing.assert_allclose(found.scores, expected.scores[real], atol=1e-5)


def test_a_batch_of_any_sizes_is_what_single_images_are(checkpoint: Path) -> None:
    predictor = Predictor(checkpoint)
    images = [picture(1), picture(2, 200, 60), picture(3, 128, 128), np.zeros((1, 300, 3), np.uint8)]
    for image, found in zip(images, predictor.batch(images), strict=True):
        alone = predictor(image)
        np.testing.assert_allclose(found.boxes, alone.boxes, atol=1e-3)
        np.testing.assert_allclose(found.scores, alone.scores, atol=1e-5)
        assert found.classes.tolist() == alone.classes.tolist()
        height, width = image.shape[:2]
        assert (found.boxes >= 0).all()
        assert (found.boxes <= [width, height, width, height]).all()
        assert (found.boxes[:, 2:] > found.boxes[:, :2]).all()
        assert (np.diff(found.scores) <= 0).all()
    assert len(predictor(images[0]).boxes) > 3
    assert predictor.batch([]) == []


def test_thresholds(checkpoint: Path) -> None:
    image = picture(1)
    every = Predictor(checkpoint, confidence=0.1, iou=1.0)(image)
    sure = Predictor(checkpoint, confidence=0.5, iou=1.0)(image)
    assert 0 < len(sure.boxes) < len(every.boxes)
    np.testing.assert_array_equal(sure.boxes, every.boxes[every.scores > 0.5])
    apart = Predictor(checkpoint, confidence=0.1, iou=0.02)(image)
    assert len(apart.boxes) < len(every.boxes)
    overlap = box_iou(*[torch.from_numpy(apart.boxes)] * 2).fill_diagonal_(0)
    same = torch.from_numpy(apart.classes[:, None] == apart.classes)
    assert float(overlap[same].max()) < 0.03  # 0.02, before the boxes were cut at the image's edges


def test_reduced_precision_finds_about_the_same(checkpoint: Path) -> None:
    image = picture(1)
    full, half = (Predictor(checkpoint, precision=precision)(image) for precision in ("fp32", "bf16"))
    assert full.scores[0] == pytest.approx(half.scores[0], abs=0.05)
    assert not np.array_equal(full.scores, half.scores)


@pytest.mark.parametrize(
    ("settings", "named"),
    [
        ({"image_size": 100}, "multiples of 32, such as 96"),
        ({"image_size": 8}, "such as 32"),
        ({"precision": "fp16", "device": "cpu"}, "bf16 or fp32"),
        ({"device": "gpu7"}, "device gpu7 cannot be used"),
    ],
)
def test_what_it_cannot_do_is_named(checkpoint: Path, settings: dict[str, object], named: str) -> None:
    with pytest.raises(UserError, match=named):
        Predictor(checkpoint, **settings)


def test_names_of_classes_survive(checkpoint: Path) -> None:
    assert Predictor(checkpoint).names == NAMES
