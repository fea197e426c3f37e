"""A stack's process: `python -m detector.jobs.stack_process PLUGINS RUN…`, as `StackedProcesses` calls it.

PLUGINS is a JSON list of files, each RUN one of its directory and the arguments that `train.py` would get.
"""

from __future__ import annotations

import json
import sys
import threading
import traceback
from collections.abc import Sequence
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from detector.config.loading import load_config
from detector.fit import fit
from detector.jobs.runner import LOG
from detector.registry import load_plugins
from detector.rundir import RunDir
from detector.runtime.interrupts import handle_interrupts
from detector.runtime.process import main_process
from detector.runtime.signals import StopRequest
from detector.training.stack import Member, Stack


def main(arguments: Sequence[str]) -> int:
    """Train the runs together; return the exit code: that of the signal, or the highest of the runs'."""
    plugins, *runs = map(json.loads, arguments)
    load_plugins([Path(file) for file in plugins])
    return train_together({Path(directory): call for directory, *call in runs})


def train_together(runs: dict[Path, list[str]]) -> int:
    """Train runs that differ in their seed alone, each in a thread of its own that prints to its own log.

    Args:
        runs: what `train.py` would be called with for each directory.

    Returns:
        As `main`.
    """
    stack, codes = Stack(), dict[Path, int]()
    threads = [
        threading.Thread(target=_train, args=(stack.member(), directory, call, codes), daemon=True)
        for directory, call in runs.items()
    ]
    with StopRequest() as stop:
        for thread in threads:
            thread.start()
        for thread in threads:
            while thread.is_alive():  # without a timeout no signal would be seen
                thread.join(0.2)
    return stop.exit_code or max(codes.values())


def _train(member: Member, directory: Path, call: list[str], codes: dict[Path, int]) -> None:
    with member.stack.turns:
        codes[directory] = 1
        try:
            # W&B's thread may print to it after the run: the end of the process closes it.
            log = (directory / LOG).open("a", encoding="utf-8", buffering=1)
            with redirect_stdout(log), redirect_stderr(log):
                sys.argv = ["train.py", *call]  # what the summary says was run: it is the same by itself
                codes[directory] = main_process(lambda: _fit(member, call))
        except BaseException:
            traceback.print_exc()
        finally:
            member.stack.leave(member)


def _fit(member: Member, call: list[str]) -> int:
    option, place, *overrides = call
    if option == "--resume":
        loaded, resume = RunDir(Path(place)).read_config(), Path(place)
        return fit(loaded, resume=resume, loop=member.train).exit_code
    return fit(load_config(Path(place), overrides), loop=member.train).exit_code


if __name__ == "__main__":
    handle_interrupts()
    sys.exit(main_process(lambda: main(sys.argv[1:])))
