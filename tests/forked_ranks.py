"""The processes that `torchrun` starts, forked from it as it was forked itself: none imports PyTorch again.

Without a fork they are tested, too: see `test_two_processes_two_machines_and_one_give_the_same_run`.
"""

from __future__ import annotations

import atexit
import os
import runpy
import signal
import subprocess
import sys
import time
import traceback
from collections.abc import Sequence

from torch.distributed.elastic.multiprocessing.subprocess_handler.subprocess_handler import SubprocessHandler


class ForkedRank:
    """A process as `subprocess.Popen` would show it."""

    def __init__(self, args: Sequence[str], env: dict[str, str]) -> None:
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        self.pid = os.fork()
        if self.pid == 0:
            become(args[args.index("-u") + 1 :], env)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float) -> int:
        deadline = time.monotonic() + timeout
        while (code := self.poll()) is None:
            if time.monotonic() > deadline:
                raise subprocess.TimeoutExpired("a forked rank", timeout)
            time.sleep(0.01)
        return code


def become(arguments: Sequence[str], env: dict[str, str]) -> None:
    """Be the program with these arguments, in a new session and with the signals of a new process."""
    code: object = 1
    try:
        os.setsid()
        for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT):
            signal.signal(number, signal.SIG_DFL)
        signal.signal(signal.SIGINT, signal.default_int_handler)
        os.closerange(3, 1024)  # torchrun's own, such as the socket that all processes meet at
        os.environ.clear()
        os.environ.update(env)
        module = arguments[0] == "-m"
        sys.argv = list(arguments[module:])
        if module:
            runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)
        else:
            runpy.run_path(sys.argv[0], run_name="__main__")
        code = 0
    except SystemExit as end:
        code = end.code or 0
    except BaseException:
        traceback.print_exc()
    # Not as Python ends: it would wait for threads of torchrun, which were not forked.
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code if isinstance(code, int) else 1)


def fork_ranks() -> None:
    """From here on."""
    SubprocessHandler._popen = lambda self, args, env: ForkedRank(args, env)  # type: ignore[assignment,return-value]
