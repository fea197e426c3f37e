"""Stands in for train.py: its files and exit codes, without training. The cell's name says what happens."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[3]))

from detector.config.loading import load_config, save

stopped = False


def stop(*_: object) -> None:
    global stopped
    stopped = True


signal.signal(signal.SIGINT, stop)
resuming = sys.argv[1] == "--resume"
if resuming:
    loaded = load_config(Path(sys.argv[2]) / "config.yaml")
    directory = Path(sys.argv[2])
else:
    loaded = load_config(Path(sys.argv[2]), sys.argv[3:])
    directory = Path(str(loaded.config.run.dir))
    save(loaded.config, directory / "config.yaml")
name, steps = str(loaded.config.run.name), loaded.config.train.steps or 1
with (directory.parent / "calls.txt").open("a") as calls:
    how = "resume" if resuming else "new"
    threads = f"{os.environ['OMP_NUM_THREADS']} {loaded.config.train.threads}"
    calls.write(f"{directory.name} {how} {threads} {os.getpid()}\n")

last = directory / "checkpoints" / "last.pt"
first = int(last.read_text()) if resuming else 0
status = "finished"
with (directory / "history.jsonl").open("a") as history:
    for step in range(first, steps):
        history.write(
            json.dumps({"step": step, "epoch": step, "train/loss": loaded.config.train.seed + step}) + "\n"
        )
        history.flush()
        if name == "fails" and step == 1:
            sys.exit("error: the disk is full")
        if name == "killed" and step == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        if name == "diverges" and step == 1:
            status = "diverged"
            break
        time.sleep(0.1 if name == "deaf" else 0.02)
        if stopped and name != "deaf":
            last.parent.mkdir(exist_ok=True)
            last.write_text(str(step + 1))
            status = "stopped"
            break
summary = {
    "status": status,
    "gradient/vanishing_index_init": 0.5,
    "gradient/vanishing_index": "NaN" if status == "diverged" else float(loaded.config.train.seed),
    "train/mAP50-95": 0.9,
    "val/mAP50-95": None,
}
(directory / "summary.json").write_text(json.dumps(summary))
sys.exit({"finished": 0, "diverged": 3, "stopped": 130}[status])
