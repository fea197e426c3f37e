"""The same network, data and core: this project's engine beside ultralytics' trainer, from scratch on BCCD.

    DETECTOR_DATASETS=… python benchmarks/bccd.py --seeds 3      # about half an hour on 2 cores
    python benchmarks/bccd.py --report-only                      # only writes the table again

Each run has one core and one thread to itself; two run at a time, on cores of their own, if there are two.
Time is what the core spent on the whole process, imports and validation included. Both sides' final weights
(theirs: the best epoch on val; ours: the last step) are scored by the same official COCO evaluation.
Writes the table in docs/speed.md and, with every figure, docs/bccd.json.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import SimpleQueue
from statistics import fmean, stdev
from typing import Any

import yaml

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

SIZE = 320
EPOCHS = {"ultralytics": 30, "ours": 20, "ours, longer": 40}
OURS = [
    "--config", "configs/from_scratch.yaml", f"data.image_size={SIZE}",
    "train.threads=1", "train.eval_every=null", "tracking.wandb=disabled", "tracking.plots=false",
]  # fmt: skip
WHAT = {
    "ultralytics": "ultralytics, its defaults (batch 16)",
    "ours": "this project, `configs/from_scratch.yaml`",
    "ours, longer": "the same, twice as long",
}


def command(side: str, seed: int, data: Path, out: Path) -> list[str]:
    """What trains one side."""
    if side == "ultralytics":
        return [sys.executable, __file__, "--peer", str(data), "--seed", str(seed), "--out", str(out)]
    return [sys.executable, "train.py", *OURS, f"data.path={data}", f"train.epochs={EPOCHS[side]}",
            f"train.seed={seed}", f"run.dir={out}"]  # fmt: skip


def train_peer(data: Path, seed: int, out: Path) -> None:
    """Train as ultralytics does, in this process. `data` is a copy: it writes a cache beside the labels."""
    from ultralytics import YOLO

    YOLO("yolov8n.yaml").train(
        data=str(data), epochs=EPOCHS["ultralytics"], imgsz=SIZE, batch=16, device="cpu", workers=0,
        seed=seed, project=str(out.parent), name=out.name, exist_ok=True, plots=False, verbose=False,
    )  # fmt: skip


def run(side: str, seed: int, data: Path, out: Path, core: int) -> None:
    """Train on one core, and note how long it took."""
    timing = out / "timing.json"
    if timing.exists():
        return
    shutil.rmtree(out, ignore_errors=True)
    environment = dict(os.environ, OMP_NUM_THREADS="1", MKL_NUM_THREADS="1", YOLO_OFFLINE="true",
                       YOLO_AUTOINSTALL="false", YOLO_CONFIG_DIR=str(out.parent),
                       WANDB_MODE="disabled")  # fmt: skip
    print(f"{side}, seed {seed}: on core {core}", flush=True)
    started = time.perf_counter()
    with open(f"{out}.log", "wb") as log:
        process = subprocess.Popen(command(side, seed, data, out), cwd=ROOT, env=environment, stdout=log,
                                   stderr=subprocess.STDOUT)  # fmt: skip
        os.sched_setaffinity(process.pid, {core})
        _, status, usage = os.wait4(process.pid, 0)
    seconds = time.perf_counter() - started
    if status:
        raise SystemExit(f"{side}, seed {seed} failed: see {out}.log")
    cpu = usage.ru_utime + usage.ru_stime
    timing.write_text(json.dumps({"wall": seconds, "cpu": cpu, "peak_mb": usage.ru_maxrss / 1024}))
    print(f"{side}, seed {seed}: {seconds:.0f} s", flush=True)


def score(weights: Path, data: Path) -> dict[str, float]:
    """The official COCO metrics of final weights on val."""
    from detector.config.schema import DataConfig, TrainConfig
    from detector.data.dataset import read_dataset
    from detector.data.loader import Loader
    from detector.models.build import load_model
    from detector.runtime.device import choose_device
    from detector.runtime.distributed import SingleProcess
    from detector.training.evaluation import evaluate
    from detector.training.state import TrainState

    items = read_dataset(data).splits["val"]
    state = TrainState.create(load_model(weights).model, TrainConfig(), choose_device("cpu"))
    loader = Loader(items, DataConfig(path=str(data), image_size=SIZE))
    return evaluate(state, loader.eval_batches(batch=16), items, SingleProcess()).metrics


def measure(side: str, seed: int, data: Path, out: Path) -> dict[str, Any]:
    """One run's figures."""
    weights = out / ("weights/best.pt" if side == "ultralytics" else "checkpoints/last.pt")
    timing = json.loads((out / "timing.json").read_text())
    return {"side": side, "seed": seed, **timing, **score(weights, data)}


def table(rows: list[dict[str, Any]]) -> str:
    """Mean ± deviation of each side, and its share of ultralytics' time."""
    lines = ["| | epochs | core seconds | of ultralytics' | val mAP50-95 | val mAP50 | peak memory, MB | n |",
             "|---|--:|--:|--:|--:|--:|--:|--:|"]  # fmt: skip
    peer = fmean(row["cpu"] for row in rows if row["side"] == "ultralytics")
    for side, what in WHAT.items():
        mine = [row for row in rows if row["side"] == side]
        time_, *others = [_spread([row[key] for row in mine], digits) for key, digits in
                          (("cpu", 0), ("mAP50-95", 3), ("mAP50", 3), ("peak_mb", 0))]  # fmt: skip
        share = fmean(row["cpu"] for row in mine) / peer
        lines.append(
            f"| {what} | {EPOCHS[side]} | {time_} | {share:.2f} | {' | '.join(others)} | {len(mine)} |"
        )
    return "\n".join(lines)


def _spread(values: list[float], digits: int) -> str:
    deviation = stdev(values) if len(values) > 1 else 0.0
    return f"{fmean(values):.{digits}f} ± {deviation:.{digits}f}"


def main() -> int:
    """Train both sides, then write."""
    parser = argparse.ArgumentParser(description="This project's engine beside ultralytics' trainer on BCCD.")
    parser.add_argument("--data", type=Path, help="default: $DETECTOR_DATASETS/bccd/data.yaml")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--out", type=Path, default=ROOT / "runs" / "bccd")
    parser.add_argument("--report-only", action="store_true")
    parser.add_argument("--peer", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--seed", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.peer:
        train_peer(options.peer, options.seed, options.out)
        return 0
    from detector.data.sources import datasets_dir
    from scripts.pages import write_between

    original = (options.data or datasets_dir() / "bccd" / "data.yaml").resolve()
    if not original.is_file():
        parser.error(f"{original}: not there; --data names BCCD's data.yaml")
    out = options.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    data = out / "data" / original.name
    if not data.exists():
        shutil.copytree(original.parent, data.parent)
        # ultralytics takes a relative `path` to be below a folder of its own.
        content = yaml.safe_load(data.read_text(encoding="utf-8")) | {"path": str(data.parent)}
        data.write_text(yaml.safe_dump(content), encoding="utf-8")
    jobs = [(side, seed) for seed in range(options.seeds) for side in WHAT]
    folders = {job: out / f"{job[0].replace(', ', '-')}-s{job[1]}" for job in jobs}
    if not options.report_only:
        cores: SimpleQueue[int] = SimpleQueue()
        for core in sorted(os.sched_getaffinity(0))[:2]:
            cores.put(core)

        def work(job: tuple[str, int]) -> None:
            core = cores.get()
            try:
                run(*job, data, folders[job], core)
            finally:
                cores.put(core)

        with ThreadPoolExecutor(cores.qsize()) as pool:
            list(pool.map(work, jobs))
    rows = [measure(*job, data, folders[job]) for job in jobs]
    import torch
    import ultralytics

    from benchmarks.speed.process import processor
    from detector.training.provenance import provenance

    commit = str(provenance("cpu")["commit"])[:7]
    core = f"one core of {os.cpu_count()} ({processor() or platform.machine()})"
    versions = f"torch {torch.__version__}, ultralytics {ultralytics.__version__}"
    machine = f"{core}, {versions}, commit {commit}"
    text = f"{table(rows)}\n\nMean ± standard deviation over n seeds; {machine}."
    write_between(ROOT / "docs" / "speed.md", "table: bccd", text)
    (ROOT / "docs" / "bccd.json").write_text(json.dumps({"machine": machine, "runs": rows}, indent=1) + "\n")
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
