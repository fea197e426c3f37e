"""COCO8 memorised: the seconds of training, and how well the training images are known after them."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from benchmarks.speed import peer
from benchmarks.speed.row import Row

SEEDS, EPOCHS, TUNED_EPOCHS, SIZE = 5, 100, 300, 320
DEFAULTS: dict[str, Any] = {"epochs": EPOCHS, "imgsz": SIZE}
# As well as we could: an update a batch, AdamW, no augmentation; scored on the images it is trained on.
TUNED: dict[str, Any] = DEFAULTS | {"epochs": TUNED_EPOCHS} | dict.fromkeys(
    ("mosaic", "hsv_h", "hsv_s", "hsv_v", "translate", "scale", "fliplr", "erasing", "warmup_epochs"), 0.0
) | {"batch": 4, "nbs": 4, "optimizer": "AdamW", "lr0": 0.001, "warmup_bias_lr": 0.001}  # fmt: skip


def ours(folder: Path, seed: int) -> tuple[float, float]:
    """Train with configs/coco8_fast.yaml: seconds of the training loop with its evaluation, and train mAP.

    Without W&B, as theirs, and without what comes before: imports and reading eight images.
    """
    from detector.data.sources import PROJECT

    run = folder / f"ours-{seed}"
    command = [sys.executable, "train.py", "--config", "configs/coco8_fast.yaml", f"train.seed={seed}",
               "train.threads=1", "train.device=cpu", "tracking.wandb=disabled",
               f"run.dir={run}"]  # fmt: skip
    subprocess.run(command, cwd=PROJECT, check=True, stdout=subprocess.DEVNULL)
    summary = json.loads((run / "summary.json").read_text(encoding="utf-8"))
    return float(summary["seconds"]), float(summary["train/mAP50-95"])


def theirs(data: Path, folder: Path, name: str, settings: dict[str, Any]) -> tuple[float, float]:
    """Train with their trainer: seconds from the first batch to the last epoch's end, and train mAP.

    The score is their own, of the average of the weights that they would save, on the training images.
    """
    made = peer.trainer(data, folder, name=name, **settings)
    clock: dict[str, float] = {}
    made.add_callback("on_train_start", lambda _: clock.setdefault("start", time.perf_counter()))
    made.add_callback("on_fit_epoch_end", lambda _: clock.__setitem__("end", time.perf_counter()))
    made._setup_train = lambda: None  # it is set up
    made.final_eval = lambda: None
    made._do_train()
    from detector.runtime.ultralytics_import import import_ultralytics

    weights = folder / name / "weights" / "last.pt"
    result = import_ultralytics("models.yolo.model").YOLO(str(weights)).val(
        data=str(data), split="train", imgsz=SIZE, device="cpu", workers=0, plots=False, verbose=False,
        project=str(folder), name=f"{name}-val", exist_ok=True,
    )  # fmt: skip
    return clock["end"] - clock["start"], float(result.box.map)


def measure() -> list[Row]:
    """Five seeds of ours; one run each of theirs, which take minutes."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        data = peer.coco8(folder)
        runs = [ours(folder, seed) for seed in range(SEEDS)]
        defaults = theirs(data, folder, "defaults", DEFAULTS)
        tuned = theirs(data, folder, "tuned", TUNED)
    ours_note = f"train mAP50-95 {', '.join(f'{score:.3f}' for _, score in runs)}"
    return [
        Row(f"COCO8 memorised to train mAP50-95 ≥ 0.95 at 256 px: `coco8_fast.yaml`, {SEEDS} seeds",
            f"ultralytics {which} epochs at {SIZE} px, one run", "s",
            [seconds for seconds, _ in runs], [peer_seconds], 12, absolute=True,
            note=f"{ours_note}; theirs {peer_score:.3f}")
        for which, (peer_seconds, peer_score) in (
            (f"as it comes, {EPOCHS}", defaults),
            (f"tuned, {TUNED_EPOCHS}", tuned),
        )
    ]  # fmt: skip
