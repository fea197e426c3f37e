"""Loader processes: started cleanly, waited for within bounds, and never left behind."""

from __future__ import annotations

import errno
import os
import signal
import threading
import time
import traceback
from collections.abc import Iterator, Sequence
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.process import BaseProcess
from multiprocessing.queues import Queue
from typing import Any

import cv2
from torch.utils.data import DataLoader

from detector.errors import InterruptedRunError

EXIT_NO_SHARED_MEMORY = 75
_LARGER = "enlarge /dev/shm (docker run --shm-size=2g), or lower data.workers"


def iterate_with_timeout(loader: DataLoader[Any], timeout: float) -> Iterator[Any]:
    """A loader's batches, none of them waited for longer than `timeout` seconds if processes load them.

    Raises:
        InterruptedRunError: a process died, or no batch came in time.
    """
    if not loader.num_workers:
        yield from loader
        return
    try:
        batches, processes = _start(loader)
    except OSError as error:
        if error.errno != errno.ENOSPC:
            raise
        raise InterruptedRunError(f"no loader process can be started: no shared memory: {_LARGER}") from error
    watch = _Watchdog(processes, timeout)
    try:
        while True:
            with watch:
                try:
                    batch = next(batches)
                except StopIteration:
                    break
            yield batch
    finally:
        watch.close()
        del batches  # asks them to end, and waits a few seconds
        for process in processes:
            process.kill()  # one that is stopped would be waited for at exit for ever


def start_worker(_: int) -> None:
    """Called in each process before it loads anything."""
    Queue._on_queue_feeder_error = staticmethod(_end_worker)  # type: ignore[attr-defined]
    cv2.setNumThreads(0)  # the worker processes are the parallelism
    if hasattr(os, "setpgid"):
        # A signal for the training process's whole group, from a terminal or from torchrun, asks it to stop
        # after this step: for that it needs its workers.
        os.setpgid(0, 0)


def _end_worker(error: Exception, batch: object) -> None:
    """End a process that cannot hand over a batch: it would be waited for until `data.timeout`."""
    if _no_shared_memory(error):
        os._exit(EXIT_NO_SHARED_MEMORY)
    traceback.print_exception(error)
    os._exit(1)


def _no_shared_memory(error: BaseException) -> bool:
    return "shared memory" in str(error)  # PyTorch's words


def _start(loader: DataLoader[Any]) -> tuple[Iterator[Any], Sequence[BaseProcess]]:
    """Start the processes.

    A forked process believes that OpenCV's threads came along, and may wait for ever for them to end:
    so there must be none when it is forked.
    """
    threads, child = cv2.getNumThreads(), getattr(signal, "SIGCHLD", None)
    handler = None if child is None else signal.getsignal(child)
    try:
        cv2.setNumThreads(1)  # ends its threads here and now, which 0 does not
        batches = iter(loader)
    finally:
        cv2.setNumThreads(threads)
        if (
            child is not None
            and handler is not None
            and threading.current_thread() is threading.main_thread()
        ):
            # torch's handler raises when a worker dies, wherever the program is just then: in the middle of
            # an update of the weights, or of a file. It is early enough to see it when a batch is needed.
            signal.signal(child, handler)
    return batches, tuple(getattr(batches, "_workers", ()))


class _Watchdog:
    """Entered while a batch is waited for: kills all processes when it takes too long, and says why.

    A limit of torch's own does not see everything: a process that is stopped while its tensor is fetched
    from it is waited for without one.
    """

    def __init__(self, processes: Sequence[BaseProcess], timeout: float) -> None:
        self._processes, self._timeout = processes, timeout
        self._since: float | None = None
        self._late = False
        self._done = threading.Event()
        threading.Thread(target=self._look, name="loader watch", daemon=True).start()

    def __enter__(self) -> None:
        self._since = time.monotonic()

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        self._since = None
        if self._late:
            limit = f"no batch came from the loader processes within data.timeout={self._timeout:g} s"
            raise InterruptedRunError(f"{limit}: is the disk that the images are on still there?") from error
        if isinstance(error, Exception) and not isinstance(error, StopIteration):
            if isinstance(error, ConnectionError | EOFError):  # its end is heard of before it is over
                ended = wait([process.sentinel for process in self._processes], timeout=5)
                for process in self._processes:
                    if process.sentinel in ended:  # its files are closed: in a moment it has an exit code
                        process.join(timeout=5)
            dead = [process for process in self._processes if not process.is_alive()]
            if _no_shared_memory(error):
                raise InterruptedRunError(f"a batch did not fit into shared memory: {_LARGER}") from error
            if dead:
                raise InterruptedRunError(_describe_exit(dead[0])) from error

    def close(self) -> None:
        """Watch no longer."""
        self._done.set()

    def _look(self) -> None:
        while not self._done.wait(min(1.0, self._timeout / 4)):
            since = self._since
            if since is not None and time.monotonic() - since > self._timeout:
                self._late = True
                for process in self._processes:
                    process.kill()
                return


def _describe_exit(process: BaseProcess) -> str:
    """How a process ended."""
    code = process.exitcode or 0
    if code == EXIT_NO_SHARED_MEMORY:
        return f"loader process {process.pid}: a batch did not fit into shared memory: {_LARGER}"
    if code >= 0:
        return f"loader process {process.pid} ended with exit code {code}"
    name = str(-code)
    with suppress(ValueError):
        name = signal.Signals(-code).name
    hints = {
        "SIGKILL": "; the system does that when memory runs out: lower data.workers",
        "SIGBUS": f"; shared memory ran out: {_LARGER}",
    }
    return f"loader process {process.pid} was killed by {name} (exit code {code}){hints.get(name, '')}"
