"""`detector ablate`: a suite from its file to its table."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path

from detector.errors import UserError
from detector.runtime.files import TRAIN, write_text

EXIT_FAILED = 1
SUITE_FILE = "suite.json"  # beside the runs; `detector compare` shows the cells in this order
_MOST_JOBS = 4  # by default: each process holds about 1 GB


def ablate(
    suite_file: Path,
    /,
    *overrides: str,
    seeds: int | None = None,
    jobs: int | None = None,
    out: Path | None = None,
    ray: str | None = None,
    stack: bool = False,
    dry_run: bool = False,
    plugin: tuple[Path, ...] = (),
) -> int:
    """Run a suite of ablations over several seeds.

    What is complete is not run again; what was interrupted is resumed.

    Args:
        suite_file: the suite: a file, or a name such as factorial.
        overrides: section.key=value for all cells.
        seeds: how many a cell; default: as the suite says.
        jobs: runs at a time; default: one a core, at most 4.
        out: the folder of the runs; default: runs/<the suite's name>.
        ray: run on a Ray cluster: auto, HOST:PORT or ray://….
        stack: train the seeds of a cell together, for a GPU; --jobs then counts cells.
        dry_run: print the command of each run, and run none.
        plugin: a Python file that registers parts of one's own, for every run; may be repeated.

    Returns:
        0; 1 if a cell failed; 130 after Ctrl-C (143 after SIGTERM).

    Raises:
        UserError: the suite, an override or the output directory is wrong; nothing was started.
    """
    from detector.jobs.local import LocalProcesses, available_cores
    from detector.registry import load_plugins, plugin_arguments
    from detector.tools.suites.suite import expand, load_suite

    load_plugins(plugin)
    suite = load_suite(suite_file)
    cells = expand(suite, seeds, overrides)
    out = out or Path("runs") / suite.name
    if jobs is not None and jobs < 1:
        raise UserError(f"--jobs: must be at least 1, not {jobs}")
    if stack:
        from detector.jobs.stacked import StackedProcesses, check_stackable

        if ray is not None:
            raise UserError("--stack: trains on this machine: leave out --ray")
        check_stackable(cells)
        order = list(suite.cells)
        cells.sort(key=lambda cell: order.index(cell.ablation))  # its seeds follow each other
    if dry_run:
        threads = max(1, available_cores() // (jobs or min(available_cores(), _MOST_JOBS)))
        for cell in cells:
            arguments = *plugin_arguments(), *cell.arguments(out / cell.name, threads)
            print(TRAIN, shlex.join(arguments))
        each = len(cells) // len(suite.cells)
        seeds_each = f"{each} seed{'s' * (each > 1)} each"
        _say(f"{suite.name}: {len(cells)} runs, {len(suite.cells)} cells with {seeds_each}")
        return 0

    from detector.data.coco8 import DatasetUnavailable
    from detector.jobs import runner
    from detector.jobs.data import fetch
    from detector.runtime.signals import StopRequest
    from detector.tools.suites.display import SuiteDisplay, result_table

    runs = runner.plan(cells, out)
    _write_order(out, suite.name, list(suite.cells))
    missing = [job for job in runs if job.status == "waiting"]
    _say(f"{suite.name}: {len(runs)} runs in {out}, {len(runs) - len(missing)} of them complete")
    exit_code = 0
    if missing:
        backend: runner.Backend
        if ray is not None:
            from detector.tools.suites.ray_runner import RayCluster

            backend = RayCluster(ray, jobs)
        else:
            try:
                fetch(cell.config for cell in cells if cell.config.data.format == "yolo")
            except DatasetUnavailable as error:
                raise UserError(f"{error}\nwithout COCO8: ablations/suites/factorial_shapes.yaml") from error
            most = len({job.cell.ablation for job in missing}) if stack else len(missing)
            slots = min(jobs or min(available_cores(), _MOST_JOBS), most)
            backend = StackedProcesses(slots, missing) if stack else LocalProcesses(slots)
        with StopRequest() as stop, SuiteDisplay(suite.name) as display:
            try:
                runner.run(runs, backend, display, stop)
            except KeyboardInterrupt:
                _say("killed: what was not saved is lost, and is trained again by the same command")
        exit_code = stop.exit_code
    failed = [job for job in runs if job.status == "failed"]
    print(result_table(runs))
    if exit_code:
        _say("interrupted; the same command resumes where it stopped")
    elif failed:
        names = ", ".join(job.cell.name for job in failed)
        _say(f"failed: {names}; the same command tries them again")
        exit_code = EXIT_FAILED
    print(f"Compare them: detector compare {shlex.quote(str(out))} --html report.html")
    return exit_code


def _write_order(out: Path, suite: str, cells: list[str]) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
        write_text(out / SUITE_FILE, json.dumps({"suite": suite, "cells": cells}) + "\n")
    except OSError as error:
        raise UserError(f"{out}: cannot be written: {error.strerror}") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
