"""Two of everything: two runs for one directory, and two that go on with one run."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import pytest

import train as front_door
from detector.config.loading import load_config
from detector.config.schema import Config
from detector.errors import UserError
from detector.fit import fit
from detector.rundir import RunDir
from detector.runtime.lock import NAME, FolderLock
from detector.training.callbacks import Callback
from tests.support import TINY

SHORT = (*TINY, "train.steps=4", "gradients.every=1", "gradients.ledger=false")


class Meanwhile(Callback):
    """Calls `then` in the middle of a run."""

    def __init__(self, then: Callable[[], object]) -> None:
        self.then, self.steps = then, 0

    def on_step_end(self, step: int) -> None:
        self.steps += 1
        if self.steps == 2:
            self.then()


@pytest.fixture(autouse=True)
def here(tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    monkeypatch.chdir(tmp_path)


def test_a_run_that_is_still_running_is_not_resumed(capsys: pytest.CaptureFixture[str]) -> None:
    said = []

    def resume() -> None:
        capsys.readouterr()
        assert front_door.main(["--resume", "run"]) == 2
        said.extend(capsys.readouterr().err.splitlines())

    done = fit(load_config("coco8", [*SHORT, "run.dir=run"]), callbacks=[Meanwhile(resume)])
    (line,) = said
    assert line.startswith("error: run: process ")
    assert done.status == "finished"
    assert [row["step"] for row in RunDir("run").read_history()] == [0, 1, 2, 3]
    assert not Path("run", NAME).exists()


def test_runs_of_the_same_second_have_a_directory_each(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("detector.runtime.files.time.strftime", lambda form: "20260101-000000")
    loaded, other = load_config("coco8", list(SHORT)), []
    done = fit(loaded, callbacks=[Meanwhile(lambda: other.append(fit(loaded)))])
    names = [str(run.directory) for run in (done, *other)]
    assert names == ["runs/baseline-s0-20260101-000000", "runs/baseline-s0-20260101-000000-2"]
    for name in names:
        assert [row["step"] for row in RunDir(name).read_history()] == [0, 1, 2, 3]


@pytest.mark.parametrize("attempt", range(10))
def test_of_runs_that_begin_at_once_in_one_directory_one_has_it(attempt: int) -> None:
    together = threading.Barrier(6)
    locks = [FolderLock() for _ in range(6)]
    refused: list[str] = []

    def begin(lock: FolderLock) -> None:
        together.wait()
        try:
            RunDir.create("run", Config(), lock)
        except UserError as error:
            refused.append(str(error))

    threads = [threading.Thread(target=begin, args=(lock,)) for lock in locks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    assert all(len(text.splitlines()) == 1 for text in refused)


def test_a_run_that_fails_gives_its_directory_back(monkeypatch: pytest.MonkeyPatch) -> None:
    """In a notebook the process goes on, and so must the run be able to."""

    def fail() -> None:
        raise RuntimeError("a mistake of one's own")

    loaded = load_config("coco8", [*SHORT, "run.dir=run"])
    with pytest.raises(RuntimeError):
        fit(loaded, callbacks=[Meanwhile(fail)])
    assert not Path("run", NAME).exists()
    assert fit(RunDir("run").read_config(), resume=Path("run")).status == "finished"
