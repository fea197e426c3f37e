"""Runs a program in a fresh process that need not import PyTorch again: a second a run instead of five.

Its arguments are the modules that it imports; by default, PyTorch and what else a run needs.
A line of JSON on stdin asks for one. The process is forked, given its own directory, environment, streams
and faults, and then does what `python train.py` or `python -m detector` does. A line of JSON answers with its
pid, and another with its exit code once it has ended.
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import runpy
import select
import signal
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # for train.py and the tests' own modules

from detector.runtime.ultralytics_import import import_ultralytics  # noqa: E402

# What programs import. W&B too, but its service is not started: such a process must not be forked.
PRELOADED = (
    "matplotlib.pyplot", "torch", "torch.utils.data", "faster_coco_eval", "detector.data.loader",
    "detector.data.samples",
    "detector.data.sources", "detector.data.augment_ultralytics", "detector.analysis.explain",
    "detector.gradients.ledger",
    "detector.models.build", "detector.models.size", "detector.models.loss", "detector.training.summary",
    "detector.loggers.build", "detector.loggers.images", "detector.loggers.plots",
    "detector.training.engine", "detector.training.nonfinite_guard", "detector.training.checkpoints",
    "detector.runtime.distributed", "detector.fit", "rich.progress", "rich.table",
    "attrs", "cyclopts", "detector.cli", "detector.runtime.streams", "PIL.ImageDraw", "PIL.ImageFont",
    "multiprocessing.pool", "torch.nested._internal.nested_tensor", "torch.utils.serialization.config",
    "torch.fx.experimental._constant_symnode", "plotly.graph_objects",
)  # fmt: skip


def become(request: dict[str, Any]) -> None:
    """Be the process that was asked for, to its end."""
    os.setpgid(0, 0)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)  # the tests themselves may run under nohup
    for stream, name in enumerate(("/dev/null", request["stdout"], request["stderr"])):
        handle = os.open(name, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644)
        os.dup2(handle, stream)
        os.close(handle)
    os.chdir(request["cwd"])
    os.environ.clear()
    os.environ.update(request["environment"])
    for name, arguments in request["faults"]:
        getattr(importlib.import_module(request["module"]), name)(*arguments)
    if request["program"].endswith(".py"):
        sys.argv = [str(ROOT / request["program"]), *request["arguments"]]
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        sys.argv = [request["program"], *request["arguments"]]
        runpy.run_module(request["program"], run_name="__main__", alter_sys=True)


def main() -> None:
    for name in sys.argv[1:] or PRELOADED:
        importlib.import_module(name)
    if len(sys.argv) == 1:
        import_ultralytics("utils.loss")
    gc.freeze()  # a child that looked for garbage among all that, as Python does at exit, would take a second
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    running: set[int] = set()
    asked = b""
    while True:
        if select.select([0], [], [], 0.01 if running else None)[0]:
            more = os.read(0, 65536)  # not sys.stdin: a child must not share what is buffered
            if not more:
                return
            *lines, asked = (asked + more).split(b"\n")
            for line in lines:
                pid = os.fork()
                if pid == 0:
                    answers.close()
                    become(json.loads(line))
                    return
                running.add(pid)
                print(json.dumps({"pid": pid}), file=answers)
        for pid in list(running):
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                running.remove(pid)
                print(json.dumps({"pid": pid, "code": os.waitstatus_to_exitcode(status)}), file=answers)


if __name__ == "__main__":
    main()
