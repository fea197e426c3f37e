"""One training run as a whole process, of either side, on COCO8 at one size: for `startup` and `memory`.

    python benchmarks/speed/process.py SIDE DATA OUT [key=value …]

With $STARTED (of time.monotonic), it ends after the first step of the optimiser and prints the seconds since.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import yaml

ROOT = Path(__file__).resolve().parents[2]
SIZE, BATCH, EPOCHS = 320, 4, 5
WHAT = f"yolov8n from scratch on COCO8, {SIZE} px, batch {BATCH}"
OURS = ["--config", "configs/from_scratch.yaml", f"data.image_size={SIZE}", f"train.batch={BATCH}",
        f"train.epochs={EPOCHS}", "train.device=cpu"]  # fmt: skip


def processor() -> str:
    """What Linux calls it; empty elsewhere."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                name = line.partition(":")[2].strip()
                return f"{name}, by AVX2 alone" if "ONEDNN_MAX_CPU_ISA" in os.environ else name
    return ""


def coco8(folder: Path) -> Path:
    """The data YAML of a copy of COCO8, for both sides: the peer writes beside the labels."""
    from detector.data.data_yaml import read_data_yaml
    from detector.data.sources import obtain

    path, root = obtain("datasets/coco8.yaml")
    names = dict(enumerate(read_data_yaml(path).names))
    shutil.copytree(root or path.parent, folder / "coco8")
    described = {"path": str(folder / "coco8"), "train": "images/train", "val": "images/val", "names": names}
    (folder / "data.yaml").write_text(yaml.safe_dump(described))
    return folder / "data.yaml"


def command(side: str, data: Path, out: Path, *overrides: str) -> list[str]:
    """What runs one side in a process of its own."""
    return [sys.executable, str(Path(__file__)), side, str(data), str(out), *overrides]


def environment(folder: Path, **others: str) -> dict[str, str]:
    """Where the peer writes its settings, and nothing of W&B's on either side."""
    quiet = {"YOLO_OFFLINE": "true", "YOLO_AUTOINSTALL": "false", "YOLO_CONFIG_DIR": str(folder)}
    return {**os.environ, **quiet, "PYTHONPATH": str(ROOT), **others}


def run(
    side: str, data: Path, out: Path, *overrides: str, **others: str
) -> tuple[subprocess.CompletedProcess[str], float]:
    """Run one side to its end; what it said, and the largest memory in MB of it and what it started.

    Raises:
        SystemExit: it failed.
    """
    with open(f"{out}.log", "w+") as log:
        process = subprocess.Popen(command(side, data, out, *overrides), cwd=ROOT, stdout=log,
                                   stderr=subprocess.STDOUT,
                                   env=environment(out.parent, **others))  # fmt: skip
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        log.seek(0)
        said = log.read()
    if status:
        raise SystemExit(f"{side} failed:\n{said[-2000:]}")
    return subprocess.CompletedProcess(process.args, 0, said), usage.ru_maxrss / 1024


class Taken(NamedTuple):
    """What a command took."""

    seconds: float
    cpu: float  # seconds, of it and of what it waited for
    peak_mb: float  # the largest resident set of one of these processes


def taken(
    arguments: Sequence[str],
    log: Path,
    good: Sequence[int] = (0,),
    cwd: Path = ROOT,
    env: Mapping[str, str] | None = None,
) -> Taken:
    """Run a command to its end, what it says going to a file.

    Raises:
        SystemExit: it ended with an exit code that is not good.
    """
    with log.open("w+") as file:
        started = time.perf_counter()
        process = subprocess.Popen(arguments, cwd=cwd, stdout=file, stderr=subprocess.STDOUT, env=env)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - started
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode not in good:
            file.seek(0)
            raise SystemExit(f"{' '.join(arguments)} failed:\n{file.read()[-2000:]}")
    return Taken(seconds, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


@contextmanager
def cores(most: int) -> Iterator[int]:
    """Let this process and those that it starts use so many cores, wherever it was pinned to; how many."""
    pinned = os.sched_getaffinity(0)
    os.sched_setaffinity(0, range(os.cpu_count() or 1))
    wide = sorted(os.sched_getaffinity(0), reverse=True)[:most]
    os.sched_setaffinity(0, wide)
    try:
        yield len(wide)
    finally:
        os.sched_setaffinity(0, pinned)


def main() -> None:
    """Train one side, in this process."""
    side, data, out, *overrides = sys.argv[1:]
    sys.path[0] = str(ROOT)  # not this file's folder
    if "STARTED" in os.environ:
        end_after_the_first_step(float(os.environ["STARTED"]))
    if side == "ours":
        sys.argv = ["train.py", *OURS, f"data.path={data}", f"run.dir={out}", *overrides]
        runpy.run_path(str(ROOT / "train.py"), run_name="__main__")
    elif side == "theirs":
        from ultralytics import YOLO

        YOLO("yolov8n.yaml").train(
            data=data, epochs=EPOCHS, imgsz=SIZE, batch=BATCH, device="cpu", workers=0, plots=False,
            project=str(Path(out).parent), name=Path(out).name, exist_ok=True, verbose=False,
        )  # fmt: skip
    elif side == "torch":
        import torch  # noqa: F401

        print(time.monotonic() - float(os.environ["STARTED"]))


def end_after_the_first_step(started: float) -> None:
    """End this process once an optimiser has stepped, whoever wrote the loop; print the seconds since."""
    if sys.argv[1] == "torch":
        return
    from torch.optim.optimizer import register_optimizer_step_post_hook

    def ended(*_: object) -> None:
        print(time.monotonic() - started, flush=True)
        os._exit(0)

    register_optimizer_step_post_hook(ended)


if __name__ == "__main__":
    main()
