"""What only a CUDA GPU can show: one command, less than eight minutes on an H200.

    python benchmarks/bench.py gpu
    python benchmarks/speed/gpu.py throughput cpu 64 2 rows.json    # one part, of any device and size

Every part is a process of its own with a time limit: one that fails, crashes or hangs prints its error, and
the others go on. yolov8n at 640 px in batches of 64: ours is the engine's step in bf16, or in fp16 where the
GPU has no bf16; theirs is the step of its trainer: automatic mixed precision (fp16), its gradient scaler, SGD
with momentum, clipping at 10 and the averaged copy of the weights, which cannot be switched off there. Both
begin with the same uint8 images in pinned memory, so copying them is part of the step; reading files is not.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from types import SimpleNamespace

import torch

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from benchmarks.speed import ranks  # noqa: E402
from benchmarks.speed.network import Training, boxes, pairs, training  # noqa: E402
from benchmarks.speed.process import cores  # noqa: E402
from benchmarks.speed.row import Row, in_turns  # noqa: E402
from detector.config.schema import GradientsConfig, ModelConfig  # noqa: E402
from detector.runtime.ultralytics_import import import_ultralytics  # noqa: E402

SIZE, BATCH = 640, 64
STEPS, ROUNDS = 20, 7
COMPACT_SIZE, COMPACT_BATCH = 256, 4  # as configs/coco8.yaml has it
YOLO = ModelConfig(pretrained="yolov8n.yaml")
EVERY = GradientsConfig().every


def measure() -> list[Row]:
    """The rows of every part; nothing where there is no GPU."""
    if not torch.cuda.is_available():
        print("gpu: no CUDA GPU here, nothing measured")
        return []
    with cores(os.cpu_count() or 1):  # the backward pass has a thread of its own
        return [row for part, limit in LIMITS.items() for row in guarded(part, limit, "cuda", SIZE, BATCH)]


def guarded(part: str, limit: float, device: str, size: int, batch: int) -> list[Row]:
    """One part in a process of its own; none of its rows, but its last words, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        out, log = Path(folder) / "rows.json", Path(folder) / "log"
        command = [sys.executable, __file__, part, device, str(size), str(batch), str(out)]
        with log.open("w") as said:
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT, start_new_session=True
            )
            try:
                code: int | None = process.wait(timeout=limit)
            except subprocess.TimeoutExpired:
                code = None
            finally:
                with suppress(ProcessLookupError):  # with what it started
                    os.killpg(process.pid, signal.SIGKILL)
        if code == 0:
            return [Row(**row) for row in json.loads(out.read_text())]
        how = f"took more than {limit:g} s" if code is None else f"ended with {code}"
        print(f"gpu: {part} {how}:\n{log.read_text(errors='replace')[-2000:]}", file=sys.stderr, flush=True)
        return []


def where(device: str) -> str:
    """The card's name, or the device's."""
    return torch.cuda.get_device_name() if device == "cuda" else device


def throughput(device: str, size: int, batch: int) -> list[Row]:
    """Images a second of training, both as they come."""
    ours = network(device, size, batch)
    seconds = in_turns(
        {"ours": lambda: ours.steps(STEPS, EVERY), "theirs": theirs(device, size, batch)}, ROUNDS, warm_up=2
    )
    rate = {name: [STEPS * batch / one for one in values] for name, values in seconds.items()}
    note = f"ours in {ours.state.precision_name}, gradients recorded one step in {EVERY}"
    what = f"training, yolov8n, {size} px, batch {batch}, {where(device)}"
    return [Row(what, "ultralytics, AMP", "images/s", rate["ours"], rate["theirs"], target=1.3,
                at_least=True, note=note)]  # fmt: skip


def telemetry(device: str, size: int, batch: int, every: int = EVERY) -> list[Row]:
    """A recorded step beside the same network's without, ratios within a round."""
    plain, recorded = network(device, size, batch), network(device, size, batch)
    seconds = in_turns(
        {"plain": lambda: plain.steps(STEPS), "recorded": lambda: recorded.steps(STEPS, every)},
        ROUNDS,
        warm_up=2,
    )
    ratios = list(pairs(seconds["recorded"], seconds["plain"]))
    often = "every step" if every == 1 else f"one step in {every}"
    what = f"gradient telemetry, yolov8n, {size} px, batch {batch}, {where(device)}: {often}"
    target = 1.05 if every == 1 else 1.01
    return [Row(what, "its own step without", "×", ratios, [], target=target, absolute=True)]


def compiled(device: str, size: int, batch: int, backend: str = "inductor") -> list[Row]:
    """The compact detector, bound by launches: its step with `torch.compile`, which makes CUDA graphs."""
    mode = {"mode": "reduce-overhead"} if backend == "inductor" else {}

    def change(fast: Training) -> None:
        fast.state.model.compile(backend=backend, **mode)

    return compact(device, "`torch.compile(mode='reduce-overhead')`", change)


def graphs(device: str, size: int, batch: int) -> list[Row]:
    """The same, its network's two passes captured as CUDA graphs."""

    def change(fast: Training) -> None:
        state, made = fast.state, fast.state.model
        state.train_mode()
        with state.autocast():
            torch.cuda.make_graphed_callables(made, (state.preprocess(fast.images),))

    return compact(device, "its network's passes as CUDA graphs", change)


def compact(device: str, how: str, change: Callable[[Training], None]) -> list[Row]:
    """A network that was changed beside one that was not, which must train alike."""
    plain, fast = (
        training(ModelConfig(), COMPACT_SIZE, COMPACT_BATCH, device=device, precision="fp32") for _ in "ab"
    )
    plain.recorder = fast.recorder = SimpleNamespace(gradients=lambda _: None)  # type: ignore[assignment]
    change(fast)
    seconds = in_turns(
        {"plain": lambda: plain.steps(STEPS), "fast": lambda: fast.steps(STEPS)}, ROUNDS, warm_up=2
    )
    ms = {name: [1000 * one / STEPS for one in values] for name, values in seconds.items()}
    losses = [one.loss.item() for one in (plain, fast)]
    what = f"a step of the compact detector, {COMPACT_SIZE} px, batch {COMPACT_BATCH}, {where(device)}: {how}"
    note = (
        f"fp32, nothing recorded; loss after {(2 + ROUNDS) * STEPS} steps {losses[1]:.6g} and {losses[0]:.6g}"
    )
    return [Row(what, "as it comes", "ms", ms["fast"], ms["plain"], target=1.0, note=note)]


def tests(device: str, size: int, batch: int) -> list[Row]:
    """The tests that need a GPU: how many fail."""
    with tempfile.TemporaryDirectory() as folder:
        report = Path(folder) / "report.xml"
        command = [sys.executable, "-m", "pytest", "-q", "-m", "cuda", "-p", "no:cacheprovider",
                   f"--junitxml={report}", *marked()]  # fmt: skip
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        print(done.stdout[-1500:])
        counts = counted(report.read_text())
    note = f"{counts['passed']} passed, {counts['skipped']} skipped; `pytest -m cuda`"
    what = f"failures of the tests that need CUDA, {where(device)}"
    return [Row(what, "–", "", [counts["failed"]], [], target=0, absolute=True, note=note)]


def marked() -> list[str]:
    """The files that have such tests: to read all others would take a minute."""
    found = (ROOT / "tests").rglob("test_*.py")
    return sorted(str(path) for path in found if "mark.cuda" in path.read_text(encoding="utf-8"))


def counted(report: str) -> dict[str, int]:
    """How many of pytest's tests passed, were skipped and failed, from its JUnit report."""
    from xml.etree import ElementTree

    suite = next(ElementTree.fromstring(report).iter("testsuite"))
    total, skipped, failed, broken = (
        int(suite.attrib[key]) for key in ("tests", "skipped", "failures", "errors")
    )
    return {"passed": total - skipped - failed - broken, "skipped": skipped, "failed": failed + broken}


def nccl(device: str, size: int, batch: int) -> list[Row]:
    """As many processes as cards, at most two, beside one: the same training, and how long its steps take."""
    count = min(2, torch.cuda.device_count()) if device == "cuda" else 2
    with tempfile.TemporaryDirectory() as folder:
        many = ranks.run(device, count, size, batch, Path(folder))
    one = ranks.train(device, size, batch)
    how = "NCCL" if device == "cuda" else "gloo"
    what = f"{count} process{'es' * (count > 1)} by {how} with SyncBatchNorm, {where(device)}"
    return [
        Row(f"{what}: largest relative difference of a weight from one process alone", "–", "",
            [ranks.difference(many, one)], [], target=ranks.TOLERANCE, absolute=True,
            note="" if count > 1 else "with one card nothing crosses to another"),
        Row(f"{what}: yolov8n, {size} px, batch {batch}, fp32", "one process", "images/s", many["rates"],
            one["rates"], target=0.9 * count, at_least=True),
    ]  # fmt: skip


def network(device: str, size: int, batch: int) -> Training:
    """Ours: images in pinned memory are copied in each step, as from a loader."""
    made = training(YOLO, size, batch, device=device, precision="auto", optimizer="sgd")
    if device == "cuda":
        made.images = made.images.cpu().pin_memory()
    return made


def theirs(device: str, size: int, batch: int) -> Callable[[], None]:
    """Steps as its trainer makes them, from its own parts."""
    torch.manual_seed(0)
    cuda = device == "cuda"
    tasks, utils = import_ultralytics("nn.tasks"), import_ultralytics("utils.torch_utils")
    model = tasks.DetectionModel("yolov8n.yaml", nc=80, verbose=False).to(device).train()
    model.args = SimpleNamespace(box=7.5, cls=0.5, dfl=1.5)
    average = utils.ModelEMA(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, momentum=0.937, nesterov=True)
    scaler = torch.amp.GradScaler(device, enabled=cuda)
    images = torch.randint(0, 256, (batch, 3, size, size), dtype=torch.uint8)
    images = images.pin_memory() if cuda else images
    labels = {name: value.to(device) for name, value in boxes(batch).items()}

    def steps() -> None:
        for _ in range(STEPS):
            with torch.autocast(device, enabled=cuda):
                made = {"img": images.to(device, non_blocking=True).float() / 255, **labels}
                loss = model(made)[0].sum()
            scaler.scale(loss).backward()
            scaler.unscale_(optimizer)
            torch.nn.utils.clip_grad_norm_(model.parameters(), max_norm=10.0)
            scaler.step(optimizer)
            scaler.update()
            optimizer.zero_grad()
            average.update(model)
        if cuda:
            torch.cuda.synchronize()

    return steps


PARTS: dict[str, Callable[..., list[Row]]] = {
    "throughput": throughput,
    "telemetry": telemetry,
    "every": lambda *case: telemetry(*case, every=1),
    "tests": tests,
    "nccl": nccl,
    "graphs": graphs,
    "compiled": compiled,
}
LIMITS: dict[str, float] = {  # seconds: together less than eight minutes
    "throughput": 75, "telemetry": 60, "every": 60, "tests": 110, "nccl": 50, "graphs": 40, "compiled": 80,
}  # fmt: skip


if __name__ == "__main__":
    part, device, size, batch, out = sys.argv[1:]
    rows = PARTS[part](device, int(size), int(batch))
    Path(out).write_text(json.dumps([asdict(row) for row in rows]))
