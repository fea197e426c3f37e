"""What befalls a run: called in its process before it starts.

Where the system can do it (a full disk, a killed process), it does it, and these functions only choose the
moment; what it cannot do on demand is raised here in the words in which it would come.
"""

from __future__ import annotations

import errno
import io
import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch


def wrap(owner: object, name: str, before: Callable[..., None]) -> None:
    """Call `before` with the same arguments, each time something is called."""
    original = getattr(owner, name)

    def wrapped(*arguments: Any, **others: Any) -> Any:
        before(*arguments, **others)
        return original(*arguments, **others)

    setattr(owner, name, wrapped)


def at_step(step: int, action: Callable[[Any], None]) -> None:
    """Do something when a step begins, before its batch is loaded; it is given the state."""
    from detector.training.state import TrainState

    wrap(TrainState, "train_mode", lambda state: action(state) if state.step == step else None)


# The disk.


def fill(folder: str, leave: int = 0) -> None:
    """Use up a small file system, except for some bytes."""
    ballast = Path(folder) / "ballast"
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(b"x" * 4096)
        except OSError as error:
            assert error.errno == errno.ENOSPC
        file.truncate(max(0, file.tell() - leave))


def full_at_step(step: int, folder: str, leave: int) -> None:
    at_step(step, lambda state: fill(folder, leave))


def just_before(what: str, number: int, action: Callable[[], None]) -> None:
    """Do something just before the `number`-th call of a function, `what` being its module and name."""
    module, _, name = what.rpartition(".")
    calls = 0

    def before(*_: object, **__: object) -> None:
        nonlocal calls
        calls += 1
        if calls == number:
            action()

    wrap(sys.modules[module], name, before)


def full_at(what: str, folder: str, leave: int, number: int = 1) -> None:
    """Fill the disk just before the `number`-th time something is written."""
    just_before(what, number, lambda: fill(folder, leave))


def read_only_at(what: str, folder: str, number: int) -> None:
    """Let a folder's file system become read-only just before the `number`-th time something is written."""

    def remount() -> None:
        for command in (["mount", "--bind", folder, folder], ["mount", "-o", "remount,bind,ro", folder]):
            subprocess.run(command, check=True)

    just_before(what, number, remount)


def failing_history(number: int, what: int) -> None:
    """Let the history fail at its `number`-th row, half of it written."""
    from detector.rundir.lines import HistoryWriter

    rows = 0

    class Failing(io.FileIO):
        def write(self, data: Any) -> int:
            nonlocal rows
            rows += 1
            if rows >= number:
                super().write(bytes(data)[: len(data) // 2])
                raise OSError(what, os.strerror(what))
            return super().write(data)

    original = HistoryWriter.__init__

    def opening(self: Any, *arguments: Any, **others: Any) -> None:
        original(self, *arguments, **others)
        self._file.close()
        self._file = Failing(self.path, "ab")

    HistoryWriter.__init__ = opening  # type: ignore[method-assign]


def largest_file(size: int) -> None:
    """No file may grow beyond `size` bytes: a real failure that needs no rights."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))


def largest_file_at_step(step: int, size: int) -> None:
    at_step(step, lambda state: largest_file(size))


def command_at_step(step: int, *command: str) -> None:
    """Run a program of the system."""
    at_step(step, lambda state: subprocess.run(command, check=True) and None)


def remove_at_step(step: int, path: str) -> None:
    """Delete a file or a folder."""
    at_step(step, lambda state: shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path))


def garbage_at_step(step: int, path: str) -> None:
    """Replace a file by one that is no picture."""
    at_step(step, lambda state: Path(path).write_bytes(b"\xff\xd8 not a picture" * 100) and None)


def disk_for_wandb(size: str) -> None:
    """Give W&B a small file system of its own, which is full as soon as it writes a little."""
    from detector.loggers import wandb_logger

    def before(start: Any, *_: object) -> None:
        folder = Path(start.directory) / "wandb"
        folder.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", str(folder)], check=True)

    wrap(wandb_logger, "open_run", before)


# Memory.

CPU_MEMORY = (
    "[enforce fail at alloc_cpu.cpp:121] err == 0. DefaultCPUAllocator: can't allocate memory: "
    "you tried to allocate 137438953472 bytes. Error code 12 (Cannot allocate memory)"
)
CUDA_MEMORY = (
    "CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has a total capacity of 79.11 GiB of which 1.02 "
    "GiB is free. See documentation for Memory Management  (https://pytorch.org/docs/stable/notes/cuda.html)"
)
KINDS = {
    "cpu": lambda: RuntimeError(CPU_MEMORY),
    "cuda": lambda: torch.OutOfMemoryError(CUDA_MEMORY),
    "python": MemoryError,
}


def no_memory(kind: str, step: int, evaluating: bool = False) -> None:
    """Run out of memory in the middle of a forward pass: norms have seen half of it."""

    def fail(*_: object) -> None:
        raise KINDS[kind]()

    def arm(state: Any) -> None:
        last = [m for m in state.model.modules() if isinstance(m, torch.nn.Conv2d)][-1]

        def hook(module: torch.nn.Module, inputs: object) -> None:
            if torch.is_grad_enabled() != evaluating:
                fail()

        last.register_forward_pre_hook(hook)

    at_step(step, arm)


def little_memory_at_step(step: int, more: int) -> None:
    """Allow `more` bytes of address space than there are in use."""

    def limit(state: Any) -> None:
        pages = int(Path("/proc/self/statm").read_text().split()[0])
        resource.setrlimit(
            resource.RLIMIT_AS, (pages * resource.getpagesize() + more, resource.RLIM_INFINITY)
        )

    at_step(step, limit)


# Other processes and streams.


def signal_workers_at_step(step: int, number: int) -> None:
    """Send all of the loader's processes a signal."""
    import multiprocessing

    def send(state: Any) -> None:
        for child in multiprocessing.active_children():
            os.kill(child.pid or 0, number)

    at_step(step, send)


def hanging_worker(index: int, epoch: int) -> None:
    """Wait for ever in a loader process, when it comes to an image."""
    from detector.data.samples import LetterboxedImages

    calls = 0
    parent = os.getpid()

    def before(self: object, wanted: int) -> None:
        nonlocal calls
        if os.getpid() != parent and wanted == index:
            calls += 1
            if calls > epoch:
                time.sleep(10_000)

    wrap(LetterboxedImages, "__getitem__", before)


def signal_at_step(step: int, *numbers: int) -> None:
    """Receive signals."""
    at_step(step, lambda state: [os.kill(os.getpid(), number) for number in numbers] and None)


def ignored(number: int) -> None:
    """As under nohup."""
    signal.signal(number, signal.SIG_IGN)


def closed_streams() -> None:
    """As `train.py >&- 2>&-` does."""
    for stream in (1, 2):
        os.close(stream)
    sys.stdout = sys.stderr = None  # type: ignore[assignment]


def noise_at_step(step: int) -> None:
    """Write to stderr below Python, as C libraries do."""
    at_step(step, lambda state: os.write(2, b"a warning of some library\n") and None)


def streams_to(stdout: int | str, stderr: int | str) -> None:
    """Lead stdout and stderr to a pipe that nobody reads: `head -1` has seen enough."""
    reading, writing = os.pipe()
    for stream, where in ((1, stdout), (2, stderr)):
        if where == "broken":
            os.dup2(writing, stream)
    os.close(reading)


# Everything else.


def checkpoint_at_each_evaluation() -> None:
    """As in a run of ordinary length, whose evaluations are rare enough for that."""
    from detector.training.checkpoints import Checkpointing

    Checkpointing.offer = Checkpointing.save  # type: ignore[method-assign]


def clock_jumps(step: int, seconds: float) -> None:
    """Let the wall clock jump. Nothing may hang on it: durations are measured by the monotonic one."""

    def jump(state: Any) -> None:
        real, real_ns = time.time, time.time_ns
        time.time = lambda: real() + seconds
        time.time_ns = lambda: real_ns() + int(seconds * 1e9)

    at_step(step, jump)


def no_matplotlib() -> None:
    """As if it were not installed."""
    for name in [name for name in sys.modules if name.split(".")[0] == "matplotlib"]:
        del sys.modules[name]
    sys.modules["matplotlib"] = None  # type: ignore[assignment]


def failing_plots() -> None:
    """Let every figure fail while it is saved."""
    from matplotlib.figure import Figure

    def savefig(*_: object, **__: object) -> None:
        raise ValueError("cannot draw\nthis")

    Figure.savefig = savefig  # type: ignore[method-assign]


def impatient_wandb(init: float, finish: float) -> None:
    """Shorten the time limits of W&B, which are for real servers."""
    from detector.loggers import wandb_session, wandb_thread

    wandb_thread._GRACE = 1.0
    wandb_session.INIT_TIMEOUT, wandb_session.FINISH_TIMEOUT = init, finish


def wandb_at_step(step: int, what: str) -> None:
    """Once W&B has started, kill its service process, or stop it: then nothing of W&B ever returns."""

    def act(state: Any) -> None:
        import gc

        import wandb

        from detector.loggers.wandb_logger import WandbLogger
        from detector.loggers.wandb_session import kill_service

        (logger,) = [thing for thing in gc.get_objects() if isinstance(thing, WandbLogger)]
        assert logger.wait_started(60)
        if what == "kill":
            kill_service()
        elif what == "stop":
            service: Any = wandb.setup()._connection
            os.kill(service._proc._process.pid, signal.SIGSTOP)

    at_step(step, act)


def wait_for_file_at_step(step: int, path: str) -> None:
    """Wait, for a minute at most, until the test has done its part."""

    def wait(state: Any) -> None:
        Path(f"{path}.reached").touch()
        deadline = time.monotonic() + 60
        while not Path(path).exists():
            assert time.monotonic() < deadline
            time.sleep(0.01)

    at_step(step, wait)
