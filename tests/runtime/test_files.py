"""A file is the old one or the new one, whatever happens in between."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from detector.errors import UserError
from detector.runtime.files import (
    atomic_write,
    new_folder,
    remove_leftovers,
    write_bytes,
    write_text,
)
from tests.support import ROOT


def test_what_is_written_is_there(tmp_path: Path) -> None:
    write_bytes(tmp_path / "a", b"\r\n\x00")
    assert (tmp_path / "a").read_bytes() == b"\r\n\x00"
    write_text(tmp_path / "a", "é\n")
    assert (tmp_path / "a").read_bytes() == "é\n".encode()
    assert os.listdir(tmp_path) == ["a"]


@pytest.mark.parametrize("failing", ["os.fsync", "os.replace"])
def test_an_error_before_the_rename_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failing: str
) -> None:
    write_text(tmp_path / "a", "old")

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(failing, full)
    with pytest.raises(OSError, match="No space"):
        write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_an_error_of_the_writer_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    with pytest.raises(KeyboardInterrupt), atomic_write(tmp_path / "a") as file:
        file.write(b"half")
        raise KeyboardInterrupt
    assert (tmp_path / "a").read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_a_process_killed_between_write_and_rename_leaves_the_old_file(tmp_path: Path) -> None:
    write_text(tmp_path / "a", "old")
    program = (
        "import os, signal, sys; from pathlib import Path; from detector.runtime import files\n"
        "os.replace = lambda *_: os.kill(os.getpid(), signal.SIGKILL)\n"
        "files.write_text(Path(sys.argv[1]), 'new')"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path / "a")], cwd=ROOT, check=False)
    assert done.returncode == -9
    assert (tmp_path / "a").read_text() == "old"
    assert len(os.listdir(tmp_path)) == 2  # nobody was left to delete it
    (tmp_path / ".mine.tmp").touch()
    remove_leftovers(tmp_path)
    assert sorted(os.listdir(tmp_path)) == [".mine.tmp", "a"]
    write_text(tmp_path / "a", "new")
    assert (tmp_path / "a").read_text() == "new"


def test_the_file_is_on_disk_before_it_has_its_name_and_the_folder_after(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[str] = []
    fsync, replace = os.fsync, os.replace

    def flushed(handle: int) -> None:
        calls.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def renamed(*names: Path) -> None:
        calls.append("rename")
        replace(*names)

    monkeypatch.setattr(os, "fsync", flushed)
    monkeypatch.setattr(os, "replace", renamed)
    write_text(tmp_path / "a", "x")
    assert calls == ["file", "rename", "folder"]


@pytest.mark.parametrize(("code", "raised"), [(errno.EINVAL, False), (errno.EIO, True)])
def test_a_folder_that_cannot_be_flushed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, raised: bool
) -> None:
    def fsync(handle: int) -> None:
        if stat.S_ISDIR(os.fstat(handle).st_mode):
            raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fsync)
    if raised:
        with pytest.raises(OSError, match="Input/output"):
            write_text(tmp_path / "a", "x")
    else:
        write_text(tmp_path / "a", "x")
    assert (tmp_path / "a").read_text() == "x"


@pytest.mark.parametrize(("mask", "mode"), [(0o022, 0o644), (0o077, 0o600), (0o002, 0o664)])
def test_a_new_file_follows_the_umask(tmp_path: Path, mask: int, mode: int) -> None:
    before = os.umask(mask)
    try:
        write_text(tmp_path / "a", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == mode


def test_a_read_only_folder_is_the_systems_error(tmp_path: Path) -> None:
    folder = tmp_path
    if os.geteuid() == 0:  # to whom permissions do not apply
        folder = Path("/proc")
    tmp_path.chmod(0o555)
    try:
        with pytest.raises(OSError) as caught:
            write_text(folder / "a", "x")
        assert caught.value.filename == str(folder / "a")  # not the temporary file beside it
    finally:
        tmp_path.chmod(0o755)


def test_a_missing_folder_is_the_systems_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        write_text(tmp_path / "none" / "a", "x")


def test_a_new_folder_is_never_one_that_holds_something(tmp_path: Path) -> None:
    empty = tmp_path / "empty"
    empty.mkdir()
    assert new_folder(empty, "unused", "--out") == empty
    (empty / "a").touch()
    with pytest.raises(UserError, match=r"--out .*empty: is not empty, and nothing is overwritten"):
        new_folder(empty, "unused", "--out")
    with pytest.raises(UserError, match=r"--out .*/a: this folder cannot be made: File exists"):
        new_folder(empty / "a", "unused", "--out")


def test_many_at_once_make_a_folder_each(tmp_path: Path) -> None:
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: new_folder(None, str(tmp_path / "runs/val"), "--out"), range(24)))
    assert len(set(made)) == 24 and all(folder.is_dir() for folder in made)


def test_a_relative_cache_folder_is_ignored_as_its_specification_says(tmp_path: Path) -> None:
    """https://specifications.freedesktop.org/basedir-spec: such a path is invalid."""
    code = "from detector.runtime.files import CACHE; print(CACHE)"
    for caches, expected in (("caches", ".cache"), (str(tmp_path / "mine"), "mine"), ("", ".cache")):
        env = os.environ | {"XDG_CACHE_HOME": caches, "HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
        command = [sys.executable, "-c", code]
        done = subprocess.run(command, cwd=tmp_path, env=env, capture_output=True, text=True)
        assert done.stdout.strip() == str(tmp_path / expected / "gradient-detector"), done.stderr
