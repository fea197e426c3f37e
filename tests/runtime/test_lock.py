"""Two of everything: a folder has one writer, and a killed one leaves nothing that keeps the next from it."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from detector.errors import UserError
from detector.runtime.lock import NAME, FolderLock
from tests.support import ROOT

HOLDER = """
import os, sys, time
from pathlib import Path
from detector.runtime.lock import FolderLock
lock = FolderLock()
lock.acquire(Path(sys.argv[1]))
child = os.fork()  # as a loader process, which outlives its parent for a while
if child == 0:
    print(os.getpid(), flush=True)  # only a child that runs has let go of its parent's lock
    time.sleep(60)
    os._exit(0)
time.sleep(60)
"""


def test_a_folder_has_one_owner_who_is_named(tmp_path: Path) -> None:
    with FolderLock() as first:
        first.acquire(tmp_path)
        for _ in range(2):  # a refusal changes nothing
            with FolderLock() as second, pytest.raises(UserError) as refused:
                second.acquire(tmp_path)
            owner = f"process {os.getpid()} on {socket.gethostname()}, since "
            assert str(refused.value).startswith(f"{tmp_path}: {owner}")
            assert len(str(refused.value).splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
    with FolderLock() as third:
        third.acquire(tmp_path)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="processes are forked")
def test_a_killed_owner_holds_nothing_though_its_children_live(tmp_path: Path) -> None:
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    holder = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(tmp_path)], env=environment, stdout=subprocess.PIPE, text=True
    )
    assert holder.stdout is not None
    child = int(holder.stdout.readline())
    try:
        with FolderLock() as lock, pytest.raises(UserError, match=f"process {holder.pid} on "):
            lock.acquire(tmp_path)
        holder.kill()
        holder.wait()
        os.kill(child, 0)  # is alive
        with FolderLock() as lock:
            lock.acquire(tmp_path)
            assert f"process {os.getpid()} " in (tmp_path / NAME).read_text()
    finally:
        os.kill(child, signal.SIGKILL)
        holder.stdout.close()


@pytest.mark.parametrize("left", [b"process 1 on elsewhere, since 2020-01-01 00:00:00,", b"", b"\xff" * 5000])
def test_what_a_killed_process_left_is_taken_over_whatever_it_names(tmp_path: Path, left: bytes) -> None:
    (tmp_path / NAME).write_bytes(left)
    with FolderLock() as lock:
        lock.acquire(tmp_path)
        assert "elsewhere" not in (tmp_path / NAME).read_text()


@pytest.mark.skipif(not hasattr(os, "O_NOFOLLOW"), reason="links are followed")
def test_a_link_in_place_of_the_lock_is_not_written_through(tmp_path: Path) -> None:
    (tmp_path / "mine").write_text("mine")
    (tmp_path / NAME).symlink_to(tmp_path / "mine")
    with FolderLock() as lock, pytest.raises(OSError, match=NAME):
        lock.acquire(tmp_path)
    assert (tmp_path / "mine").read_text() == "mine"


def test_never_two_at_once_though_the_file_comes_and_goes(tmp_path: Path) -> None:
    inside, most, times = 0, 0, 0

    def work() -> None:
        nonlocal inside, most, times
        for _ in range(200):
            with FolderLock() as lock:
                try:
                    lock.acquire(tmp_path)
                except UserError:
                    continue
                inside += 1
                most = max(most, inside)
                times += 1
                inside -= 1

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert most == 1
    assert times > 0
