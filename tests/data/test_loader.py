"""Batches: their content, and an order that depends on the seed and on nothing else."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from multiprocessing.reduction import ForkingPickler
from pathlib import Path
from typing import Any
from unittest.mock import Mock, call

import numpy as np
import pytest
import torch

from detector.config.schema import DataConfig
from detector.data import loader as loader_module
from detector.data import samples as samples_module
from detector.data.batch import Batch, collate
from detector.data.dataset import Item
from detector.data.geometry import letterbox
from detector.data.images import read_image
from detector.data.loader import Loader
from detector.data.sampler import batches_per_epoch
from detector.errors import UserError

AUGMENTED = {"fliplr": 0.5, "translate": 0.2, "scale": 0.4}


@pytest.fixture
def items(tmp_path: Path, encode: Callable[..., bytes]) -> list[Item]:
    """Seven pictures of 40 x 20; number i has i boxes of class i."""
    found = []
    for index in range(7):
        path = tmp_path / f"{index}.png"
        path.write_bytes(encode(index, 40, 20, ".png"))
        boxes = np.tile(np.array([[0.5, 0.5, 0.5, 0.5]], np.float32), (index, 1))
        found.append(Item(path, np.full(index, index, np.int64), boxes))
    return found


def config(**changes: Any) -> DataConfig:
    return DataConfig(image_size=32, **changes)


def same(one: Batch, two: Batch) -> bool:
    """Whether two batches are equal to the last bit."""
    tensors = ("images", "batch_idx", "cls", "boxes")
    return one.indices == two.indices and all(torch.equal(getattr(one, t), getattr(two, t)) for t in tensors)


def test_a_batch_by_hand(items: list[Item]) -> None:
    (batch,) = Loader(items[:3], config()).eval_batches(batch=8)
    assert batch.indices == (0, 1, 2)
    assert batch.images.shape == (3, 3, 32, 32) and batch.images.dtype == torch.uint8
    assert batch.images.is_contiguous(memory_format=torch.channels_last)
    expected, box = letterbox(read_image(items[1].image), 32)
    np.testing.assert_array_equal(batch.images[1].permute(1, 2, 0).numpy(), expected)
    assert batch.letterboxes == (box,) * 3
    assert batch.batch_idx.tolist() == [1, 2, 2] and batch.cls.tolist() == [1, 2, 2]
    # 40 x 20 in 32 x 32: as wide as the square, half as high.
    assert batch.boxes.tolist() == [[0.5, 0.5, 0.5, 0.25]] * 3
    assert {tensor.dtype for tensor in (batch.batch_idx, batch.cls, batch.boxes)} == {torch.float32}
    targets = batch.targets()
    assert list(targets) == ["batch_idx", "cls", "bboxes"] and targets["bboxes"] is batch.boxes


def test_a_batch_of_backgrounds(items: list[Item]) -> None:
    (batch,) = Loader(items[:1], config(**AUGMENTED)).train_batches(batch=2, seed=0, start=0, stop=1)
    assert batch.boxes.shape == (0, 4) and batch.cls.shape == batch.batch_idx.shape == (0,)


def test_to_a_device(items: list[Item]) -> None:
    (batch,) = Loader(items[:2], config()).eval_batches(batch=2)
    moved = batch.to("meta")
    assert moved.images.device.type == "meta" and moved.indices == (0, 1)
    assert moved.images.shape == batch.images.shape
    for name, part in batch.targets().items():
        there = moved.targets()[name]
        assert (there.device.type, there.shape, there.dtype) == ("meta", part.shape, part.dtype), name


@pytest.mark.parametrize("device, later", [("cuda:0", True), ("cpu", False)])
def test_only_a_gpu_copies_while_the_cpu_goes_on(device: str, later: bool) -> None:
    part = Mock()
    Batch(part, part, part, part, (), ()).to(device)
    assert part.to.call_args_list == [call(device, non_blocking=later)] * 4


@pytest.mark.parametrize("size", [3, 0])
def test_a_batch_comes_whole_from_another_process(items: list[Item], size: int) -> None:
    loader = Loader(items[:3], config())
    (batch,) = loader.eval_batches(batch=3) if size else [collate([], 32)]
    assert isinstance(batch, Batch)
    received = ForkingPickler.loads(ForkingPickler.dumps(batch))
    assert same(received, batch) and received.letterboxes == batch.letterboxes
    assert received.images.stride() == batch.images.stride() and len(received.indices) == size
    received.boxes.zero_()  # its own memory, which may be written to


@pytest.mark.cuda  # page-locked memory
def test_pinned(items: list[Item]) -> None:
    (batch,) = Loader(items[:2], config()).eval_batches(batch=2, pin=True)
    assert batch.images.is_pinned() and batch.boxes.is_pinned()


@pytest.mark.parametrize(("images", "batch", "expected"), [(7, 3, 3), (6, 3, 2), (1, 4, 1), (4, 4, 1)])
def test_batches_per_epoch(images: int, batch: int, expected: int) -> None:
    assert batches_per_epoch(images, batch) == expected


def test_an_epoch_shows_every_image_once_in_a_new_order(items: list[Item]) -> None:
    loader = Loader(items, config())
    assert loader.batches_per_epoch(3) == 3 and len(loader) == 7
    batches = list(loader.train_batches(batch=3, seed=0, start=0, stop=30))
    assert [len(batch.indices) for batch in batches] == [3, 3, 1] * 10
    epochs = [sum((batch.indices for batch in batches[e : e + 3]), ()) for e in range(0, 30, 3)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert len(set(epochs)) > 5


def test_fewer_images_than_a_batch(items: list[Item]) -> None:
    batches = list(Loader(items[:3], config()).train_batches(batch=8, seed=0, start=0, stop=5))
    assert [sorted(batch.indices) for batch in batches] == [[0, 1, 2]] * 5


def test_evaluation_is_in_order(items: list[Item]) -> None:
    batches = list(Loader(items, config(**AUGMENTED)).eval_batches(batch=3))
    assert [batch.indices for batch in batches] == [(0, 1, 2), (3, 4, 5), (6,)]
    plain = list(Loader(items, config(cache=False)).eval_batches(batch=3))
    assert all(map(same, batches, plain))


@pytest.mark.parametrize("start", [1, 3, 5, 100])
def test_resuming_is_exact(items: list[Item], start: int) -> None:
    loader = Loader(items, config(**AUGMENTED))
    whole = list(loader.train_batches(batch=3, seed=5, start=0, stop=start + 4))
    resumed = list(loader.train_batches(batch=3, seed=5, start=start, stop=start + 4))
    assert len(resumed) == 4 and all(map(same, whole[start:], resumed))


@pytest.mark.slow
@pytest.mark.parametrize("cache", [True, False])
def test_workers_change_nothing(items: list[Item], cache: bool) -> None:
    one = Loader(items, config(**AUGMENTED, cache=True, workers=0))
    two = Loader(items, config(**AUGMENTED, cache=cache, workers=2))
    pairs = list(zip(one.train_batches(batch=2, seed=3, start=2, stop=11),
                     two.train_batches(batch=2, seed=3, start=2, stop=11), strict=True))  # fmt: skip
    assert len(pairs) == 9 and all(same(first, second) for first, second in pairs)


def test_the_global_random_state_is_neither_read_nor_written(items: list[Item]) -> None:
    def run() -> list[Batch]:
        return list(Loader(items, config(**AUGMENTED)).train_batches(batch=4, seed=0, start=0, stop=4))

    torch.manual_seed(0)
    first = run()
    torch.manual_seed(1)
    state = torch.get_rng_state()
    second = run()
    assert all(map(same, first, second))
    assert torch.equal(torch.get_rng_state(), state)


def test_seed_and_epoch_change_the_augmentation(items: list[Item]) -> None:
    loader = Loader(items[:1], config(**AUGMENTED))
    first, second = loader.train_batches(batch=1, seed=0, start=0, stop=2)
    (other,) = loader.train_batches(batch=1, seed=1, start=0, stop=1)
    assert not torch.equal(first.images, second.images)
    assert not torch.equal(first.images, other.images)


def test_different_images_of_an_epoch_are_augmented_differently(items: list[Item]) -> None:
    twins = [items[1], items[1]]
    (batch,) = Loader(twins, config(**AUGMENTED)).train_batches(batch=2, seed=0, start=0, stop=1)
    assert not torch.equal(batch.images[0], batch.images[1])


def test_an_endless_sequence(items: list[Item]) -> None:
    batches = Loader(items, config()).train_batches(batch=4, seed=0)
    assert [len(next(iter(batches)).indices) for _ in range(4)] == [4, 3, 4, 3]


def test_cached_images_are_read_once(items: list[Item]) -> None:
    loader = Loader(items, config())
    for item in items:
        item.image.unlink()
    assert len(list(loader.eval_batches(batch=4))) == 2


def test_training_does_not_alter_the_cache(items: list[Item]) -> None:
    loader = Loader(items, config(**AUGMENTED))
    before = list(loader.eval_batches(batch=7))
    for batch in loader.train_batches(batch=7, seed=0, start=0, stop=3):
        batch.images.zero_()
    assert all(map(same, before, loader.eval_batches(batch=7)))


def test_images_that_do_not_fit_are_not_cached(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven images of 32 x 32 x 3 bytes need 21,504 bytes: a quarter of 86,016."""
    for available, cached in ((86_015, False), (86_016, True)):
        monkeypatch.setattr(samples_module, "free_memory", lambda available=available: available)
        assert Loader(items, config())._samples.cached is cached


@pytest.mark.parametrize(("method", "copies"), [("fork", 1), ("spawn", 3), ("forkserver", 3)])
def test_workers_that_are_not_forked_each_get_a_copy(
    items: list[Item], monkeypatch: pytest.MonkeyPatch, method: str, copies: int
) -> None:
    monkeypatch.setattr(loader_module, "get_start_method", lambda: method)
    for available, cached in ((copies * 86_016 - 1, False), (copies * 86_016, True)):
        monkeypatch.setattr(samples_module, "free_memory", lambda available=available: available)
        assert Loader(items, config(workers=2))._samples.cached is cached


def test_boxes_of_a_reader_of_one_s_own_are_float32_whatever_they_were(items: list[Item]) -> None:
    wide = [replace(item, boxes=item.boxes.astype(np.float64)) for item in items]
    for one, other in zip(
        Loader(wide, config()).eval_batches(batch=3),
        Loader(items, config()).eval_batches(batch=3),
        strict=True,
    ):
        assert one.boxes.dtype == torch.float32 and same(one, other)


@pytest.mark.parametrize("workers", [0, 2])
def test_an_image_that_is_deleted_during_training(items: list[Item], workers: int) -> None:
    loader = Loader(items, config(cache=False, workers=workers))
    items[4].image.unlink()
    with pytest.raises(UserError) as caught:
        list(loader.eval_batches(batch=2))
    message = str(caught.value)
    assert message.startswith(f"{items[4].image}: the image cannot be read") and "\n" not in message


def test_an_image_that_is_gone_when_caching(items: list[Item]) -> None:
    items[4].image.unlink()
    with pytest.raises(UserError, match=r"4\.png: the image cannot be read"):
        Loader(items, config())


def test_no_items() -> None:
    with pytest.raises(ValueError, match="at least one"):
        Loader([], config())
