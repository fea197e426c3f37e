"""What a suite shows on a terminal and in a file."""

from __future__ import annotations

import io
from pathlib import Path
from statistics import mean, stdev

from detector.jobs.runner import Job
from detector.tools.suites.display import SuiteDisplay, result_table
from detector.tools.suites.suite import expand, load_suite
from tests.support import ROOT


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def some_jobs() -> list[Job]:
    """Two finished runs, one running, one failed, and the rest waiting."""
    cells = expand(load_suite(ROOT / "ablations/suites/factorial.yaml"))
    jobs = [Job(cell, Path("out") / cell.name) for cell in cells]
    for job, late in ((jobs[0], 0.5), (jobs[8], 0.25)):  # the baseline's first two seeds
        job.status = "finished"
        job.summary = {"gradient/vanishing_index": late, "train/mAP50-95": late / 2}
    jobs[1].status, jobs[1].row = "running", {"step": 74, "epoch": 74}
    jobs[2].status, jobs[2].problem = "failed", "error: the disk is full"
    return jobs


def test_a_terminal_shows_every_cell_at_once() -> None:
    stream = Terminal()
    jobs = some_jobs()
    with SuiteDisplay("factorial", stream) as display:
        display.update(jobs)
        display.ended(jobs[0], jobs)  # the table says so already
        display.ended(jobs[2], jobs)
    shown = stream.getvalue()
    for text in ("baseline", "plain_sigmoid", "seed 2", "+0.50", "+0.25", "50 %", "3 of 40 runs", "Ctrl-C"):
        assert text in shown, text
    assert "sigmoid-s0" not in shown.replace("no_batchnorm_sigmoid-s0", "")
    assert "no_batchnorm-s0: failed: error: the disk is full" in shown


def test_a_file_gets_one_line_a_cell() -> None:
    stream = io.StringIO()
    jobs = some_jobs()
    with SuiteDisplay("factorial", stream) as display:
        display.update(jobs)
        display.ended(jobs[0], jobs)
    assert stream.getvalue().count("\n") == 1
    assert "[3/40] baseline-s0: finished" in stream.getvalue()
    assert "\x1b" not in stream.getvalue()


def test_the_table_is_mean_and_deviation_over_seeds() -> None:
    lines = result_table(some_jobs()).splitlines()
    assert len(lines) == 1 + 8
    assert f"{mean([0.5, 0.25]):+.2f} ± {stdev([0.5, 0.25]):.2f}" in lines[1]
    assert f"{mean([0.25, 0.125]):.3f} ± {stdev([0.25, 0.125]):.3f}" in lines[1]
    assert lines[1].endswith("3 missing")
    assert lines[1].split()[:2] == ["baseline", "2"]
