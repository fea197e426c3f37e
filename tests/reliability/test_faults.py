"""Faults around a run: it ends well, or stops at once with one clear line and something to go on from."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.loggers.wandb_server import Server
from tests.reliability.faulty_runs import (
    Runs,
    assert_clear,
    assert_same,
    mounted,
    numbers,
    state,
    unmount_below,
)  # fmt: skip
from tests.starter import Starter
from tests.support import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
]


@pytest.fixture(scope="session")
def wholes() -> dict[tuple[str, ...], Run]:
    return {}


@pytest.fixture
def train(
    warm_start: Starter, wholes: dict[tuple[str, ...], Run], request: pytest.FixtureRequest
) -> Iterator[Runs]:
    name = request.node.name.replace("/", "-").replace("[", "-").rstrip("]")
    folder = warm_start.folder / name
    folder.mkdir()
    yield Runs(warm_start, folder, wholes)
    unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


ROOT_ONLY = "a file system can be mounted by root only"
BROKEN_OFF, USER_ERROR = 4, 2
LEDGER = "gradients.ledger=true"
RARELY = "train.eval_every=null"  # only at the end
FROM_DISK = "data.cache=false"
TWO = FROM_DISK, "data.workers=2"


@pytest.fixture
def small(train: Runs) -> Path:
    """A file system of 8 MB, and in it the folder for the run."""
    folder = train.folder / "disk"
    if not mounted(folder, "8m"):
        pytest.skip(ROOT_ONLY)
    return folder


def on(disk: Path) -> str:
    return f"disk/{disk.name}"


def goes_on(train: Runs, run: Run, *settings: str) -> None:
    """The fault is gone: what is resumed ends as if it had never been."""
    assert_same(train.resume(run), train.whole(*settings))


# A full disk.


def test_the_disk_is_full_at_a_row_of_the_history(train: Runs, small: Path) -> None:
    run = train(RARELY, faults=[("full_at_step", 2, str(small), 0)], name=on(small))
    assert_clear(run, BROKEN_OFF, "history.jsonl", "No space left on device")
    steps = [row["step"] for row in run.history]
    assert 2 <= len(steps) < 6 and steps == list(range(len(steps)))  # no torn row
    (small / "ballast").unlink()
    goes_on(train, run, RARELY)


@pytest.mark.parametrize(("number", "step"), [(2, 0), (3, 0), (4, 2), (5, 4)])
def test_the_disk_is_full_in_a_checkpoint(train: Runs, small: Path, number: int, step: int) -> None:
    """best.pt or last.pt of an evaluation, half written: the checkpoint before it is whole."""
    faults = [("full_at", "detector.runtime.checkpoint_file.write", str(small), 300_000, number)]
    run = train(faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "checkpoints/", "No space left on device")
    assert state(run)["step"] == step
    (small / "ballast").unlink()
    goes_on(train, run)
    assert not list((run.directory / "checkpoints").glob(".*"))  # nothing half written is left


def test_the_disk_is_full_at_the_first_checkpoint(train: Runs, small: Path) -> None:
    faults = [("full_at", "detector.runtime.checkpoint_file.write", str(small), 300_000, 1)]
    run = train(faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "checkpoints/last.pt", "No space left on device", resumable=False)


def test_the_disk_is_full_at_the_ledger(train: Runs, small: Path) -> None:
    faults = [("full_at", "detector.training.run.write_ledger", str(small), 0, 2)]
    run = train(LEDGER, faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "ledger.json", "No space left on device")
    (small / "ballast").unlink()
    goes_on(train, run, LEDGER)


def test_the_disk_is_full_at_the_summary(train: Runs, small: Path) -> None:
    faults = [("full_at", "detector.rundir.directory.write_text", str(small), 0)]
    run = train(faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "summary.json", "No space left on device")
    (small / "ballast").unlink()
    goes_on(train, run)


def test_the_disk_is_full_at_the_plots(train: Runs, small: Path) -> None:
    settings = "tracking.plots=true", "tracking.images=1"
    faults = [("full_at", "detector.loggers.images.save_grid", str(small), 0, 2)]
    run = train(*settings, faults=faults, name="disk/run")
    assert "not drawn" in run.err and "PlotLogger stopped" in run.err
    assert_same(run, train.whole(*settings))


def test_a_file_reaches_the_largest_size_that_is_allowed(train: Runs) -> None:
    """The same without the right to mount anything: the system refuses every write, as `ulimit -f` does."""
    run = train(RARELY, faults=[("largest_file_at_step", 3, 5000)])  # in the middle of a row
    assert_clear(run, BROKEN_OFF, "history.jsonl", "File too large")
    goes_on(train, run, RARELY)


def test_the_first_checkpoint_is_larger_than_allowed(train: Runs) -> None:
    run = train(faults=[("largest_file", 100_000)])
    assert_clear(run, BROKEN_OFF, "checkpoints/last.pt", "File too large", resumable=False)


@pytest.mark.parametrize("what", [errno.ENOSPC, errno.EIO, errno.EDQUOT], ids=errno.errorcode.get)
def test_a_row_is_only_half_written(train: Runs, what: int) -> None:
    run = train(faults=[("failing_history", 4, what)])
    assert_clear(run, BROKEN_OFF, "history.jsonl", os.strerror(what))
    assert [row["step"] for row in run.history] == [0, 1, 2]
    goes_on(train, run)


@pytest.mark.parametrize(
    ("file", "write", "number"),
    [
        ("checkpoints/", "detector.runtime.checkpoint_file.write", 3),
        ("checkpoints/", "detector.runtime.checkpoint_file.write", 5),
        ("summary.json", "detector.rundir.directory.write_text", 1),
        ("ledger.json", "detector.training.run.write_ledger", 1),
        ("ledger.json", "detector.training.run.write_ledger", 2),
    ],
)
def test_the_file_system_becomes_read_only(
    train: Runs, small: Path, file: str, write: str, number: int
) -> None:
    """As after an error of the disk. What is open goes on, and no other file can be written."""
    run = train(LEDGER, faults=[("read_only_at", write, str(train.folder / "run"), number)])
    assert_clear(run, BROKEN_OFF, file, "Read-only file system")
    unmount_below(train.folder)
    goes_on(train, run, LEDGER)


# The run's directory.


def test_the_directory_is_below_a_file(train: Runs) -> None:
    (train.folder / "file").touch()
    run = train(name="file")
    assert run.code == USER_ERROR
    assert run.err.count("\n") == 1 and "run.dir=" in run.err


def test_the_directory_is_read_only(train: Runs, small: Path) -> None:
    assert os.system(f"mount -o remount,ro {small}") == 0
    run = train(name="disk/run")
    assert_clear(run, USER_ERROR, "run.dir=", "Read-only file system", resumable=False)


def test_the_directory_is_there_but_read_only(train: Runs, small: Path) -> None:
    (small / "run").mkdir()
    assert os.system(f"mount -o remount,ro {small}") == 0
    run = train(name="disk/run")
    assert_clear(run, USER_ERROR, "Read-only file system", resumable=False)


def test_the_directory_becomes_read_only(train: Runs) -> None:
    folder = train.folder / "run/checkpoints"
    lock, unlock = (
        (("chattr", "+i"), ("chattr", "-i")) if os.geteuid() == 0 else (("chmod", "555"), ("chmod", "755"))
    )
    probe = train.folder / "probe"
    probe.mkdir()
    if os.system(" ".join([*lock, str(probe)])) or os.system(" ".join([*unlock, str(probe)])):
        pytest.skip("the file system has no immutable folders, and root may write to any other")
    try:
        run = train(faults=[("command_at_step", 3, *lock, str(folder))])
        assert_clear(run, BROKEN_OFF, "checkpoints/", "ermi")  # operation not permitted, permission denied
    finally:
        os.system(" ".join([*unlock, str(folder)]))
    assert state(run)["step"] == 2
    goes_on(train, run)


def test_the_directory_is_deleted(train: Runs) -> None:
    run = train(faults=[("remove_at_step", 3, str(train.folder / "run"))])
    assert_clear(run, BROKEN_OFF, "history.jsonl", "deleted", resumable=False)
    assert not run.directory.exists()


@pytest.fixture
def data(train: Runs, coco8: Path) -> Path:
    """A copy of COCO8 whose files a fault can have."""
    shutil.copytree(coco8 / "coco8", train.folder / "mine")
    names = "\n".join(f"  {number}: c{number}" for number in range(80))
    text = f"train: images/train\nval: images/val\nnames:\n{names}\n"
    (train.folder / "mine/data.yaml").write_text(text)
    return train.folder / "mine"


def test_the_checkpoints_are_deleted(train: Runs) -> None:
    run = train(RARELY, faults=[("remove_at_step", 3, str(train.folder / "run" / "checkpoints"))])
    assert_clear(run, BROKEN_OFF, "checkpoints/", "No such file or directory", resumable=False)
    assert [row["step"] for row in run.history] == list(range(6))


# Memory.


@pytest.mark.parametrize("kind", ["cpu", "cuda", "python"])
def test_no_memory_in_training(train: Runs, kind: str) -> None:
    """The step is undone, norms' statistics included, and saved: with more memory it goes on from there."""
    run = train(faults=[("no_memory", kind, 3)])
    assert_clear(run, USER_ERROR, "out of memory", "train.batch=2", "data.image_size=64", "train.accumulate")
    assert state(run)["step"] == 3
    goes_on(train, run)


def test_no_memory_in_an_evaluation(train: Runs) -> None:
    run = train(faults=[("no_memory", "cpu", 3, True)])
    assert_clear(run, USER_ERROR, "out of memory", "train.batch=2", "data.image_size=64")
    assert state(run)["step"] == 2
    goes_on(train, run)


def test_the_system_gives_no_memory(train: Runs) -> None:
    """Nothing is simulated here: the images of a step need more address space than is allowed."""
    large = "data.image_size=1024", "train.batch=4", "train.eval_every=null", "train.steps=3"
    run = train(*large, faults=[("little_memory_at_step", 0, 64_000_000)])
    assert_clear(run, USER_ERROR, "out of memory", "train.batch=4", "data.image_size=1024")
    assert state(run)["step"] == 0


# The data, and the processes that load it.


@pytest.mark.parametrize("fault", ["remove_at_step", "garbage_at_step"])
@pytest.mark.parametrize(("workers", "on_error"), [(0, "skip"), (2, "raise")])
def test_an_image_is_lost(train: Runs, data: Path, fault: str, workers: int, on_error: str) -> None:
    """`on_error=skip` is about what is found before training: to leave an image out in the middle of it would
    be another experiment."""
    skip = f"data.on_error={on_error}"
    settings = f"data.path={data}/data.yaml", FROM_DISK, f"data.workers={workers}", skip
    image = data / "images/train/000000000030.jpg"
    content = image.read_bytes()
    run = train(*settings, faults=[(fault, 2, str(image))])
    assert_clear(run, USER_ERROR, str(image))
    image.write_bytes(content)
    resumed = train.resume(run)
    assert resumed.code == 0, resumed.err
    assert numbers(resumed) == numbers(train.whole())  # the same four images, from wherever they are read


def test_an_image_is_lost_that_is_in_memory(train: Runs, data: Path) -> None:
    """Pictures of predictions are drawn from the files: they are left out, and training goes on."""
    settings = f"data.path={data}/data.yaml", "tracking.images=4"
    run = train(*settings, faults=[("remove_at_step", 1, str(data / "images/train"))])
    assert run.code == 0, run.err
    assert numbers(run) == numbers(train.whole())


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (signal.SIGKILL, "SIGKILL (exit code -9); the system does that when memory runs out"),
        (signal.SIGBUS, "SIGBUS (exit code -7); shared memory ran out"),
        (signal.SIGTERM, "exit code 0"),  # PyTorch's worker takes it as a request
    ],
)
def test_loader_processes_die(train: Runs, number: signal.Signals, said: str) -> None:
    run = train(*TWO, faults=[("signal_workers_at_step", 2, number)])
    assert_clear(run, BROKEN_OFF, "loader process", said)
    goes_on(train, run)


@pytest.mark.parametrize("fault", [("signal_workers_at_step", 2, signal.SIGSTOP), ("hanging_worker", 1, 1)])
def test_loader_processes_hang(train: Runs, fault: tuple[object, ...]) -> None:
    """Stopped as by a debugger, or waiting for a disk: no longer than `data.timeout`."""
    run = train(*TWO, "data.timeout=3", faults=[fault])
    assert_clear(run, BROKEN_OFF, "loader processes", "data.timeout=3")
    faults = run.directory / "config.yaml"
    assert "timeout: 3" in faults.read_text()
    goes_on(train, run)


# Streams, signals and the clock.


@pytest.mark.parametrize("streams", [("broken", ""), ("", "broken"), ("broken", "broken")])
def test_nobody_reads_what_is_printed(train: Runs, streams: tuple[str, str]) -> None:
    run = train(faults=[("streams_to", *streams)])
    assert "Traceback" not in run.err and "Exception ignored" not in run.err
    assert_same(run, train.whole())


def test_stdout_and_stderr_are_closed(train: Runs) -> None:
    """Their numbers go to no other file: a library's warning must not end up in the history."""
    run = train(faults=[("closed_streams",), ("noise_at_step", 3)])
    assert_same(run, train.whole())
    assert all(b"a warning" not in path.read_bytes() for path in run.directory.rglob("*") if path.is_file())


@pytest.mark.parametrize(
    "numbers", [(signal.SIGHUP,), (signal.SIGHUP, signal.SIGHUP), (signal.SIGTERM, signal.SIGHUP)]
)
def test_the_terminal_hangs_up(train: Runs, numbers: tuple[int, ...]) -> None:
    run = train(faults=[("signal_at_step", 3, *numbers)])
    assert run.code == 128 + numbers[0]
    assert "Traceback" not in run.err
    assert run.summary["status"] == "stopped"
    assert state(run)["step"] == 4
    goes_on(train, run)


def test_nohup_is_obeyed(train: Runs) -> None:
    run = train(faults=[("ignored", signal.SIGHUP), ("signal_at_step", 3, signal.SIGHUP)])
    assert_same(run, train.whole())


@pytest.mark.parametrize("years", [-50, 50])
def test_the_clock_jumps(train: Runs, years: int) -> None:
    run = train(faults=[("clock_jumps", 3, years * 3e7)])
    assert_same(run, train.whole())
    assert 0 < run.summary["seconds"] < 1000
    assert all(0 < row["time/step_ms"] < 1e6 for row in run.history)


# Plots.


@pytest.mark.parametrize("fault", ["no_matplotlib", "failing_plots"])
def test_nothing_can_be_drawn(train: Runs, fault: str) -> None:
    run = train("tracking.plots=true", "tracking.images=1", faults=[(fault,)])
    assert "PlotLogger stopped" in run.err
    assert "Traceback" not in run.err
    assert_same(run, train.whole())


# W&B. What arrives there is tested in tests/loggers; here, that nothing of it touches the run.

KEY = "0123456789abcdef" * 2 + "01234567"  # the right length, and nobody's
IMPATIENT = ("impatient_wandb", 3, 3)
NOBODY = "http://127.0.0.1:9"  # nothing listens there


@pytest.fixture
def server() -> Iterator[Server]:
    with Server() as running:
        yield running


def ends_well(train: Runs, run: Run, said: str) -> None:
    assert said in run.err
    assert "Traceback" not in run.err and "Exception ignored" not in run.err, run.err
    assert_same(run, train.whole())


def test_wandb_without_a_key(train: Runs) -> None:
    """Nobody is asked for one."""
    run = train(faults=[IMPATIENT], wandb="online", WANDB_BASE_URL=NOBODY)
    ends_well(train, run, "no API key is known")
    assert list(run.directory.glob("wandb/offline-run-*/*.wandb"))


@pytest.mark.parametrize("silent", [False, True], ids=["refused", "silent"])
def test_wandb_has_a_dead_server(train: Runs, silent: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:  # accepts, and never answers
        url = f"http://127.0.0.1:{listening.getsockname()[1]}" if silent else NOBODY
        run = train(faults=[IMPATIENT], wandb="auto", WANDB_BASE_URL=url, WANDB_API_KEY=KEY)
    ends_well(train, run, "Recording offline")
    assert list(run.directory.glob("wandb/offline-run-*/*.wandb"))


def test_wandb_has_a_server_that_breaks(train: Runs, server: Server) -> None:
    go = train.folder / "go"
    # The later one comes first.
    faults = [IMPATIENT, ("wait_for_file_at_step", 2, str(go)), ("wandb_at_step", 2, "wait")]
    reached = {"WANDB_BASE_URL": server.url, "WANDB_API_KEY": KEY}
    started, directory = train.begin(faults=faults, wandb="auto", **reached)
    deadline = time.monotonic() + 100
    while not Path(f"{go}.reached").exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    server.failing = 500
    go.touch()
    ends_well(train, train.starter.end(started, directory), "wandb sync")
    assert server.runs


@pytest.mark.parametrize(("what", "said"), [("kill", "W&B stopped"), ("stop", "in time")])
def test_wandb_breaks(train: Runs, server: Server, what: str, said: str) -> None:
    """Its service process is killed, or answers no more."""
    faults = [IMPATIENT, ("wandb_at_step", 2, what)]
    run = train(faults=faults, wandb="auto", WANDB_BASE_URL=server.url, WANDB_API_KEY=KEY)
    ends_well(train, run, said)


def test_wandb_has_a_full_disk(train: Runs) -> None:
    if not mounted(train.folder / "probe", "1m"):
        pytest.skip(ROOT_ONLY)
    run = train(faults=[IMPATIENT, ("disk_for_wandb", "32k")], wandb="offline")
    ends_well(train, run, "W&B")
