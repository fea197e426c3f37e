"""Networks, curves, answers, suites and annotations of strangers: each is read, or refused in words.

The long form: pytest tests/hostile --hypothesis-profile=long -k fuzz
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from detector.errors import UserError, has_control
from detector.gradients.profile import read_profile
from detector.models.yolo import YoloModel
from detector.runtime.description_check import check_description
from detector.runtime.memory_check import MOST_DESCRIBED, count_numbers
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.compare.report import cause, read_answer
from detector.tools.convert.coco import read_coco
from detector.tools.convert.voc import read_voc
from detector.tools.suites.suite import expand, load_suite
from tests.hostile.strange import changed, documents, fewer, places, printable, replaced, spoilt, values
from tests.support import ROOT
from tests.tools.convert.builders import coco_json, voc_text


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that the cases of a module share: each overwrites what the last one wrote."""
    return tmp_path_factory.mktemp("fuzz")


NETWORK = {
    "nc": 2, "scales": {"n": [0.5, 0.25, 1024]},
    "backbone": [[-1, 1, "Conv", [8, 3, 2]], [-1, 2, "C2f", [8, True]]],
    "head": [[[0, 1], 1, "Concat", [1]], [[1], 1, "Detect", ["nc"]]],
}  # fmt: skip
layers = st.sampled_from(["nn.x", "Conv", "nn.Upsample", "C2PSA", "Detect", "1" * 90, "(" * 90, ...])


@given(st.sampled_from(list(places(NETWORK))), values | layers)
def test_network_descriptions(at: tuple[object, ...], new: object) -> None:
    description = replaced(NETWORK, at, new) if at or new is not ... else NETWORK
    if not isinstance(description, dict):
        return  # `read_description` refuses it
    try:
        check_description(description, import_ultralytics("nn.modules"))
    except ValueError as error:
        assert len(str(error)) < 300


sizes = st.sampled_from(
    [0, 1, 2, 7, 64, 500, 9999, -3, 0.1, 9.9, "Conv", "nn.Upsample", "C2PSA", None, [9999]]
)


@pytest.mark.slow
# Few, and the same ones each time: what a network takes in memory is bounded, and not what it computes.
@settings(max_examples=settings.default.max_examples // 10, derandomize=True, database=None)
@given(st.sampled_from([at for at in places(NETWORK) if at]), values | sizes)
def test_networks(at: tuple[object, ...], new: object) -> None:
    """What is built takes no more than a description may."""
    try:
        model = YoloModel(replaced(NETWORK, at, new), 2)
    except UserError as error:
        printable(error)
    else:
        assert 4 * count_numbers(model) <= MOST_DESCRIBED


settings_of_layers = st.dictionaries(
    st.sampled_from(
        ["class", "stride", "padding", "dilation", "groups", "eps", "momentum", "add", "c", "training"]
    ),
    values | st.sampled_from(["Identity", "SiLU", "Linear", 0, 1, 2, 32, 33, -1, [2, 2], [0, 0], 0.5]),
    max_size=3,
)


@pytest.mark.slow
@fewer
@given(st.dictionaries(
    st.sampled_from(["model.0", "model.0.conv", "model.0.act", "model.0.bn", "model.1.m.0", "model.3", ""]),
    settings_of_layers | values, max_size=2,
))  # fmt: skip
def test_settings_of_layers(given_settings: dict[str, Any]) -> None:
    """As a run's checkpoint has them."""
    try:
        model = YoloModel(NETWORK, 2, given_settings)
    except UserError as error:
        printable(error)
    else:
        assert model.settings == given_settings


CURVE = {"00_stem": 1e-3, "01_p2.0": 0.5, "02_p3.0": 1.0}
norms = st.floats(allow_nan=False, min_value=0)


curves = st.tuples(norms, norms, norms).map(lambda found: dict(zip(CURVE, found, strict=True)))


@given(changed(CURVE) | curves.map(lambda curve: json.dumps(curve).encode()))
def test_curves(folder: Path, content: bytes) -> None:
    (folder / "curve.json").write_bytes(content)
    try:
        profile = read_profile(str(folder / "curve.json"), list(CURVE), steps=3, seed=0)
    except UserError as error:
        printable(error)
    else:
        for ratios in profile.ratios:
            assert [*ratios] == [*CURVE] and all(0 <= r < math.inf for r in ratios.values())


SHARE = {"mean": 0.5, "low": 0.2, "high": 0.8, "n": 3}
ANSWER = {
    "ablation": "plain_silu", "data": "shapes", "metric": "mAP", "metric_gap": SHARE,
    "metric_shares": {"gradient": SHARE},
    "answer": {"says": "The gradient.", "gap": SHARE, "shares": {"gradient": SHARE},
               "control": {"passed": True}},
}  # fmt: skip


@given(changed(ANSWER))
def test_answers(folder: Path, content: bytes) -> None:
    (folder / "answer.json").write_bytes(content)
    try:
        text = cause(read_answer(folder / "answer.json"))
    except UserError as error:
        printable(error)
    else:
        assert text.startswith("## Is it the gradient? ")


SUITE = {
    "base": str(ROOT / "configs" / "coco8.yaml"), "seeds": 2, "settings": {"train": {"steps": 3}},
    "cells": {"baseline": {}, "relu": {"model": {"act": "relu"}},
              "file": str(ROOT / "ablations" / "no_residual.yaml")},
}  # fmt: skip


@pytest.mark.slow
@fewer
@given(changed(SUITE) | documents.map(lambda text: text.encode(errors="surrogatepass")))
def test_suites(folder: Path, content: bytes) -> None:
    (folder / "suite.yaml").write_bytes(content)
    try:
        cells = expand(load_suite(folder / "suite.yaml"))
    except UserError as error:
        printable(error)
    else:
        assert cells and not any(has_control(cell.name) for cell in cells)


COCO = coco_json(["a.png"], [{"bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9]]}])
VOC = voc_text([("cat", 1, 1, 9, 9)]).encode()
tags = st.sampled_from(
    ["<annotation>", "</annotation>", "<object>", "</object>", "<bndbox>", "<name>", "</name>", "<x/>",
     "<!DOCTYPE a [<!ENTITY b 'c'>]>", "&b;", "<![CDATA[", "]]>", "<?xml version='1.0' encoding='gbk'?>",
     "<?xml version='1.0' encoding='hex'?>", "<xmin>1e999</xmin>", "<size>", "nan", "\0", "\ud800"]
)  # fmt: skip
xml = st.lists(tags, max_size=12).map(lambda parts: "".join(parts).encode(errors="surrogatepass"))


@pytest.fixture(scope="module")
def annotated(folder: Path) -> Path:
    """A folder with one picture."""
    (folder / "annotated").mkdir()
    cv2.imwrite(str(folder / "annotated" / "a.png"), np.zeros((48, 64, 3), np.uint8))
    return folder / "annotated"


@pytest.mark.slow
@given(changed(COCO))
def test_coco(annotated: Path, content: bytes) -> None:
    (annotated / "coco.json").write_bytes(content)
    try:
        read = read_coco(annotated / "coco.json", annotated, keep_crowd=False)
    except UserError as error:
        printable(error)
    else:
        boxes = [box for picture in read.pictures for box in picture.boxes]
        assert all(math.isfinite(edge) for box in boxes for edge in box.corners)


@pytest.mark.slow
@given(spoilt([VOC, VOC.decode().encode("utf-16")]) | xml)
@example(b"<annotation>" * 100_000)
def test_voc(annotated: Path, content: bytes) -> None:
    (annotated / "a.xml").write_bytes(content)
    try:
        read = read_voc(annotated, None, zero_based=False, keep_difficult=False)
    except UserError as error:
        printable(error)
    else:
        boxes = [box for picture in read.pictures for box in picture.boxes]
        assert all(math.isfinite(edge) for box in boxes for edge in box.corners)
