"""Several runs in this process, where they train together: see `detector.training.stack`."""

from __future__ import annotations

import sys
import threading
import traceback
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

from detector.config.loading import load_config
from detector.errors import UserError
from detector.fit import fit
from detector.jobs.runner import LOG
from detector.jobs.stacked import why_not
from detector.rundir import RunDir
from detector.runtime.process import main_process
from detector.runtime.signals import StopRequest
from detector.training.stack import Member, Stack


def train_together(runs: dict[Path, list[str]]) -> int:
    """Train runs that differ in their seed alone, each in a thread of its own that prints to its own log.

    Args:
        runs: what `train.py` would be called with for each directory.

    Returns:
        The exit code: that of the signal, or the highest of the runs'.
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
                try:
                    codes[directory] = main_process(lambda: _fit(member, call))
                except BaseException:
                    traceback.print_exc()
        finally:
            member.stack.leave(member)


def _fit(member: Member, call: list[str]) -> int:
    option, place, *overrides = call
    resume = Path(place) if option == "--resume" else None
    loaded = RunDir(resume).read_config() if resume else load_config(Path(place), overrides)
    if unfit := why_not(loaded.config):  # a run that is resumed has its own configuration
        raise UserError(f"{place}: {unfit[0]}: train it without --stack")
    return fit(loaded, resume=resume, loop=member.train).exit_code
