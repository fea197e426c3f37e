"""An environment that is broken in one of the ways that machines are: one line, or nothing at all."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from detector.errors import UserError
from detector.runtime.launch import Launch
from detector.runtime.process import main_process
from tests.support import ROOT, environment

TORCHRUN = {"RANK": "0", "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": "29500"}
LOADER = """
import multiprocessing
import sys
import torch
from torch.utils.data import DataLoader, default_collate
from detector.errors import InterruptedRunError
from detector.runtime.workers import iterate_with_timeout, start_worker
torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL = 0.5  # for how long processes that end are waited for
data = [torch.zeros(100_000)] * 4

def load(collate):
    loader = DataLoader(data, num_workers=1, worker_init_fn=start_worker, collate_fn=collate)
    try:
        list(iterate_with_timeout(loader, 300))
    except InterruptedRunError as error:
        print(error)

for collate in (tuple, default_collate):  # each in a process of its own, none of which imports PyTorch again
    process = multiprocessing.get_context("fork").Process(target=load, args=(collate,))
    process.start()
    process.join()
    assert process.exitcode == 0
"""


def program(*command: str, **variables: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command, env=environment() | {"PYTHONPATH": str(ROOT)} | variables,
        capture_output=True, text=True, timeout=120, check=False,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("RANK", "x"), ("RANK", "-1"), ("RANK", "2"), ("RANK", ""), ("RANK", "1.0"), ("RANK", "²"),
        ("RANK", "9" * 5000), ("WORLD_SIZE", "0"), ("WORLD_SIZE", "two"), ("MASTER_PORT", "http"),
        ("MASTER_PORT", "70000"), ("LOCAL_RANK", "2"), ("LOCAL_WORLD_SIZE", "3"),
    ],
)  # fmt: skip
def test_a_rank_that_is_no_number(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for key, text in (TORCHRUN | {name: value}).items():
        monkeypatch.setenv(key, text)
    with pytest.raises(UserError, match=f"^{name}="):
        Launch.from_environment()
    assert main_process(lambda: 0) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"error: {name}=")


def test_what_torchrun_sets_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    for key, text in (TORCHRUN | {"RANK": "1", "LOCAL_RANK": "0", "LOCAL_WORLD_SIZE": "1"}).items():
        monkeypatch.setenv(key, text)
    launch = Launch.from_environment()
    assert (launch.rank, launch.world_size, launch.local_rank, launch.local_world_size) == (1, 2, 0, 1)
    assert launch.address == ("localhost", 29500)


@pytest.mark.slow
def test_an_unknown_backend_of_matplotlib_is_ignored() -> None:
    draw = "sys.argv = ['detector', '--version']; main(); import matplotlib.figure; print('drawn')"
    done = program(
        sys.executable, "-c", f"import sys; from detector.cli import main; {draw}", MPLBACKEND="x11"
    )
    assert (done.returncode, done.stderr, done.stdout.splitlines()[-1]) == (0, "", "drawn")


@pytest.mark.slow
def test_a_dev_shm_that_is_too_small() -> None:
    """A real one of 256 kB, for a batch of 400 kB, put there when it is sent or, as ours, when it is made."""
    script = 'mount -t tmpfs -o size=256k none /dev/shm || exit 77; exec "$0" -c "$1"'
    try:
        done = program("unshare", "--mount", "sh", "-c", script, sys.executable, LOADER)
    except FileNotFoundError:
        pytest.skip("there is no unshare here")
    if done.returncode in (1, 77) and not done.stdout and os.getuid() != 0:
        pytest.skip("a file system can be mounted by root only")
    assert done.returncode == 0, done.stderr
    assert "Traceback" not in done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "a batch did not fit into shared memory: enlarge /dev/shm" in line
