"""Boxes drawn on images, and the picture of the first training batch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from detector.config.schema import ModelConfig
from detector.data.batch import Batch
from detector.data.dataset import Dataset, Item
from detector.data.geometry import Letterbox
from detector.loggers import images
from detector.loggers.base import LoggerList, PredictionImage
from detector.loggers.images import PREDICTION, TRUTH, draw, draw_labels
from detector.loggers.plot_logger import PlotLogger
from detector.rundir import RunDir
from detector.training.examples import batch_images

MakePicture = Callable[..., PredictionImage]


def test_labels_are_drawn_where_they_are(make_picture: MakePicture) -> None:
    """128 pixels become 480 below a caption of 26: the box from 72 to 120 is one from 270 to 450."""
    drawn = draw_labels(make_picture())[26:]
    assert drawn.shape == (480, 480, 3)
    green = (np.abs(drawn.astype(int) - TRUTH) < 30).all(axis=2)
    assert green[450, 280:440].all() and green[280:440, 270].all() and green[280:440, 450].all()
    assert not green[300:440, 280:440].any()  # nothing inside, and no predictions


def test_many_labels_are_drawn_without_their_names(make_picture: MakePicture) -> None:
    few = make_picture()
    many = replace(few, truth_boxes=np.tile(few.truth_boxes, (20, 1)), truth_classes=np.zeros(40, int))
    above = [draw_labels(picture)[26:][256:268, 275:300] for picture in (few, many)]  # the second box
    assert [bool((name == TRUTH).all(axis=2).any()) for name in above] == [True, False]


def test_the_first_batch_is_drawn_as_it_is(tmp_path: Path) -> None:
    """Two images, one of them a background; the other has its object in the lower right quarter."""
    nothing, no_class = np.zeros((0, 4), np.float32), np.zeros(0, np.int64)
    items = tuple(Item(Path(f"/data/{name}.jpg"), no_class, nothing) for name in "abc")
    dataset = Dataset("some", ("cat", "dog"), {"train": items}, (), "")
    images = torch.stack([torch.full((3, 64, 64), value, dtype=torch.uint8) for value in (10, 200)])
    box, whole = torch.tensor([[0.75, 0.75, 0.5, 0.5]]), Letterbox(64, 64, 64)
    batch = Batch(images, torch.ones(1), torch.ones(1), box, (2, 0), (whole, whole))
    empty, full = batch_images(batch, dataset)
    assert (empty.name, full.name, full.split) == ("c.jpg", "a.jpg", "train")
    assert empty.truth_boxes.shape == (0, 4) and len(full.boxes) == len(full.scores) == 0
    assert full.truth_boxes.tolist() == [[32, 32, 64, 64]] and full.class_name(full.truth_classes[0]) == "dog"
    assert (empty.image == 10).all() and full.image.shape == (64, 64, 3)

    LoggerList([PlotLogger(RunDir(tmp_path), ModelConfig())]).first_batch([empty, full])
    sheet = cv2.imread(str(tmp_path / "plots" / "train_batch.png"))
    assert sheet is not None and sheet.shape == (506, 960, 3)


def test_class_names_are_not_limited_to_ascii(make_picture: MakePicture) -> None:
    one, other = (draw_labels(replace(make_picture(), class_names=(name, "dog"))) for name in ("жук", "кит"))
    assert (one != other).any()


def test_what_a_diverged_detector_finds_is_drawn(make_picture: MakePicture) -> None:
    boxes = np.array([[np.nan] * 4, [np.inf, -np.inf, 5, 5], [100, 90, 20, 10]], np.float32)
    assert draw(replace(make_picture(), boxes=boxes)).shape == (506, 480, 3)


def test_a_caption_is_the_name_alone_beside_what_the_colors_mean(
    make_picture: MakePicture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where nothing was found."""
    told = list[object]()
    monkeypatch.setattr(images, "caption", lambda canvas, *words: told.append(words))
    picture, nothing = make_picture(), np.zeros(0, int)
    draw(replace(picture, boxes=np.zeros((0, 4)), classes=nothing, scores=nothing))
    true = f"{len(picture.truth_boxes)} true"
    assert told == [(picture.name, [(true, TRUTH), ("0 found", PREDICTION)])]
