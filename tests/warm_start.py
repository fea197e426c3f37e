"""Runs `train.py` in a fresh process that need not import PyTorch again: a second a run instead of five.

A line of JSON on stdin asks for a run. The process is forked, given its own directory, environment, streams
and faults, and then does what `python train.py` does. Two lines of JSON answer: its pid, and its exit code.
"""

from __future__ import annotations

import importlib
import json
import os
import runpy
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for train.py and the tests' own modules

# What a run imports, W&B aside: a process that has ever started its service must not be forked.
PRELOADED = (
    "matplotlib.pyplot", "torch", "torch.utils.data", "faster_coco_eval", "detector.data.loader",
    "detector.data.samples",
    "detector.data.sources", "detector.data.augment_ultralytics", "detector.analysis.explain",
    "detector.gradients.ledger",
    "detector.models.build", "detector.models.size", "detector.models.loss", "detector.training.summary",
    "detector.loggers.build", "detector.loggers.images", "detector.loggers.plots",
    "detector.training.engine", "detector.training.nonfinite_guard", "detector.training.checkpoints",
    "detector.runtime.distributed", "detector.fit", "rich.progress", "rich.table",
)  # fmt: skip


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    for stream, name in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_TRUNC, 0o644)
        os.dup2(handle, stream)
        os.close(handle)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for name, arguments in request["faults"]:
        getattr(importlib.import_module(request["module"]), name)(*arguments)
    sys.argv = [str(ROOT / "train.py"), *request["arguments"]]


def main() -> None:
    for name in PRELOADED:
        importlib.import_module(name)
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    while line := os.read(0, 1_000_000):  # not sys.stdin: a child must not share what is buffered
        pid = os.fork()
        if pid == 0:
            answers.close()
            become(json.loads(line))
            runpy.run_path(sys.argv[0], run_name="__main__")
            return
        print(json.dumps({"pid": pid}), file=answers)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"code": os.waitstatus_to_exitcode(status)}), file=answers)


if __name__ == "__main__":
    main()
