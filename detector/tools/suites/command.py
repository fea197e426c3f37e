"""`detector ablate`: a suite from its file to its table."""

from __future__ import annotations

import argparse
import json
import shlex
import sys
from pathlib import Path

from detector.errors import UserError
from detector.runtime.files import write_text
from detector.tools.suites.suite import Cell, expand, load_suite

EXIT_FAILED = 1
SUITE_FILE = "suite.json"  # beside the runs; `detector compare` shows the cells in this order
_MOST_JOBS = 4  # by default: each process holds about 1 GB


def ablate(options: argparse.Namespace) -> int:
    """Run what is missing of a suite, and print its table.

    Returns:
        0; 1 if a cell failed; 130 after Ctrl-C (143 after SIGTERM).

    Raises:
        UserError: the suite, an override or the output directory is wrong; nothing was started.
    """
    from detector.tools.suites.local import LocalProcesses, available_cores

    suite = load_suite(options.suite)
    cells = expand(suite, options.seeds, options.overrides)
    out = options.out or Path("runs") / suite.name
    if options.jobs is not None and options.jobs < 1:
        raise UserError(f"--jobs: must be at least 1, not {options.jobs}")
    if options.dry_run:
        threads = max(1, available_cores() // (options.jobs or min(available_cores(), _MOST_JOBS)))
        for cell in cells:
            print(shlex.join(["python", "train.py", *cell.arguments(out / cell.name, threads)]))
        return 0

    from detector.runtime.signals import StopRequest
    from detector.tools.suites import runner
    from detector.tools.suites.display import SuiteDisplay, result_table

    jobs = runner.plan(cells, out)
    _write_order(out, suite.name, list(suite.cells))
    missing = [job for job in jobs if job.status == "waiting"]
    _say(f"{suite.name}: {len(jobs)} runs in {out}, {len(jobs) - len(missing)} of them complete")
    exit_code = 0
    if missing:
        backend: runner.Backend
        if options.ray is not None:
            from detector.tools.suites.ray_runner import RayCluster

            backend = RayCluster(options.ray, options.jobs)
        else:
            _fetch_data(cells)
            slots = min(options.jobs or min(available_cores(), _MOST_JOBS), len(missing))
            backend = LocalProcesses(slots)
        with StopRequest() as stop, SuiteDisplay(suite.name) as display:
            try:
                runner.run(jobs, backend, display, stop)
            except KeyboardInterrupt:
                _say("killed: what was not saved is lost, and is trained again by the same command")
        exit_code = stop.exit_code
    failed = [job for job in jobs if job.status == "failed"]
    print(result_table(jobs))
    if exit_code:
        _say("stopped; the same command goes on where it stopped")
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


def _fetch_data(cells: list[Cell]) -> None:
    """Download, render and check the data once, before several processes would do so at the same time."""
    from detector.data.coco8 import DatasetUnavailable
    from detector.data.sources import load_dataset, options_of

    configs = [cell.config for cell in cells]
    how = [options_of(config.data, config.train.seed) for config in configs]
    distinct = {
        (config.data.path, config.data.on_error, *options.values()): (config.data, options)
        for config, options in zip(configs, how, strict=True)
    }
    for data, options in distinct.values():
        try:
            load_dataset(data.path, data.on_error, **options)
        except DatasetUnavailable as error:
            raise UserError(f"{error}\nwithout COCO8: ablations/suites/factorial_shapes.yaml") from error


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)
