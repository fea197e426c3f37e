"""Running cells: with a stand-in for train.py where only files, signals and exit codes matter."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from detector.cli import main
from detector.config.loading import load_config, save
from detector.errors import UserError
from detector.jobs.cell import Cell
from detector.jobs.local import LocalProcesses
from detector.jobs.runner import Job, claim, plan, run
from detector.runtime.signals import StopRequest
from detector.tools.suites.display import SuiteDisplay, result_table
from detector.tools.suites.suite import expand, load_suite
from tests.starter import Starter, fork_cells
from tests.support import ROOT

FAKE = [sys.executable, str(Path(__file__).with_name("fake_train.py"))]


@pytest.fixture(scope="module")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Starter]:
    """It has imported what the stand-in does, and no PyTorch."""
    starter = Starter(tmp_path_factory.mktemp("streams"), None, ["detector.config.loading"])
    yield starter
    starter.close()


@pytest.fixture
def forked(starter: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """For what hangs neither on signals nor on claims: stand-ins are forked."""
    fork_cells(starter, monkeypatch)


class Quiet:
    """A display that only remembers."""

    def __init__(self, on_update: Callable[[Sequence[Job]], None] = lambda jobs: None) -> None:
        self.update = on_update
        self.order: list[str] = []

    def ended(self, job: Job, jobs: Sequence[Job]) -> None:
        self.order.append(f"{job.cell.name} {job.status}")


def cells(tmp_path: Path, *names: str, steps: int = 3, seeds: int = 1) -> list[Cell]:
    path = tmp_path / "mine.yaml"
    listed = "".join(f"  {n}: {{train: {{warmup_steps: {i}}}}}\n" for i, n in enumerate(names))
    path.write_text(
        f"base: {ROOT / 'configs/coco8.yaml'}\nseeds: {seeds}\n"
        f"settings: {{train: {{steps: {steps}}}}}\ncells:\n{listed}"
    )
    return expand(load_suite(path))


def calls(out: Path) -> list[list[str]]:
    return [line.split() for line in (out / "calls.txt").read_text().splitlines()]


def never() -> bool:
    return False


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_all_cells_run_and_none_again(tmp_path: Path) -> None:
    out = tmp_path / "out"
    suite = cells(tmp_path, "a", "b", seeds=2)
    run(plan(suite, out), LocalProcesses(2, program=FAKE), Quiet(), never)
    assert sorted(call[0] for call in calls(out)) == ["a-s0", "a-s1", "b-s0", "b-s1"]
    again = plan(suite, out)
    assert {(job.status, job.was_there) for job in again} == {("finished", True)}
    run(again, LocalProcesses(2, program=FAKE), Quiet(), never)
    assert len(calls(out)) == 4


def test_the_order_of_the_cells_is_kept_for_compare(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    suite = cells(tmp_path, "ladder", "half", "baseline")
    for cell in suite:  # all are there, so nothing is trained
        (out / cell.name).mkdir(parents=True)
        save(cell.config, out / cell.name / "config.yaml")
        (out / cell.name / "history.jsonl").write_text('{"step": 0, "train/loss": 1.0}\n')
        summary = {"status": "finished", "ablation": cell.ablation, "dataset": "coco8"}
        (out / cell.name / "summary.json").write_text(json.dumps(summary))
    assert main(["ablate", str(tmp_path / "mine.yaml"), "--out", str(out)]) == 0
    assert json.loads((out / "suite.json").read_text()) == {
        "suite": "mine",
        "cells": ["ladder", "half", "baseline"],
    }
    capsys.readouterr()
    assert main(["compare", str(out)]) == 0
    rows = capsys.readouterr().out.split("Difference from baseline")
    assert [line.split()[0] for line in rows[0].splitlines()[2:5]] == ["ladder", "half", "baseline"]


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_the_cores_are_shared_out(tmp_path: Path) -> None:
    out = tmp_path / "out"
    most = 0

    def count(jobs: Sequence[Job]) -> None:
        nonlocal most
        most = max(most, sum(job.status == "running" for job in jobs))

    jobs = plan(cells(tmp_path, "a", "b", "c", "d", "e"), out)
    run(jobs, LocalProcesses(2, cores=7, program=FAKE), Quiet(count), never)
    assert most == 2
    assert {(call[2], call[3]) for call in calls(out)} == {("3", "3")}  # 7 cores, 2 at a time


@pytest.mark.slow
def test_a_failing_cell_is_reported_and_the_rest_go_on(tmp_path: Path) -> None:
    out = tmp_path / "out"
    display = Quiet()
    jobs = plan(cells(tmp_path, "fails", "killed", "diverges", "a"), out)
    run(jobs, LocalProcesses(1, program=FAKE), display, never)
    assert display.order == ["fails-s0 failed", "killed-s0 failed", "diverges-s0 diverged", "a-s0 finished"]
    assert jobs[0].problem == "error: the disk is full"
    assert "SIGKILL" in jobs[1].problem
    retried = plan([job.cell for job in jobs], out)
    assert [job.status for job in retried] == ["waiting", "waiting", "diverged", "finished"]
    assert result_table(jobs).splitlines()[1:] == [
        "fails     0       -       -          -        -  1 missing",
        "killed    0       -       -          -        -  1 missing",
        "diverges  1   +0.50       -      0.900        -  1 diverged",
        "a         1   +0.50   +0.00      0.900        -",
    ]


def test_a_missing_program_fails_its_cells_only(tmp_path: Path) -> None:
    jobs = plan(cells(tmp_path, "a", "b"), tmp_path / "out")
    run(jobs, LocalProcesses(1, program=["/nowhere/python"]), Quiet(), never)
    assert [job.status for job in jobs] == ["failed", "failed"]
    assert "/nowhere/python" in jobs[0].problem


@pytest.mark.slow
def test_one_ctrl_c_lets_the_steps_finish_and_the_suite_goes_on_later(tmp_path: Path) -> None:
    out = tmp_path / "out"
    suite = cells(tmp_path, "a", "b", "c", steps=100)
    jobs = plan(suite, out)
    with StopRequest() as stop:

        def interrupt(jobs: Sequence[Job]) -> None:
            if stop.signal is None and sum(bool(job.row) for job in jobs) == 2:
                os.kill(os.getpid(), signal.SIGINT)

        run(jobs, LocalProcesses(2, program=FAKE), Quiet(interrupt), stop)
        assert stop.exit_code == 130
    assert {job.status for job in jobs} == {"stopped"}
    assert not (out / "c-s0").exists()
    jobs = plan(suite, out)
    assert [job.start for job in jobs] == ["resume", "resume", "new"]
    run(jobs, LocalProcesses(2, program=FAKE), Quiet(), never)
    assert {job.status for job in jobs} == {"finished"}
    for job in jobs:
        assert (job.directory / "history.jsonl").read_text().count("\n") == 100
    assert sorted(call[1] for call in calls(out)) == ["new", "new", "new", "resume", "resume"]


def test_a_second_ctrl_c_kills(tmp_path: Path) -> None:
    out = tmp_path / "out"
    jobs = plan(cells(tmp_path, "deaf", steps=10_000), out)
    times = 0
    with StopRequest() as stop:

        def interrupt(jobs: Sequence[Job]) -> None:
            nonlocal times
            if jobs[0].row and times < 2:
                times += 1
                os.kill(os.getpid(), signal.SIGINT)

        with pytest.raises(KeyboardInterrupt):
            run(jobs, LocalProcesses(1, program=FAKE), Quiet(interrupt), stop)
    assert jobs[0].status == "stopped"
    with pytest.raises(ProcessLookupError):
        os.kill(int(calls(out)[0][4]), 0)


@pytest.mark.slow
def test_a_cell_that_another_command_trains_is_waited_for_and_not_trained_again(tmp_path: Path) -> None:
    """Its claim is the process's own, so that it outlives a suite that was killed."""
    out = tmp_path / "out"
    suite = cells(tmp_path, "deaf", "a", steps=20)
    first = LocalProcesses(1, program=FAKE)
    seen: list[str] = []

    def look(jobs: Sequence[Job]) -> None:
        for job in jobs:
            if job.elsewhere and job.row and job.cell.name not in seen:
                seen.append(job.cell.name)

    jobs = plan(suite, out)
    first.start(plan(suite, out)[0])
    try:
        run(jobs, LocalProcesses(1, program=FAKE), Quiet(look), never)
    finally:
        first.kill()
    assert [(job.status, job.was_there) for job in jobs] == [("finished", True), ("finished", False)]
    assert seen == ["deaf-s0"]
    assert sorted(call[0] for call in calls(out)) == ["a-s0", "deaf-s0"]


def test_two_commands_for_one_suite_share_its_cells(tmp_path: Path) -> None:
    """Both plan before either begins."""
    out = tmp_path / "out"
    suite = cells(tmp_path, "a", "b", "c", steps=1)
    both = [plan(suite, out), plan(suite, out)]

    def keep_notes(jobs: Sequence[Job]) -> None:
        if jobs[0].status == "finished":
            (jobs[0].directory / "notes.txt").write_text("mine")

    threads = [
        threading.Thread(target=run, args=(jobs, LocalProcesses(1, program=FAKE), Quiet(keep_notes), never))
        for jobs in both
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for jobs in both:
        assert {job.status for job in jobs} == {"finished"}
    assert sorted(call[0] for call in calls(out)) == ["a-s0", "b-s0", "c-s0"]
    assert {one.was_there for one in both[0]} | {one.was_there for one in both[1]} == {True, False}
    assert (out / "a-s0/notes.txt").read_text() == "mine"


def contents(directory: Path) -> dict[str, bytes]:
    return {
        str(path.relative_to(directory)): path.read_bytes()
        for path in sorted(directory.rglob("*"))
        if path.is_file() and path.name != "console.log"
    }


@pytest.mark.usefixtures("forked")
def test_a_cell_without_its_checkpoints_is_left_as_it_is(tmp_path: Path) -> None:
    """They may have been deleted to save space: its history and notes are still worth something."""
    out = tmp_path / "out"
    suite = cells(tmp_path, "a", "b", steps=1)
    directory = out / "a-s0"
    directory.mkdir(parents=True)
    save(suite[0].config, directory / "config.yaml")
    (directory / "history.jsonl").write_text('{"step": 0, "train/loss": 1.0}\n')
    (directory / "summary.json").write_text('{"status": "stopped"}')
    (directory / "notes.txt").write_text("mine")
    before = contents(directory)
    jobs = plan(suite, out)
    run(jobs, LocalProcesses(1, program=FAKE), Quiet(), never)
    assert [job.status for job in jobs] == ["failed", "finished"]
    assert "no checkpoints/last.pt" in jobs[0].problem
    assert len(jobs[0].problem.splitlines()) == 1
    assert contents(directory) == before


@pytest.mark.usefixtures("forked")
def test_what_an_attempt_left_that_took_no_step_is_set_aside(tmp_path: Path) -> None:
    out = tmp_path / "out"
    suite = cells(tmp_path, "a", steps=1)
    directory = out / "a-s0"
    for attempt in (1, 2):
        for name in ("checkpoints", "plots"):
            (directory / name).mkdir(parents=True)
            (directory / name / "half.tmp").write_text(f"half {attempt}")
        save(suite[0].config, directory / "config.yaml")
        (directory / "history.jsonl").touch()
        (directory / "notes.txt").write_text("mine")
        (job,) = plan(suite, out)
        claim(job).close()
        assert (directory / f"attempt-{attempt}/plots/half.tmp").read_text() == f"half {attempt}"
        assert (directory / "notes.txt").read_text() == "mine"
    again = plan(suite, out)  # it was killed before it wrote anything: the notes do not make it a stranger's
    run(again, LocalProcesses(1, program=FAKE), Quiet(), never)
    assert again[0].status == "finished"
    assert (directory / "notes.txt").read_text() == "mine"


@pytest.mark.usefixtures("forked")
def test_another_experiment_is_not_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "out"
    suite = cells(tmp_path, "a")
    run(plan(suite, out), LocalProcesses(1, program=FAKE), Quiet(), never)
    with pytest.raises(UserError, match=r"train\.steps is 3, not 4"):
        plan(cells(tmp_path, "a", steps=4), out)
    patient = ["train.threads=7", "tracking.wandb=disabled", "train.timeout=900", "data.timeout=900"]
    saved = load_config(out / "a-s0/config.yaml", patient).config
    save(saved, out / "a-s0/config.yaml")  # none of it is another experiment
    assert plan(suite, out)[0].was_there


@pytest.mark.slow
@pytest.mark.usefixtures("forked")
def test_a_cell_waits_for_those_it_needs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    needy, free, source = plan(cells(tmp_path, "a", "b", "c"), out)
    needy.after = (source,)
    display = Quiet()
    run([needy, free, source], LocalProcesses(2, program=FAKE), display, never)
    assert display.order[-1] == "a-s0 finished"
    assert [job.status for job in (needy, free, source)] == ["finished"] * 3


@pytest.mark.usefixtures("forked")
@pytest.mark.parametrize("name", ["fails", "diverges"])
def test_a_cell_whose_source_did_not_finish_is_not_started(tmp_path: Path, name: str) -> None:
    out = tmp_path / "out"
    needy, source = plan(cells(tmp_path, "a", name), out)
    needy.after = (source,)
    run([needy, source], LocalProcesses(2, program=FAKE), Quiet(), never)
    assert needy.status == "failed"
    assert needy.problem.startswith(f"{name}-s0 did not finish")
    assert not needy.directory.exists()


@pytest.mark.parametrize("name", ["history.jsonl", "holiday.jpg"])
def test_a_directory_that_is_no_run_is_not_touched(tmp_path: Path, name: str) -> None:
    directory = tmp_path / "out" / "a-s0"
    directory.mkdir(parents=True)
    (directory / name).write_text("mine")
    with pytest.raises(UserError, match="another --out"):
        plan(cells(tmp_path, "a"), tmp_path / "out")
    assert (directory / name).read_text() == "mine"


def test_the_time_left_is_in_proportion_to_the_work(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    jobs = plan(cells(tmp_path, "a", "b", "c", "d"), tmp_path / "out")
    clock = [0.0]
    monkeypatch.setattr("detector.jobs.display.time.monotonic", lambda: clock[0])
    display = SuiteDisplay("mine")
    assert display.left(jobs) is None
    clock[0] = 30.0
    jobs[0].status = "finished"
    assert display.left(jobs) == pytest.approx(90)
    jobs[1].status, jobs[1].row = "running", {"step": 1, "epoch": 0}  # 2 of 3 steps
    clock[0] = 50.0
    assert display.left(jobs) == pytest.approx(70)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.usefixtures("forked_cells")
def test_a_stopped_suite_ends_as_an_uninterrupted_one(
    tmp_path: Path, coco8: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Ctrl-C to the one process that a user sees, with the real train.py; only that one is started anew."""
    from detector.rundir import RunDir
    from tests.runs.test_train import without_times
    from tests.support import environment

    suite = tmp_path / "tiny.yaml"
    suite.write_text(
        f"base: {ROOT / 'configs/coco8.yaml'}\n"
        "settings:\n  data: {image_size: 64}\n  model: {depths: [1, 1, 1, 1]}\n"
        "  train: {steps: 30, eval_every: null, threads: 1}\n  tracking: {wandb: disabled, plots: false}\n"
        "cells:\n  baseline: {}\n  no_residual: {model: {shortcut: none}}\n"
    )

    monkeypatch.setenv("DETECTOR_DATASETS", str(coco8))
    monkeypatch.chdir(tmp_path)
    arguments = ["ablate", str(suite), "--jobs", "2", "--out"]
    assert main([*arguments, "whole"]) == 0
    table = capsys.readouterr().out
    stopped = subprocess.Popen(
        [sys.executable, "-m", "detector", *arguments, "stopped"],
        cwd=tmp_path, env=environment(coco8) | {"PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 120
    while not RunDir(tmp_path / "stopped/baseline-s0").last_row():
        assert time.monotonic() < deadline and stopped.poll() is None
        time.sleep(0.02)
    stopped.send_signal(signal.SIGINT)
    _, err = stopped.communicate(timeout=100)
    assert stopped.returncode == 130, err
    assert "Traceback" not in err
    assert "resumes where it stopped" in err
    assert main([*arguments, "stopped"]) == 0
    assert capsys.readouterr().out.replace("stopped", "whole") == table
    for name in ("baseline-s0", "no_residual-s0"):
        histories = [RunDir(tmp_path / out / name).read_history() for out in ("whole", "stopped")]
        assert without_times(histories[0]) == without_times(histories[1])
