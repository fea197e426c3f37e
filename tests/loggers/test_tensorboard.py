"""TensorBoard's files, read back with TensorBoard's own reader."""

from __future__ import annotations

import io
import math
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from detector.errors import UserError
from detector.loggers.base import PredictionImage
from tests.support import ROOT, TINY

pytest.importorskip("tensorboard", reason="tensorboard is not installed: the extra `tensorboard`")
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from detector.loggers.tensorboard import TensorboardLogger

Make = Callable[..., list[dict[str, Any]]]


def read(folder: Path) -> EventAccumulator:
    """Everything that is there: the reader keeps a sample unless told otherwise."""
    found = EventAccumulator(str(folder), size_guidance={"scalars": 0, "images": 0, "tensors": 0})
    return found.Reload()


def curve(found: EventAccumulator, tag: str) -> list[tuple[int, float]]:
    return [(event.step, event.value) for event in found.Scalars(tag)]


def test_every_number_of_every_row_arrives(
    tmp_path: Path,
    make_history: Make,
    blocks: list[str],
    make_picture: Callable[..., PredictionImage],
) -> None:
    history = make_history()
    logger = TensorboardLogger(tmp_path)
    for row in history:
        logger.log(row)
    logger.predictions(100, [make_picture()])
    logger.predictions(149, [make_picture(), make_picture("b.jpg"), make_picture(split="val")])
    logger.finish({"gradient/diagnosis": "It **vanishes**."}, None)
    logger.close()
    logger.close()

    found = read(tmp_path)
    for key in ("train/loss", "gradient/vanishing_index", "signal/input_dependence", "val/mAP50-95", "epoch"):
        expected = [(row["step"], pytest.approx(row[key], rel=1e-6)) for row in history if key in row]
        assert curve(found, key) == expected, key
    for block in blocks:
        for kind in ("activation_grad", "weight_grad", "update_ratio"):
            tag = f"layers_log10/{kind}_{block.replace('.', '_')}"
            norms = [(row["step"], math.log10(row[f"{kind}/{block}"])) for row in history]
            assert curve(found, tag) == [(step, pytest.approx(norm, rel=1e-5)) for step, norm in norms], tag
    tags = found.Tags()
    sections = list(dict.fromkeys(tag.split("/")[0] for tag in sorted(tags["scalars"]) if "/" in tag))
    assert sections == ["at_a_glance", "gradient", "layers_log10", "signal", "time", "train", "val"]
    losses = [(row["step"], pytest.approx(row["train/loss"], rel=1e-6)) for row in history]
    assert curve(found, "at_a_glance/train_loss") == losses
    assert len(curve(found, "at_a_glance/mAP50_95_val")) == 3

    # The first pictures, and then the last: those in between came too soon.
    train = found.Images("predictions/train")
    assert [picture.step for picture in train] == [100, 149]
    one, two = (Image.open(io.BytesIO(picture.encoded_image_string)) for picture in train)
    assert (two.width, two.height) == (2 * one.width, one.height)
    assert [picture.step for picture in found.Images("predictions/val")] == [149]
    (text,) = found.Tensors("diagnosis/text_summary")
    assert text.tensor_proto.string_val == [b"It **vanishes**."]


def test_numbers_gone_wrong_are_what_they_were(tmp_path: Path) -> None:
    logger = TensorboardLogger(tmp_path)
    logger.log({"step": 0, "train/loss": math.nan, "weight_grad/00_stem": 0.0, "weight_grad/01_p2.0": 1e-60})
    logger.log({"step": 1, "train/loss": math.inf, "weight_grad/00_stem": math.nan})
    found = read(tmp_path)  # nothing was closed: a killed run's rows are there
    (_, first), (_, second) = curve(found, "train/loss")
    assert math.isnan(first)
    assert math.isinf(second)
    (_, zero), (_, nan) = curve(found, "layers_log10/weight_grad_00_stem")
    assert zero == -40  # the floor of the vanishing index
    assert math.isnan(nan)
    assert curve(found, "layers_log10/weight_grad_01_p2_0") == [(0, -40)]
    logger.close()


def test_a_resumed_run_has_each_step_once(tmp_path: Path, make_history: Make) -> None:
    history = make_history()
    killed = TensorboardLogger(tmp_path)
    for row in history[:20]:
        killed.log(row)  # the checkpoint is older than the last rows: five come again
    resumed = TensorboardLogger(tmp_path, first_step=history[15]["step"], history=history[:15])
    for row in history[15:]:
        resumed.log(row | {"train/loss": -1.0})
    resumed.close()
    killed.close()
    assert len(list(tmp_path.glob("*tfevents*"))) == 2  # nothing that was there is rewritten
    found = read(tmp_path)
    assert [step for step, _ in curve(found, "gradient/vanishing_index")] == [row["step"] for row in history]
    losses = [row["train/loss"] for row in history[:15]] + [-1.0] * len(history[15:])
    assert [value for _, value in curve(found, "train/loss")] == pytest.approx(losses, rel=1e-6)


def test_a_run_that_had_none_before_begins_at_the_beginning(tmp_path: Path, make_history: Make) -> None:
    history = make_history()
    logger = TensorboardLogger(tmp_path / "new", first_step=history[15]["step"], history=history[:15])
    for row in history[15:]:
        logger.log(row)
    logger.close()
    steps = [step for step, _ in curve(read(tmp_path / "new"), "train/loss")]
    assert steps == [row["step"] for row in history]


def test_a_missing_package_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    with pytest.raises(UserError, match=r"^tracking\.tensorboard: .*pip install .*\[tensorboard\]'$"):
        TensorboardLogger(tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_it_is_said_before_a_run_has_a_directory(
    tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from detector import fit, load_config

    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    monkeypatch.setitem(sys.modules, "tensorboard", None)
    settings = (*TINY, "train.steps=1", "tracking.tensorboard=true", f"run.dir={tmp_path}/run")
    with pytest.raises(UserError, match=r"^tracking\.tensorboard: "):
        fit(load_config(ROOT / "configs/coco8.yaml", settings))
    assert not (tmp_path / "run").exists()
