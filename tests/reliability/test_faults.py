"""Faults around a run: it ends well, or stops at once with one clear line and something to go on from."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.reliability.faulty_runs import (
    Runs,
    Starter,
    assert_clear,
    assert_same,
    mounted,
    state,
    unmount_below,
)  # fmt: skip
from tests.support import Run

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(600),
    pytest.mark.skipif(not hasattr(os, "fork"), reason="runs are forked"),
]


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> Iterator[Starter]:
    running = Starter(tmp_path_factory.mktemp("faults"), coco8)
    yield running
    running.close()


@pytest.fixture(scope="module")
def wholes() -> dict[tuple[str, ...], Run]:
    return {}


@pytest.fixture
def train(
    starter: Starter, wholes: dict[tuple[str, ...], Run], request: pytest.FixtureRequest
) -> Iterator[Runs]:
    name = request.node.name.replace("/", "-").replace("[", "-").rstrip("]")
    folder = starter.folder / name
    folder.mkdir()
    yield Runs(starter, folder, wholes)
    unmount_below(folder)
    shutil.rmtree(folder, ignore_errors=True)


ROOT_ONLY = "a file system can be mounted by root only"
BROKEN_OFF, USER_ERROR = 4, 2
LEDGER = "gradients.ledger=true"


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
    faults = [("full_at", "detector.training.checkpoint.write", str(small), 300_000, number)]
    run = train(faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "checkpoints/", "No space left on device")
    assert state(run)["step"] == step
    (small / "ballast").unlink()
    goes_on(train, run)
    assert not list((run.directory / "checkpoints").glob(".*"))  # nothing half written is left


def test_the_disk_is_full_at_the_first_checkpoint(train: Runs, small: Path) -> None:
    faults = [("full_at", "detector.training.checkpoint.write", str(small), 300_000, 1)]
    run = train(faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "checkpoints/last.pt", "No space left on device", resumable=False)


def test_the_disk_is_full_at_the_ledger(train: Runs, small: Path) -> None:
    faults = [("full_at", "detector.gradients.ledger.write_ledger", str(small), 0, 2)]
    run = train(LEDGER, faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "ledger.json", "No space left on device")
    (small / "ballast").unlink()
    goes_on(train, run, LEDGER)


def test_the_disk_is_full_at_the_summary(train: Runs, small: Path) -> None:
    faults = [("full_at", "detector.tracking.local.write_text", str(small), 0)]
    run = train(faults=faults, name="disk/run")
    assert_clear(run, BROKEN_OFF, "summary.json", "No space left on device")
    (small / "ballast").unlink()
    goes_on(train, run)


def test_the_disk_is_full_at_the_plots(train: Runs, small: Path) -> None:
    settings = "tracking.plots=true", "tracking.images=1"
    faults = [("full_at", "detector.tracking.pictures.save_grid", str(small), 0, 2)]
    run = train(*settings, faults=faults, name="disk/run")
    assert "not drawn" in run.err and "PlotTracker stopped" in run.err
    assert_same(run, train.whole(*settings))


def test_a_file_reaches_the_largest_size_that_is_allowed(train: Runs) -> None:
    """The same without the right to mount anything: the system refuses every write, as `ulimit -f` does."""
    run = train(
        RARELY, faults=[("largest_file_at_step", 3, 5000)]
    )  # in the middle of the third row or the fourth
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
    ("file", "number"),
    [
        ("last.pt", 3),
        ("best.pt", 1),
        ("best.pt", 2),
        ("summary.json", 1),
        ("ledger.json", 1),
        ("ledger.json", 2),
    ],
)
def test_a_file_cannot_be_written(train: Runs, file: str, number: int) -> None:
    run = train(LEDGER, faults=[("failing_writes", file, number, errno.EROFS)])
    assert_clear(run, BROKEN_OFF, file, "Read-only file system")
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
