"""Ctrl-C at any time, and as often as fingers hit it: one line, exit code 130, no traceback."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from detector.runtime import interrupts
from detector.runtime.failures import checkpoint_on_error
from detector.runtime.process import main_process
from detector.runtime.signals import StopRequest
from tests.support import ROOT, environment

# Runs a program, pressing Ctrl-C so many times as soon as it looks for a certain module.
WRAPPER = """
import os, runpy, signal, sys
program, module, times, *arguments = sys.argv[1:]
signal.signal(signal.SIGINT, signal.default_int_handler)  # the tests may run in the background
class Press:
    def find_spec(self, name, path=None, target=None):
        if name == module:
            for _ in range(int(times)):
                os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Press())
sys.argv = [program, *arguments]
run = runpy.run_path if program.endswith(".py") else runpy.run_module
run(program, run_name="__main__")
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    "program, module",
    [
        *(("train.py", module) for module in ("cyclopts", "pydantic", "torch", "torch._C")),
        *(("detector.jobs.stack_process", module) for module in ("pydantic", "torch")),
    ],
)
@pytest.mark.parametrize("times", [1, 5])
def test_while_it_starts(program: str, module: str, times: int) -> None:
    process = subprocess.run(
        [sys.executable, "-c", WRAPPER, program, module, str(times), "train.steps=1"],
        cwd=ROOT, env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stdout, process.stderr) == (130, "", "interrupted\n")


@pytest.fixture
def handled(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """As in a process that began with `handle_interrupts`."""
    monkeypatch.setattr(interrupts, "_raised", -interrupts._BURST)
    monkeypatch.setattr(interrupts, "_over", False)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        interrupts.handle_interrupts()
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def press(times: int) -> None:
    for _ in range(times):
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(0.001)  # where the handler is called


@pytest.mark.parametrize("polite", [False, True])
@pytest.mark.usefixtures("handled")
def test_five_in_a_row_do_not_break_the_cleaning_up(polite: bool, capsys: pytest.CaptureFixture[str]) -> None:
    cleaned = []

    def body() -> int:
        try:
            if polite:
                with StopRequest():
                    press(5)
            press(5)
        finally:
            press(3)
            cleaned.append(True)
        return 0

    assert main_process(body) == 130
    press(3)
    assert cleaned == [True]
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.usefixtures("handled")
def test_it_says_how_to_resume_where_there_is_something_to_resume(
    saved: bool, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Also before the first step, where nothing but the checkpoint of the start is there."""
    last = tmp_path / "last.pt"

    def body() -> int:
        with checkpoint_on_error(list, last, "python train.py --resume runs/mine", "less"):
            if saved:
                last.touch()
            press(1)
        return 0

    assert main_process(body) == 130
    hint = "; resume with: python train.py --resume runs/mine" if saved else ""
    assert capsys.readouterr().err == f"interrupted{hint}\n"


@pytest.mark.slow
@pytest.mark.parametrize("where", ["main", "thread"])
def test_within_an_import_too(where: str) -> None:
    """It ends the process there and then, with the same line; other threads' runs are not its own."""
    code = """
        import os, signal, sys, threading
        from detector.runtime import interrupts
        signal.signal(signal.SIGINT, signal.default_int_handler)
        interrupts.handle_interrupts()
        class Press:
            def find_spec(self, name, path=None, target=None):
                os.kill(os.getpid(), signal.SIGINT)
        def body():
            with interrupts.resumable(lambda: "COMMAND"):
                entered.set()
                if sys.argv[1] == "main":
                    import nowhere
                left.wait()
        entered, left = threading.Event(), threading.Event()
        sys.meta_path.insert(0, Press())
        if sys.argv[1] == "main":
            body()
        threading.Thread(target=body, daemon=True).start()
        entered.wait()
        import nowhere
    """
    process = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code), where], env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    hint = "; resume with: COMMAND" if where == "main" else ""
    assert (process.returncode, process.stderr) == (130, f"interrupted{hint}\n")


@pytest.mark.usefixtures("handled")
def test_a_later_one_breaks_off_a_cleaning_up_that_hangs(monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KeyboardInterrupt):
        press(1)
    monkeypatch.setattr(interrupts, "_BURST", 0.0)
    with pytest.raises(KeyboardInterrupt):
        press(1)


def test_ctrl_c_that_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        interrupts.handle_interrupts()
        press(1)
    finally:
        signal.signal(signal.SIGINT, before)


@pytest.mark.slow
@pytest.mark.parametrize("times", [1, 5])
def test_while_it_ends(times: int) -> None:
    code = (
        "import atexit, os, signal, sys; from detector.cli import main\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"atexit.register(lambda: [os.kill(os.getpid(), signal.SIGINT) for _ in range({times})])\n"
        "sys.exit(main())"
    )
    process = subprocess.run(
        [sys.executable, "-c", code, "--version"], env=environment() | {"PYTHONPATH": str(ROOT)},
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (process.returncode, process.stderr) == (130, "interrupted\n")
    assert process.stdout.startswith("detector ")
