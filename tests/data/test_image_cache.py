"""Images kept on disk are those that decoding gives, whatever happens to the file between."""

from __future__ import annotations

import errno
import logging
import multiprocessing
import os
import pickle
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal

import cv2
import numpy as np
import pytest

from detector.config.schema import DataConfig
from detector.data import geometry, image_cache
from detector.data.dataset import Item
from detector.data.geometry import letterbox
from detector.data.image_cache import ImageCache
from detector.data.images import read_image
from detector.data.loader import Loader
from detector.runtime.array_cache import UNUSED_DAYS

SIZE = 64


@pytest.fixture
def images(tmp_path: Path) -> list[Path]:
    rng = np.random.default_rng(0)
    paths = [tmp_path / f"{number}.png" for number in range(4)]
    for number, path in enumerate(paths):
        cv2.imwrite(str(path), rng.integers(0, 256, (40 + number, 70, 3), dtype=np.uint8))
    return paths


def fill(cache: ImageCache, images: list[Path]) -> None:
    for number, path in enumerate(images):
        cache.put(number, *letterbox(read_image(path), SIZE))


def same(cache: ImageCache, images: list[Path]) -> list[bool]:
    """Which images are there and as decoding gives them; one that is there must be."""
    found = []
    for number, path in enumerate(images):
        kept, (image, box) = cache.get(number), letterbox(read_image(path), SIZE)
        assert kept is None or (np.array_equal(kept[0], image) and kept[1] == box)
        found.append(kept is not None)
    return found


def test_what_is_kept_comes_back_in_another_process_s_cache_too(images: list[Path], tmp_path: Path) -> None:
    first = ImageCache(images, SIZE, tmp_path / "cache")
    assert same(first, images) == [False] * 4
    fill(first, images[:3])
    second: ImageCache = pickle.loads(pickle.dumps(first))  # as a process that is not forked gets it
    assert same(second, images) == same(first, images) == [True, True, True, False]
    assert same(ImageCache(images, 2 * SIZE, tmp_path / "cache"), []) == []
    assert len(list((tmp_path / "cache").iterdir())) == 2  # a size has its own


def test_a_changed_picture_is_another_one(images: list[Path], tmp_path: Path) -> None:
    fill(ImageCache(images, SIZE, tmp_path / "cache"), images)
    status = images[0].stat()
    other = np.zeros((40, 70, 3), np.uint8)
    cv2.imwrite(str(images[0]), other)
    images[0].write_bytes(images[0].read_bytes().ljust(status.st_size, b"\0"))  # of the same size, and as old
    os.utime(images[0], ns=(status.st_atime_ns, status.st_mtime_ns))
    assert same(ImageCache(images, SIZE, tmp_path / "cache"), images) == [False] * 4


def test_what_other_code_decoded_is_not_taken(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fill(ImageCache(images, SIZE, tmp_path / "cache"), images)
    assert same(ImageCache(images, SIZE, tmp_path / "cache"), images) == [True] * 4
    other = tmp_path / "geometry.py"
    other.write_text("another version")
    monkeypatch.setattr(geometry, "__file__", str(other))
    monkeypatch.setattr(image_cache, "_decoder", image_cache._decoder.__wrapped__)
    assert same(ImageCache(images, SIZE, tmp_path / "cache"), images) == [False] * 4


@pytest.mark.parametrize("damage", ["torn", "zeros", "short"])
def test_what_a_power_cut_leaves_is_not_taken_for_an_image(
    images: list[Path], tmp_path: Path, damage: str
) -> None:
    fill(ImageCache(images, SIZE, tmp_path / "cache"), images)
    (file,) = (tmp_path / "cache").iterdir()
    content = bytearray(file.read_bytes())
    slot = len(content) // 4
    if damage == "torn":
        content[slot + 5000 : slot + 9096] = bytes(4096)
    elif damage == "zeros":
        content[slot : 2 * slot] = bytes(slot)
    else:
        del content[2 * slot - 100 :]
    file.write_bytes(content)
    left = [True, False, True, True] if damage != "short" else [True, False, False, False]
    cache = ImageCache(images, SIZE, tmp_path / "cache")
    assert same(cache, images) == left
    fill(cache, images)
    assert all(same(cache, images))


def test_a_full_disk_costs_the_cache_and_nothing_else(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    cache = ImageCache(images, SIZE, tmp_path / "cache")
    fill(cache, images[:1])
    monkeypatch.setattr(os, "pwritev", full)
    with caplog.at_level(logging.WARNING):
        fill(cache, images)
    assert [record.getMessage() for record in caplog.records] == [
        "data.cache: No space left on device: the images that are not there yet are decoded anew"
    ]
    assert same(cache, images) == [True, False, False, False]


def test_without_room_none_is_begun(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr("detector.data.image_cache.LEAVE_FREE", 0.0)
    cache = ImageCache(images, SIZE, tmp_path / "cache")
    fill(cache, images)
    assert same(cache, images) == [False] * 4
    assert list((tmp_path / "cache").iterdir()) == []
    assert "has room for 0.0 GB" in caplog.text and "nothing more is kept" in caplog.text
    (tmp_path / "file").write_text("")
    assert same(ImageCache(images, SIZE, tmp_path / "file"), images) == [False] * 4  # no folder can be there


def test_a_file_that_was_begun_counts_with_what_it_still_needs(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Four images take 4 x 12,304 bytes, which are 12 and more blocks of 4096; one of them is there."""
    folder = tmp_path / "cache"
    fill(ImageCache(images, SIZE, folder), images[:1])
    (file,) = folder.iterdir()
    os.sync()
    left = 4 * (16 + SIZE * SIZE * 3) - file.stat().st_blocks * 512
    for free, more in ((2 * left, True), (2 * left - 2, False)):
        monkeypatch.setattr("detector.data.image_cache.shutil.disk_usage",
                            lambda _, free=free: SimpleNamespace(free=free))  # fmt: skip
        cache = ImageCache(images, SIZE, folder)
        assert same(cache, images) == [True, False, False, False]
        assert ("nothing more is kept" in caplog.text) is not more
    fill(cache, images)
    assert same(cache, images) == [True, False, False, False]  # what is there is used, and not added to
    assert same(pickle.loads(pickle.dumps(cache)), images) == [True, False, False, False]


def test_a_process_that_is_not_forked_takes_the_same_file_whatever_became_of_the_images(
    images: list[Path], tmp_path: Path
) -> None:
    first = ImageCache(images, SIZE, tmp_path / "cache")
    fill(first, images)
    wanted = first.get(0)
    images[0].unlink()
    images[1].touch()
    second: ImageCache = pickle.loads(pickle.dumps(first))
    found = second.get(0)
    assert wanted is not None and found is not None and np.array_equal(found[0], wanted[0])
    assert len(list((tmp_path / "cache").iterdir())) == 1


def test_a_file_system_without_locks_has_a_cache_too(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unsupported(*_: object) -> None:
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr("detector.data.image_cache.fcntl.flock", unsupported)
    cache = ImageCache(images, SIZE, tmp_path / "cache")
    fill(cache, images)
    assert all(same(cache, images))


def test_an_image_that_is_gone_costs_the_cache_and_nothing_else(
    images: list[Path], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    missing = [*images, tmp_path / "gone.png"]  # whoever decodes it says so, by its name
    assert ImageCache(missing, SIZE, tmp_path / "cache").get(0) is None
    assert "gone.png: No such file or directory: images are decoded anew" in caplog.text


def test_what_nobody_used_for_long_goes_unless_somebody_is_using_it(
    images: list[Path], tmp_path: Path
) -> None:
    folder = tmp_path / "cache"
    old, used = (ImageCache(images, size, folder) for size in (SIZE, 2 * SIZE))
    fill(old, images)
    used.put(0, *letterbox(read_image(images[0]), 2 * SIZE))
    (folder / "mine.txt").write_text("mine")
    for file in folder.iterdir():
        os.utime(file, (0, time.time() - (UNUSED_DAYS + 1) * 86_400))
    old.close()
    ImageCache(images, 4 * SIZE, folder)
    left = {file.name for file in folder.iterdir()}
    assert len(left) == 3 and "mine.txt" in left
    assert ImageCache(images, 2 * SIZE, folder).get(0) is not None
    assert ImageCache(images, SIZE, folder).get(0) is None


def _fill_in_a_process(images: list[Path], folder: Path) -> None:
    cache = ImageCache(images, SIZE, folder)
    for _ in range(20):
        fill(cache, images)
        assert all(same(cache, images))


def test_two_processes_fill_one_cache(images: list[Path], tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    processes = [context.Process(target=_fill_in_a_process, args=(images, tmp_path / "c")) for _ in range(2)]
    for process in processes:
        process.start()
    for process in processes:
        process.join()
    assert [process.exitcode for process in processes] == [0, 0]
    assert all(same(ImageCache(images, SIZE, tmp_path / "c"), images))


def test_where_memory_is_too_small_training_images_are_kept_on_disk(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four images of 64 x 64 x 3 bytes take 49,152 bytes: three quarters of 65,536, and a quarter of 196,608.

    Two processes would each keep their own in memory, but share the file. A single evaluation leaves nothing.
    """
    monkeypatch.setattr("detector.data.image_cache.FOLDER", tmp_path / "cache")
    items = [Item(path, np.zeros(1, np.int64), np.full((1, 4), 0.5, np.float32)) for path in images]
    files = []
    for available, copies in ((65_535, 1), (196_608, 1), (65_536, 1), (196_608, 2)):
        monkeypatch.setattr("detector.data.samples.free_memory", lambda available=available: available)
        loader = Loader(items, DataConfig(image_size=SIZE, mosaic=1.0), copies=copies)
        assert len(list(loader.eval_batches(batch=4))) == 1 and not list(tmp_path.glob("cache/*"))
        assert len(list(loader.train_batches(batch=4, seed=0, stop=3))) == 3
        files.append([file.unlink() for file in tmp_path.glob("cache/*")])
    assert [len(found) for found in files] == [0, 0, 1, 1]


@pytest.mark.parametrize("workers", [0, 2])
def test_batches_are_the_same_bit_for_bit(
    images: list[Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    monkeypatch.setattr("detector.data.image_cache.FOLDER", tmp_path / "cache")
    box = np.array([[0.5, 0.5, 0.4, 0.4]], np.float32)
    items = [Item(path, np.zeros(1, np.int64), box) for path in images]
    kept: tuple[bool | Literal["disk"], ...] = (False, True, "disk", "disk")  # the second time it is read
    loaders = [Loader(items, DataConfig(image_size=SIZE, cache=cache, mosaic=1.0)) for cache in kept]
    seen = [
        [batch.images for batch in loader.train_batches(batch=2, seed=1, stop=4, workers=workers)]
        for loader in loaders
    ]
    for batches in seen[1:]:
        assert all(np.array_equal(a, b) for a, b in zip(batches, seen[0], strict=True))
    assert len(list((tmp_path / "cache").iterdir())) == 1
