"""Freed memory stays with the process."""

import gc
import platform
import subprocess
import sys
from pathlib import Path

import pytest

from detector.runtime.allocator import collect_less_often, gc_paused, leave_garbage
from tests.support import ROOT, environment

# Takes and frees 64 MB in pieces, as a training step does, and counts the pages it had to ask for.
PROGRAM = """
import resource, sys
from detector.runtime.allocator import keep_freed_memory
if sys.argv[1] == "kept":
    keep_freed_memory()
def step():
    pieces = [bytearray(4 << 20) for _ in range(16)]
for _ in range(3):
    step()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(10):
    step()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""

# The same once; what is resident before and after giving it back, in pages.
GIVEN_BACK = """
from pathlib import Path
from detector.runtime.allocator import give_freed_memory_back, keep_freed_memory
resident = lambda: int(Path("/proc/self/statm").read_text().split()[1])
keep_freed_memory()
pieces = [bytearray(b"x") * (4 << 20) for _ in range(16)]
del pieces
before = resident()
give_freed_memory_back()
print(before - resident())
"""


def faults(argument: str) -> int:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, argument], capture_output=True, text=True, check=True
    )
    return int(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_a_step_takes_its_memory_from_the_one_before() -> None:
    assert faults("kept") < 100
    assert faults("as it is") > 1000


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="other C libraries are left alone")
def test_after_the_last_step_it_is_given_back() -> None:
    done = subprocess.run([sys.executable, "-c", GIVEN_BACK], capture_output=True, text=True, check=True)
    assert int(done.stdout) > 10_000  # of 16,384


def test_garbage_is_collected_again_after_an_error_too() -> None:
    with pytest.raises(KeyError), gc_paused():
        assert not gc.isenabled()
        with gc_paused():
            pass
        assert not gc.isenabled()
        raise KeyError
    assert gc.isenabled()


@pytest.mark.parametrize("triton", [True, False])
def test_garbage_is_left_at_the_end_except_where_triton_would_list_it(
    triton: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if triton:
        monkeypatch.setitem(sys.modules, "triton._C.libtriton", gc)  # a module of any kind
    else:
        monkeypatch.delitem(sys.modules, "triton._C.libtriton", raising=False)
    before = gc.get_freeze_count()  # the tests themselves set aside what was imported
    gc.freeze()  # so may a plugin
    try:
        leave_garbage()
        assert (gc.get_freeze_count() == 0) == triton
    finally:
        gc.unfreeze()
        if before:
            gc.freeze()


@pytest.mark.slow
def test_a_command_whose_plugin_imports_torchvision_ends_without_a_word(tmp_path: Path) -> None:
    plugin = tmp_path / "plugin.py"
    plugin.write_text("import torchvision.ops\n")
    command = [sys.executable, "-m", "detector", "info", "--plugin", str(plugin)]
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, check=False, cwd=ROOT, env=environment()
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_what_stays_is_looked_through_less_often() -> None:
    def so_far() -> int:
        return sum(generation["collections"] for generation in gc.get_stats())

    def searches() -> int:
        before = so_far()
        kept = [[] for _ in range(200_000)]
        found = so_far() - before
        assert kept  # until here
        return found

    usual, thresholds = searches(), gc.get_threshold()
    try:
        collect_less_often()
        assert 10 * searches() < usual
    finally:
        gc.set_threshold(*thresholds)
