"""Cells on a Ray cluster. Ray is an optional extra: pip install 'gradient-detector[ray]'.

The nodes need this project's dependencies, but not its files: those are sent. Data are found or fetched
on each node as anywhere else; your own data must lie at the same absolute path on all of them.

A cell is one Ray task. If its node dies, Ray runs it again on another, from where this machine knew it.
What it wrote comes back as bytes, so nodes need no disk in common, and a suite can change between a
cluster and this machine.
"""

from __future__ import annotations

import io
import logging
import os
import runpy
import shutil
import socket
import sys
import tarfile
import tempfile
from contextlib import redirect_stderr, redirect_stdout, suppress
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

from detector.config.loading import save
from detector.errors import UserError
from detector.jobs.runner import LOG, End, Job, claim
from detector.registry import plugins
from detector.runtime.files import PACKAGE, PROJECT

RETRIES = 3  # of a cell whose node or worker process died
_SENT = ((PACKAGE, "**/*.py"), (PROJECT, "train.py"), (PROJECT, "datasets/*.yaml"))  # what a node needs
_TAIL = 300
_PATIENCE = 10.0  # seconds for a cluster to answer


class Order(NamedTuple):
    """A cell on its way to a node: everything it needs beyond the project's code."""

    config: bytes  # the resolved configuration, run.dir left open
    name: str
    threads: int
    earlier: bytes | None  # the directory of a run to resume
    plugins: tuple[tuple[str, bytes], ...] = ()  # what --plugin named: the file's name and its content


class Delivery(NamedTuple):
    """What comes back."""

    code: int
    said: str
    directory: bytes


class RayCluster:
    """Runs cells as tasks of a Ray cluster, each on `train.threads` CPUs (1 if the suite says nothing)."""

    def __init__(self, address: str, slots: int | None = None) -> None:
        """Connect to `address`; `slots` limits how many cells run at a time.

        Raises:
            UserError: Ray is not installed, or there is no cluster.
        """
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")  # it would report to its makers
        try:
            import ray
        except ImportError as error:
            raise UserError(f"Ray is needed ({error}): pip install 'gradient-detector[ray]'") from error
        try:
            check_that_one_listens(address)
            with tempfile.TemporaryDirectory() as code:
                copy_code(Path(code))
                ray.init(
                    address=address,
                    namespace="detector",
                    log_to_driver=False,
                    logging_level=logging.ERROR,
                    runtime_env={"working_dir": code},
                )
        except (OSError, ValueError, RuntimeError) as error:
            reason = (str(error).strip().splitlines() or [type(error).__name__])[0][:200]
            raise UserError(f"--ray {address}: no cluster can be reached: {reason}") from error
        self._ray = ray
        self._task = ray.remote(max_calls=1, max_retries=RETRIES)(train_on_node)
        self._limit = slots
        self._running: dict[Any, Job] = {}  # by the reference to what the task will return
        self._claims: dict[Path, BinaryIO] = {}

    @property
    def slots(self) -> int:
        """As many as asked for, else as many as the cluster has CPUs now; Ray queues what has no place."""
        if self._limit is not None:
            return self._limit
        return max(1, int(self._ray.cluster_resources().get("CPU", 1)))

    def start(self, job: Job) -> None:
        """Send a cell; its directory is filled when it comes back."""
        log = claim(job)
        if job.status != "waiting":
            log.close()
            return
        self._claims[job.directory] = log
        config = job.cell.config
        threads = config.train.threads or 1
        with tempfile.TemporaryDirectory() as folder:
            file = Path(folder) / "config.yaml"
            save(config, file)
            content = file.read_bytes()
        earlier = pack(job.directory) if job.start == "resume" else None
        task = self._task.options(
            name=job.cell.name,
            num_cpus=threads,
            num_gpus=1 if config.train.device.startswith("cuda") else 0,
        )
        order = Order(content, job.cell.ablation, threads, earlier, sent_plugins())
        self._running[task.remote(order)] = job

    def poll(self) -> list[End]:
        """Take the results that came back."""
        if not self._running:
            return []
        ready, _ = self._ray.wait(list(self._running), num_returns=len(self._running), timeout=0)
        return [self._end(reference, self._running.pop(reference)) for reference in ready]

    def _end(self, reference: Any, job: Job) -> End:
        try:
            delivery = Delivery(*self._ray.get(reference))
            unpack(delivery.directory, job.directory)
        except (self._ray.exceptions.RayError, OSError, tarfile.TarError) as error:
            # Without result: every retry died too, or it was cancelled.
            words = " ".join(str(error).split())[:_TAIL]
            return End(job, 1, f"{type(error).__name__}: {words}")
        finally:
            self._claims.pop(job.directory).close()
        return End(job, delivery.code, delivery.said)

    def interrupt(self) -> None:
        """Cancel what runs: a task has no way to bring back half of its work."""
        self.kill()

    def kill(self) -> None:
        """Cancel what runs."""
        for reference in self._running:
            with suppress(self._ray.exceptions.RayError):
                self._ray.cancel(reference, force=True)

    def close(self) -> None:
        """Leave the cluster."""
        if self._running:
            self.kill()
        self._ray.shutdown()
        for log in self._claims.values():
            log.close()


def check_that_one_listens(address: str) -> None:
    """Ray itself would try for several minutes to reach `host:port`, without saying what it waits for.

    Raises:
        OSError: nothing answers there.
    """
    host, separator, port = address.removeprefix("ray://").rpartition(":")
    if separator and port.isdecimal() and int(port) < 2**16:  # else Ray says what is wrong with it
        socket.create_connection((host.strip("[]"), int(port)), timeout=_PATIENCE).close()


def train_on_node(order: Order) -> tuple[int, str, bytes]:
    """The task: train a cell in a temporary directory, and return what `Delivery` holds."""
    with tempfile.TemporaryDirectory(prefix="detector-") as folder:
        directory = Path(folder) / "run"
        directory.mkdir()
        if order.earlier is not None:
            unpack(order.earlier, directory)
            arguments = ["--resume", str(directory)]
        else:
            file = Path(folder) / f"{order.name}.yaml"
            file.write_bytes(order.config)
            arguments = ["--config", str(file), f"run.dir={directory}", f"train.threads={order.threads}"]
        for name, content in order.plugins:
            (Path(folder) / name).write_bytes(content)
            arguments += ["--plugin", str(Path(folder) / name)]
        # In this process, not in one of its own: if the node's worker is killed, so is the run. Ray gives
        # every cell a new worker (max_calls=1).
        sys.path.insert(0, str(PROJECT))
        sys.argv = ["train.py", *arguments]  # what the summary says was run
        code: Any = 0
        with (directory / LOG).open("a", encoding="utf-8") as log, redirect_stdout(log), redirect_stderr(log):
            try:
                runpy.run_module("train", run_name="__main__")
            except SystemExit as ended:
                code = ended.code
        lines = (directory / LOG).read_text(encoding="utf-8", errors="replace").splitlines()
        said = next((line for line in reversed(lines) if line.strip()), "")
        return code, said[-_TAIL:], pack(directory)


def sent_plugins() -> tuple[tuple[str, bytes], ...]:
    """The files that `--plugin` named, for a node: their names and what is in them."""
    return tuple((plugin.path.name, plugin.path.read_bytes()) for plugin in plugins.values())


def copy_code(target: Path) -> None:
    """Copy what a node needs of the project: no data, no runs, nothing that happens to lie beside it."""
    for folder, pattern in _SENT:
        for file in folder.glob(pattern):
            copy = target / file.relative_to(PACKAGE.parent)
            copy.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(file, copy)


def pack(directory: Path) -> bytes:
    """A directory's files as one compressed archive."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz", compresslevel=1) as archive:
        archive.add(directory, arcname=".")
    return buffer.getvalue()


def unpack(content: bytes, directory: Path) -> None:
    """Write an archive's files into a directory; none can land outside of it.

    Raises:
        tarfile.TarError: it is broken, or holds something that is neither file nor folder.
    """
    directory.mkdir(parents=True, exist_ok=True)
    with tarfile.open(fileobj=io.BytesIO(content), mode="r:gz") as archive:
        archive.extractall(directory, filter="data")
