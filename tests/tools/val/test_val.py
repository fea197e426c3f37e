"""`detector val`, from a checkpoint that was really trained to the files it leaves."""

from __future__ import annotations

import contextlib
import csv
import io
import json
import re
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from pycocotools.coco import COCO
from pycocotools.cocoeval import COCOeval

from detector.cli import main
from detector.config.schema import Config
from detector.data.dataset import read_dataset
from detector.data.loader import Loader
from detector.errors import UserError
from detector.gradients.recorder import GradientRecorder
from detector.models.build import build_model
from detector.models.loss import DetectionLoss
from detector.rundir import RunDir
from detector.runtime.checkpoint_file import read, write
from detector.runtime.random_state import seed_everything
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.val.evaluation import METRICS
from detector.tools.val.network import class_columns
from detector.training.checkpoints import Checkpointing
from detector.training.evaluation import evaluate
from detector.training.schedule import Schedule
from tests.starter import Starter
from tests.training.harness import ALONE, create_state, train_steps

pytestmark = pytest.mark.slow

SIZE, STEPS = 64, 60


@dataclass
class Trained:
    """A run in miniature: what `train.py` leaves, and what its last evaluation said."""

    run: Path
    data: Path
    metrics: dict[str, float]


def write_rectangles(folder: Path, images: int, seed: int) -> None:
    """Red and green rectangles on dark noise, 96 x 64, one or two an image, with their labels."""
    rng = np.random.default_rng(seed)
    for kind in ("images", "labels"):
        (folder / kind).mkdir(parents=True)
    for number in range(images):
        pixels = rng.integers(0, 60, (64, 96, 3), dtype=np.uint8)
        lines = []
        for half in range(int(rng.integers(1, 3))):
            x, y, w, h = (int(v) for v in rng.integers([0, 0, 16, 16], [20, 30, 28, 32]))
            x += 48 * half
            label = int(rng.integers(0, 2))
            pixels[y : y + h, x : x + w, 2 - label] = 255
            lines.append(f"{label} {(x + w / 2) / 96} {(y + h / 2) / 64} {w / 96} {h / 64}")
        cv2.imwrite(str(folder / "images" / f"{number}.png"), pixels)
        (folder / "labels" / f"{number}.txt").write_text("\n".join(lines))


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Trained:
    folder = tmp_path_factory.mktemp("val")
    for split, images in (("train", 16), ("val", 10)):
        write_rectangles(folder / "rectangles" / split, images, seed=images)
    data = folder / "rectangles" / "data.yaml"
    data.write_text("train: train/images\nval: val/images\nnames: [red, green]\n")
    config = Config.model_validate(
        {
            "data": {"path": str(data), "image_size": SIZE},
            "model": {"depths": (1, 1, 1, 1), "widths": (8,) * 5, "neck_width": 16},
            "train": {"steps": STEPS, "batch": 8, "optimizer": "adamw", "lr": 0.01, "device": "cpu"},
            "run": {"name": "rectangles"},
        }
    )
    seed_everything(0)
    dataset = read_dataset(data)
    model = build_model(config.model, dataset.names).model
    state = create_state(model, config.train)
    loader = Loader(dataset.splits["train"], config.data)
    schedule = Schedule(STEPS, 2, 1, STEPS, None)
    train_steps(
        state,
        DetectionLoss(model, config.train),
        loader.train_batches(batch=8, seed=0),
        schedule,
        config.train,
        GradientRecorder(model.backbone_layers()),
        lambda row: None,
        lambda: False,
    )
    val = Loader(dataset.splits["val"], config.data)
    metrics = evaluate(state, val.eval_batches(batch=8), dataset.splits["val"], ALONE).metrics
    facts = {
        "config": config.model_dump(mode="json"),
        "names": list(dataset.names),
        "architecture": model.architecture(),
    }
    Checkpointing(state, schedule, RunDir(folder / "run"), facts).save()
    assert 0.2 < metrics["mAP50"] < 1  # else the comparisons below would show nothing
    return Trained(folder / "run", data, metrics)


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def val(capsys: pytest.CaptureFixture[str], *arguments: object) -> dict[str, object]:
    assert main(["val", *map(str, arguments), "--device", "cpu", "--json"]) == 0
    return dict(json.loads(capsys.readouterr().out))


def test_the_same_map_as_in_training(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    result = val(capsys, trained.run, "--batch", 8)
    assert {key: result["metrics"][key] for key in trained.metrics} == trained.metrics
    assert result["step"] == STEPS
    assert (result["images"], result["split"], result["image_size"]) == (10, "val", SIZE)


def test_every_metric_is_that_of_pycocotools_on_the_files_written(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    result = val(capsys, trained.run, "--out", tmp_path / "out")
    with contextlib.redirect_stdout(io.StringIO()):
        labels = COCO(str(tmp_path / "out" / "labels.json"))
        found = labels.loadRes(str(tmp_path / "out" / "predictions.json"))
        official = COCOeval(labels, found, "bbox")
        official.evaluate()
        official.accumulate()
        official.summarize()
    for key, expected in zip(METRICS, official.stats, strict=True):
        value = result["metrics"][key]
        assert (value is None and expected == -1) or value == pytest.approx(expected, abs=1e-9), key
    assert labels.cats[2]["name"] == "green"
    assert labels.imgs[1]["file_name"] == "0.png"


def test_the_files(trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    result = val(capsys, trained.run)
    out = Path(str(result["out"]))
    assert re.fullmatch(r"runs/val-run-\d{8}-\d{6}", str(out))
    pictures = {"confusion_matrix.png", "pr_curve.png", "f1_curve.png", "worst.png"}
    tables = {"metrics.json", "per_class.csv", "predictions.json", "labels.json"}
    assert {path.name for path in out.iterdir()} == pictures | tables
    assert all(cv2.imread(str(out / name)) is not None for name in pictures)
    assert json.loads((out / "metrics.json").read_text()) == result
    rows = list(csv.DictReader((out / "per_class.csv").open(encoding="utf-8")))
    assert [row["class"] for row in rows] == ["all", "red", "green"]
    assert float(rows[0]["AP50"]) == result["metrics"]["mAP50"]
    assert sum(int(row["boxes"]) for row in rows[1:]) == int(rows[0]["boxes"]) == result["boxes"]


def test_the_table_fits_into_a_terminal(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["val", str(trained.run / "checkpoints" / "best.pt"), "--device", "cpu"]) == 0
    out = capsys.readouterr().out
    assert all(len(line) <= 80 for line in out.splitlines())
    for word in ("mAP", "AP50-95", "green", f"{trained.metrics['mAP50']:.3f}", "ms an image", "Files:"):
        assert word in out


def test_a_split_without_objects_and_a_class_called_like_a_formula(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    state = read(trained.run / "checkpoints/best.pt")
    state["extra"]["names"] = ["=1+1", "green"]
    write(state, tmp_path / "best.pt")
    write_rectangles(tmp_path / "empty", 2, seed=0)
    for file in (tmp_path / "empty/labels").iterdir():
        file.write_text("")
    (tmp_path / "empty/data.yaml").write_text("train: images\nval: images\nnames: ['=1+1', green]\n")
    out = tmp_path / "out"
    command = ["val", tmp_path / "best.pt", "--data", tmp_path / "empty/data.yaml", "--device", "cpu"]
    assert main([*map(str, command), "--out", str(out)]) == 0
    shown = capsys.readouterr().out
    assert re.search(r"mAP at IoU +no objects *\n", shown) and "nan" not in shown and "P, R and" not in shown
    rows = list(csv.DictReader((out / "per_class.csv").open(encoding="utf-8")))
    assert [row["class"] for row in rows] == ["all", "'=1+1", "green"]
    assert json.loads((out / "metrics.json").read_text())["metrics"]["mAP50-95"] is None


def test_classes_in_another_order_and_fewer_of_them(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The data's classes swapped, labels too: the same score. Without one of them: the other's score."""
    both = val(capsys, trained.run)
    by_name = {row["class"]: row for row in both["classes"]}
    for name, keep in (("swapped", (1, 0)), ("green", (1,))):
        folder = tmp_path / name
        (folder / "labels").mkdir(parents=True)
        (folder / "images").symlink_to(trained.data.parent / "val" / "images")
        for file in (trained.data.parent / "val" / "labels").iterdir():
            rows = [line.split(" ", 1) for line in file.read_text().splitlines()]
            lines = [f"{keep.index(int(label))} {rest}" for label, rest in rows if int(label) in keep]
            (folder / "labels" / file.name).write_text("\n".join(lines))
        names = [("red", "green")[index] for index in keep]
        (folder / "data.yaml").write_text(f"train: images\nval: images\nnames: {json.dumps(names)}\n")
        result = val(capsys, trained.run, "--data", folder / "data.yaml")
        assert [row["class"] for row in result["classes"]] == names
        for row in result["classes"]:
            assert row["AP50"] == pytest.approx(by_name[row["class"]]["AP50"])
            assert row["AP50-95"] == pytest.approx(by_name[row["class"]]["AP50-95"])
        assert bool(result["notes"]) == (name == "green")


def test_columns_by_hand() -> None:
    assert class_columns(["a", "b", "c"], ["a", "b", "c"], "m.pt", "d.yaml") is None
    assert class_columns(["a", "b", "c"], ["c", "a"], "m.pt", "d.yaml") == (2, 0)
    with pytest.raises(UserError) as raised:
        class_columns(["a", "b"], ["a", "x"], "m.pt", "d.yaml")
    expected = "m.pt knows the classes 'a', 'b', but d.yaml has 'a', 'x'; new to the model: 'x'"
    assert str(raised.value) == expected


def test_a_checkpoint_of_ultralytics(
    trained: Trained, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    tasks = import_ultralytics("nn.tasks")
    torch.manual_seed(0)
    net = tasks.DetectionModel("yolov8n.yaml", nc=2, verbose=False)
    net.names = {0: "red", 1: "green"}
    torch.save({"model": net, "ema": None, "train_args": {"imgsz": 64}}, tmp_path / "theirs.pt")
    result = val(capsys, tmp_path / "theirs.pt", "--data", trained.data, "--precision", "bf16")
    assert (result["step"], result["image_size"]) == (None, 64)
    assert main(["val", str(tmp_path / "theirs.pt")]) == 2
    assert "--data" in capsys.readouterr().err


@pytest.mark.slow
def test_recorded_offline_on_wandb(trained: Trained, tmp_path: Path, warm_start: Starter) -> None:
    """In a process of its own: W&B's service outlives the run otherwise."""
    arguments = ("val", str(trained.run), "--out", "out", "--json", "--wandb")
    started = warm_start.start(arguments, cwd=tmp_path, program="detector", WANDB_MODE="offline")
    done = warm_start.end(started, tmp_path)
    assert done.code == 0, done.err
    json.loads(done.out)
    assert "wandb sync" in done.err
    from tests.loggers.wandb_file import read

    stored = read(tmp_path / "out" / "wandb")
    assert (stored.run.job_type, stored.run.display_name) == ("val", "rectangles-s0")
    assert stored.run.project == "detector-gradients"
    assert stored.summary["val/mAP50"] == pytest.approx(trained.metrics["mAP50"])
    keys = {key for row in stored.history for key in row}
    for name in ("classes", "confusion_matrix", "pr_curve", "f1_curve"):
        assert any(key.startswith(f"evaluation/{name}") for key in keys), name
    assert any(key.startswith("predictions/val") for key in keys)


@pytest.mark.parametrize(
    ("arguments", "named"),
    [
        (["nowhere.pt"], "nowhere.pt"),
        (["{run}", "--split", "test"], "no split 'test'"),
        (["{run}", "--image-size", "100"], "--image-size 100"),
        (["{run}", "--image-size", "0"], "--image-size 0"),
        (["{run}", "--batch", "0"], "--batch 0"),
        (["{run}", "--device", "gpu"], "--device gpu"),
        (["{run}", "--data", "nowhere.yaml"], "nowhere.yaml"),
        (["{run}", "--out", "{run}"], "not empty"),
    ],
)
def test_mistakes(
    trained: Trained, capsys: pytest.CaptureFixture[str], arguments: list[str], named: str
) -> None:
    before = {path: path.read_bytes() for path in trained.run.rglob("*") if path.is_file()}
    assert main(["val", *(argument.format(run=trained.run) for argument in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and named in captured.err
    assert len(captured.err.strip().splitlines()) <= 2
    assert {path: path.read_bytes() for path in trained.run.rglob("*") if path.is_file()} == before
    assert not Path("runs").exists()


def test_fast_finds_the_same(trained: Trained, capsys: pytest.CaptureFixture[str]) -> None:
    """Rectangles of 96 x 64 in squares: a third of each is padding."""
    result = val(capsys, trained.run, "--batch", 8, "--fast", "--precision", "auto")
    assert result["speed"]["fast"] is True and result["speed"]["precision"] in ("fp32", "bf16")
    assert result["metrics"]["mAP50"] == pytest.approx(trained.metrics["mAP50"], abs=0.1)
