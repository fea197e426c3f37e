"""results.csv: ultralytics' own columns, and numbers that are in the history."""

from __future__ import annotations

import csv
from pathlib import Path
from types import SimpleNamespace

import pytest

from detector.loggers.results_csv import ResultsCsv
from detector.rundir import RunDir

ROWS = [
    {"step": 0, "epoch": 0, "train/lr": 0.1, "train/loss_box": 3.0, "time/step_ms": 50.0},
    {"step": 4, "epoch": 1, "train/lr": 0.2, "train/loss_box": 2.5, "train/loss_cls": 1.0,
     "val/mAP50-95": 0.25, "val/mAP50": 0.5, "time/step_ms": 100.0},
    {"step": 9, "epoch": 3, "train/lr": 0.3, "val/mAP50-95": float("nan"), "val/mAP50": 0.75,
     "time/step_ms": 10.0},
]  # fmt: skip


def table(run: RunDir) -> list[dict[str, str]]:
    return list(csv.DictReader(run.results_file.open(encoding="utf-8")))


@pytest.mark.slow
def test_the_columns_are_those_that_ultralytics_writes(tmp_path: Path) -> None:
    """Its own trainer writes the header, from its own names of losses, metrics and learning rates."""
    from ultralytics.models.yolo.detect import DetectionTrainer
    from ultralytics.utils.metrics import DetMetrics

    trainer = object.__new__(DetectionTrainer)
    trainer.loss_names = "box_loss", "cls_loss", "dfl_loss"
    items = dict.fromkeys(trainer.loss_names, 0.0)
    losses = [trainer.label_loss_items(items, prefix=prefix) for prefix in ("train", "val")]
    trainer.csv, trainer.epoch, trainer.train_time_start = tmp_path / "theirs.csv", 0, 0.0
    metrics = DetMetrics(names={0: "a"})
    lr = {f"lr/pg{group}": 0.1 for group in range(3)}  # BaseTrainer.train writes one a parameter group
    trainer.save_metrics(metrics={**losses[0], **dict.fromkeys(metrics.keys, 0.0), **losses[1], **lr})
    theirs = trainer.csv.read_text(encoding="utf-8").splitlines()[0]
    run = RunDir(tmp_path)
    ResultsCsv(run).close()
    assert run.results_file.read_text(encoding="utf-8") == theirs + "\n"


def test_a_line_an_evaluation_with_the_time_of_all_steps(tmp_path: Path) -> None:
    run = RunDir(tmp_path)
    logger = ResultsCsv(run)
    for row in ROWS:
        logger.log(row)
    first, second = table(run)  # before it is closed: a run may be killed
    logger.close()
    assert [first[key] for key in ("epoch", "time", "train/box_loss", "lr/pg2")] == [
        "2",
        "0.45",
        "2.5",
        "0.2",
    ]
    assert (first["metrics/mAP50-95(B)"], first["metrics/mAP50(B)"]) == ("0.25", "0.5")
    assert first["metrics/recall(B)"] == first["val/box_loss"] == second["train/box_loss"] == ""
    assert [second[key] for key in ("epoch", "time", "metrics/mAP50-95(B)")] == ["4", "0.5", "nan"]


def test_a_resumed_run_has_the_lines_from_before(tmp_path: Path) -> None:
    whole, resumed = RunDir(tmp_path / "a"), RunDir(tmp_path / "b")
    for run, before in ((whole, 0), (resumed, 2)):
        run.path.mkdir()
        logger = ResultsCsv(run, ROWS[:before])
        for row in ROWS[before:]:
            logger.log(row)
        logger.close()
    assert whole.results_file.read_text() == resumed.results_file.read_text()


def test_a_file_that_cannot_be_written_is_an_error_of_the_system(tmp_path: Path) -> None:
    with pytest.raises(OSError):
        ResultsCsv(SimpleNamespace(results_file=tmp_path))  # type: ignore[arg-type]
