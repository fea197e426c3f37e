"""Arrays in the cache folder: what comes back, and what goes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import numpy as np
import pytest

from detector.runtime import array_cache


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(array_cache, "FOLDER", tmp_path / "scans")
    return tmp_path / "scans"


def test_what_was_saved_is_loaded(folder: Path) -> None:
    arrays = {"a": np.arange(6).reshape(2, 3), "b": np.zeros((0, 4), np.float32), "c": np.array([True])}
    assert array_cache.load("one") is None
    array_cache.save("one", arrays)
    found = array_cache.load("one")
    assert found is not None and found.keys() == arrays.keys()
    assert all(found[key].dtype == arrays[key].dtype for key in arrays)
    assert all(np.array_equal(found[key], arrays[key]) for key in arrays)
    assert array_cache.load("two") is None
    assert folder.stat().st_mode & 0o077 == 0  # its paths and labels are nobody else's business


def test_what_nobody_used_for_long_goes_when_another_is_saved(folder: Path) -> None:
    long_ago = time.time() - (array_cache.UNUSED_DAYS + 1) * 86_400
    for name in ("old", "used"):
        array_cache.save(name, {"a": np.arange(3)})
    (folder / "mine.txt").write_text("mine")
    (folder / ".old.npz.01234567.tmp").write_text("of a write that was killed")
    for path in folder.iterdir():
        os.utime(path, (long_ago, long_ago))
    array_cache.load("used")
    array_cache.save("new", {"a": np.arange(3)})
    assert sorted(path.name for path in folder.iterdir()) == ["mine.txt", "new.npz", "used.npz"]


def test_it_may_be_for_reading_only(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    array_cache.save("one", {"a": np.arange(3)})

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "utime", refuse)
    assert array_cache.load("one") is not None
    monkeypatch.setattr(array_cache, "atomic_write", refuse)
    array_cache.save("two", {"a": np.arange(3)})
    assert array_cache.load("two") is None
