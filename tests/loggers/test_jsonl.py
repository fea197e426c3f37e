"""The local history: the record everything else may be rebuilt from."""

from __future__ import annotations

import errno
import json
import math
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from detector.errors import UserError
from detector.loggers.base import PredictionImage, Row, Tracker, Trackers
from detector.loggers.jsonl import LocalTracker, read_history


def _write(directory: Path, rows: list[dict[str, Any]], **options: Any) -> Path:
    tracker = LocalTracker(directory, **options)
    for row in rows:
        tracker.log(row)
    tracker.close()
    return directory / "history.jsonl"


def test_rows_come_back_bit_for_bit(tmp_path: Path) -> None:
    rng = random.Random(0)
    values = [rng.random() * 10.0 ** rng.randint(-300, 300) for _ in range(200)]
    rows: list[dict[str, Any]] = [{"step": n, "epoch": 0, "value": value} for n, value in enumerate(values)]
    path = _write(tmp_path, rows)
    assert read_history(path) == rows


def test_a_row_is_on_disk_when_log_returns(tmp_path: Path) -> None:
    tracker = LocalTracker(tmp_path)
    tracker.log({"step": 0})
    assert read_history(tracker.path) == [{"step": 0}]
    tracker.close()
    tracker.close()


def test_step_and_epoch_come_first_and_layers_keep_their_order(tmp_path: Path) -> None:
    path = _write(tmp_path, [{"weight_grad/01_b": 1.0, "epoch": 2, "activation_grad/00_a": 2.0, "step": 7}])
    assert (
        path.read_text() == '{"step": 7, "epoch": 2, "weight_grad/01_b": 1.0, "activation_grad/00_a": 2.0}\n'
    )


def test_numbers_that_are_not_finite_are_valid_json(tmp_path: Path) -> None:
    def refuse(name: str) -> None:
        raise AssertionError(f"{name} is not JSON")

    path = _write(tmp_path, [{"step": 0, "a": math.nan, "b": math.inf, "c": -math.inf}])
    assert json.loads(path.read_text(), parse_constant=refuse)["a"] == "NaN"
    (row,) = read_history(path)
    assert math.isnan(row["a"])
    assert (row["b"], row["c"]) == (math.inf, -math.inf)


def test_numpy_and_torch_scalars_are_numbers(tmp_path: Path) -> None:
    import torch

    row = {"step": np.int64(3), "a": np.float32(0.5), "b": torch.tensor(0.25), "c": torch.tensor(4)}
    (back,) = read_history(_write(tmp_path, [row]))
    assert back == {"step": 3, "a": 0.5, "b": 0.25, "c": 4}


@pytest.mark.parametrize("torn", ['{"step": 2, "train/lo', '{"step": 2}', "garbage\n", "\x00\x00\x00"])
def test_a_torn_last_line_is_left_out_and_reported(tmp_path: Path, torn: str) -> None:
    path = _write(tmp_path, [{"step": 0}, {"step": 1}])
    with path.open("a") as file:
        file.write(torn)
    said: list[str] = []
    assert read_history(path, report=said.append) == [{"step": 0}, {"step": 1}]
    assert len(said) == 1 and "torn" in said[0] and str(path) in said[0]


def test_a_broken_line_in_the_middle_is_named(tmp_path: Path) -> None:
    path = tmp_path / "history.jsonl"
    path.write_text('{"step": 0}\nnonsense\n{"step": 2}\n')
    with pytest.raises(UserError, match=r"history\.jsonl:2: not a row"):
        read_history(path)


def test_a_missing_history_is_an_error_a_user_understands(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="No such file"):
        read_history(tmp_path / "history.jsonl")


def test_an_empty_history_has_no_rows(tmp_path: Path) -> None:
    assert read_history(_write(tmp_path, [])) == []


def test_another_runs_history_is_not_added_to(tmp_path: Path) -> None:
    path = _write(tmp_path, [{"step": 0}])
    with pytest.raises(UserError, match="--resume"):
        LocalTracker(tmp_path)
    assert read_history(path) == [{"step": 0}]


@pytest.mark.parametrize("torn", ["", '{"step": 40, "tra'])
def test_resuming_doubles_nothing(tmp_path: Path, torn: str) -> None:
    rows: list[dict[str, Any]] = [{"step": step, "value": step / 3} for step in range(0, 50, 5)]
    whole = _write(tmp_path / "whole", rows).read_bytes()
    path = _write(tmp_path / "cut", rows[:8])
    with path.open("a") as file:
        file.write(torn)
    _write(tmp_path / "cut", rows[5:], keep_before_step=25)
    assert path.read_bytes() == whole
    assert [child.name for child in (tmp_path / "cut").iterdir()] == ["history.jsonl"]


def test_resuming_at_the_first_step_starts_over(tmp_path: Path) -> None:
    _write(tmp_path, [{"step": 0}, {"step": 5}])
    assert read_history(_write(tmp_path, [{"step": 0}], keep_before_step=0)) == [{"step": 0}]


def test_resuming_without_a_history_is_a_fresh_one(tmp_path: Path) -> None:
    assert read_history(_write(tmp_path, [{"step": 9}], keep_before_step=9)) == [{"step": 9}]


def test_a_truncation_that_fails_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = _write(tmp_path, [{"step": 0}, {"step": 5}])
    before = path.read_bytes()

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        LocalTracker(tmp_path, keep_before_step=5)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_disk_that_fills_up_leaves_whole_rows(tmp_path: Path) -> None:
    resource = pytest.importorskip("resource")
    import signal

    tracker = LocalTracker(tmp_path)
    row = {"step": 0, **{f"activation_grad/{n:02d}_x": 1 / 3 for n in range(30)}}
    tracker.log(row)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # the next row fits by half
        resource.setrlimit(resource.RLIMIT_FSIZE, (tracker.path.stat().st_size + 100, hard))
        with pytest.raises(OSError, match="File too large"):
            tracker.log(row)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    tracker.log(row)
    tracker.close()
    assert read_history(tracker.path, report=pytest.fail) == [row, row]


def test_the_summary_is_json_whatever_it_holds(tmp_path: Path, summary: dict[str, Any]) -> None:
    tracker = LocalTracker(tmp_path)
    odd = {"nan": math.nan, "path": Path("a/b"), "list": [np.float64(1.5)], "tuple": (1, None, True)}
    tracker.finish(summary | odd, None)
    tracker.close()
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
    tracker = LocalTracker(tmp_path)
    tracker.predictions(0, [make_picture(f"{n}.jpg") for n in range(2)])
    tracker.predictions(9, [make_picture(f"{n}.jpg") for n in range(12)] + [make_picture(split="val")])
    tracker.finish({}, None)
    tracker.close()
    train = cv2.imread(str(tmp_path / "plots" / "predictions_train.png"))
    assert train.shape == (3 * 506, 3 * 480, 3)  # nine at most
    colors = {tuple(color) for color in train.reshape(-1, 3)[:, ::-1].tolist()}
    assert {(64, 200, 96), (255, 128, 0)} <= colors
    assert cv2.imread(str(tmp_path / "plots" / "predictions_val.png")) is not None


def test_a_picture_that_cannot_be_drawn_costs_no_summary(
    tmp_path: Path, make_picture: Callable[..., PredictionImage]
) -> None:
    said: list[str] = []
    tracker = LocalTracker(tmp_path, report=said.append)
    tracker.predictions(0, [make_picture()])
    (tmp_path / "plots").write_text("in the way")
    tracker.finish({"steps": 1}, None)
    tracker.close()
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


class _Recorder(Tracker):
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


def test_a_failing_tracker_is_dropped_and_the_others_say_so() -> None:
    broken, healthy = _Broken(), _Recorder()
    trackers = Trackers([broken, healthy])
    trackers.log({"step": 0})
    trackers.log({"step": 1})
    trackers.close(3)
    assert broken.calls == ["log", "close 3"]
    assert healthy.calls[0] == healthy.calls[2] == "log"
    assert healthy.calls[1] == "_Broken stopped: RuntimeError: quota exceeded (training goes on)"
    assert healthy.calls[-1] == "close 3"


def test_the_local_history_is_not_optional(tmp_path: Path) -> None:
    class Full(LocalTracker):
        def log(self, row: Row) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

    last = _Recorder()
    trackers = Trackers([Full(tmp_path), last])
    for _ in range(2):
        with pytest.raises(OSError, match="No space"):
            trackers.log({"step": 0})
    assert last.calls == ["log", "log"]
    trackers.close()


def test_ctrl_c_is_not_swallowed() -> None:
    class Interrupted(Tracker):
        def log(self, row: Row) -> None:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Trackers([Interrupted()]).log({})


def test_the_null_tracker_takes_everything(make_picture: Callable[..., PredictionImage]) -> None:
    tracker = Tracker()
    tracker.log({"step": 0})
    tracker.predictions(0, [make_picture()])
    tracker.message("")
    tracker.finish({}, None)
    tracker.close()
