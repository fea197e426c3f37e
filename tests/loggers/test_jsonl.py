"""The local history: the record everything else may be rebuilt from."""

from __future__ import annotations

import errno
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.loggers.base import Logger, LoggerList, PredictionImage, Row
from detector.loggers.jsonl import JsonlLogger
from detector.rundir import RunDir


def test_the_summary_is_json_whatever_it_holds(tmp_path: Path, summary: dict[str, Any]) -> None:
    logger = JsonlLogger(RunDir(tmp_path))
    odd = {"nan": math.nan, "path": Path("a/b"), "list": [np.float64(1.5)], "tuple": (1, None, True)}
    logger.finish(summary | odd, None)
    logger.close()
    back = json.loads((tmp_path / "summary.json").read_text())
    assert {key: back[key] for key in summary} == summary
    assert {key: back[key] for key in odd} == {
        "nan": "NaN",
        "path": "a/b",
        "list": [1.5],
        "tuple": [1, None, True],
    }


def test_the_newest_predictions_are_drawn_by_split(
    tmp_path: Path, make_picture: Callable[..., PredictionImage]
) -> None:
    logger = JsonlLogger(RunDir(tmp_path))
    logger.predictions(0, [make_picture(f"{n}.jpg") for n in range(2)])
    logger.predictions(9, [make_picture(f"{n}.jpg") for n in range(12)] + [make_picture(split="val")])
    logger.finish({}, None)
    logger.close()
    train = cv2.imread(str(tmp_path / "plots" / "predictions_train.png"))
    assert train.shape == (3 * 506, 3 * 480, 3)  # nine at most
    colors = {tuple(color) for color in train.reshape(-1, 3)[:, ::-1].tolist()}
    assert {(64, 200, 96), (255, 128, 0)} <= colors
    assert cv2.imread(str(tmp_path / "plots" / "predictions_val.png")) is not None


def test_a_picture_that_cannot_be_drawn_costs_no_summary(
    tmp_path: Path, make_picture: Callable[..., PredictionImage]
) -> None:
    said: list[str] = []
    logger = JsonlLogger(RunDir(tmp_path), report=said.append)
    logger.predictions(0, [make_picture()])
    (tmp_path / "plots").write_text("in the way")
    logger.finish({"steps": 1}, None)
    logger.close()
    assert json.loads((tmp_path / "summary.json").read_text()) == {"steps": 1}
    assert len(said) == 1 and "not drawn" in said[0]


def test_predictions_gone_wrong_are_still_drawn(tmp_path: Path) -> None:
    from detector.loggers.images import save_grid

    nothing = np.zeros((0, 4), np.float32)
    image = np.zeros((64, 32, 3), np.uint8)
    boxes = np.array([[math.nan] * 4, [-1e30, math.inf, 1e30, 5]])
    bad = PredictionImage(
        image, boxes, np.array([0, 1]), np.array([math.nan, 0.5]), nothing, np.zeros(0), "a", (), "val"
    )
    save_grid([bad], tmp_path / "a.png")
    save_grid([], tmp_path / "none.png")
    assert (tmp_path / "a.png").exists() and not (tmp_path / "none.png").exists()


class _Recorder(Logger):
    def __init__(self) -> None:
        self.calls: list[str] = []

    def log(self, row: Row) -> None:
        self.calls.append("log")

    def message(self, text: str) -> None:
        self.calls.append(text)

    def close(self, exit_code: int = 0) -> None:
        self.calls.append(f"close {exit_code}")


class _Broken(_Recorder):
    def log(self, row: Row) -> None:
        super().log(row)
        raise RuntimeError("quota\nexceeded")


def test_a_failing_logger_is_dropped_and_the_others_say_so() -> None:
    broken, healthy = _Broken(), _Recorder()
    loggers = LoggerList([broken, healthy])
    loggers.log({"step": 0})
    loggers.log({"step": 1})
    loggers.close(3)
    assert broken.calls == ["log", "close 3"]
    assert healthy.calls[0] == healthy.calls[2] == "log"
    assert healthy.calls[1] == "_Broken stopped: RuntimeError: quota exceeded (training continues)"
    assert healthy.calls[-1] == "close 3"


def test_the_local_history_is_not_optional(tmp_path: Path) -> None:
    class Full(JsonlLogger):
        def log(self, row: Row) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    last = _Recorder()
    loggers = LoggerList([Full(RunDir(tmp_path)), last])
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            loggers.log({"step": 0})
    assert last.calls == ["log", "log"]
    loggers.close()


def test_ctrl_c_is_not_swallowed() -> None:
    class Interrupted(Logger):
        def log(self, row: Row) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        LoggerList([Interrupted()]).log({})


def test_the_null_logger_takes_everything(make_picture: Callable[..., PredictionImage]) -> None:
    logger = Logger()
    logger.log({"step": 0})
    logger.predictions(0, [make_picture()])
    logger.message("")
    logger.finish({}, None)
    logger.close()
