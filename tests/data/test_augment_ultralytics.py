"""ultralytics' augmentation: equal to theirs, the same for the same key, and boxes that fit the pixels."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config.loading import load_config
from detector.config.schema import YOLO_KEYS, DataConfig
from detector.data.augment import augment
from detector.data.augment_ultralytics import LabeledImage, YoloAugmentation, mixing_epochs
from detector.data.batch import Batch
from detector.data.dataset import Item
from detector.data.geometry import GREY, xywh_to_xyxy
from detector.data.labels import read_labels
from detector.data.loader import Loader
from detector.data.samples import AUGMENT
from detector.errors import UserError
from detector.runtime.ultralytics_import import import_ultralytics
from tests.support import ROOT

SIZE = 96
FINETUNE = {
    "mosaic": 1.0,
    "hsv_h": 0.015,
    "hsv_s": 0.7,
    "hsv_v": 0.4,
    "translate": 0.1,
    "scale": 0.5,
    "fliplr": 0.5,
}
STRONG = {
    **FINETUNE,
    "mosaic": 0.7,
    "mixup": 0.5,
    "degrees": 30.0,
    "shear": 10.0,
    "perspective": 0.001,
    "flipud": 0.5,
}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six noise pictures whose longer side is SIZE, so that nobody has to resize them; the last is empty."""
    rng = np.random.default_rng(0)
    for number, (height, width) in enumerate([(64, 96), (96, 64), (96, 96), (51, 96), (96, 33), (70, 96)]):
        image, label = (tmp_path / kind / "train" / f"{number}" for kind in ("images", "labels"))
        for path in (image, label):
            path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(f"{image}.png", rng.integers(0, 256, (height, width, 3), dtype=np.uint8))
        centres, sides = rng.uniform(0.3, 0.7, (3, 2)), rng.uniform(0.1, 0.6, (3, 2))
        rows = np.concatenate([[[number], [0], [1]], centres, sides], axis=1)[: 3 * (number < 5)]
        label.with_suffix(".txt").write_text(
            "".join("{:.0f} {:.4f} {:.4f} {:.4f} {:.4f}\n".format(*r) for r in rows)
        )
    return tmp_path


@pytest.fixture
def items(folder: Path) -> list[Item]:
    found = []
    for image in sorted((folder / "images" / "train").iterdir()):
        text = (folder / "labels" / "train" / f"{image.stem}.txt").read_text()
        labels = read_labels(text, 6)
        classes, boxes = labels.classes, labels.boxes
        found.append(Item(image, classes, boxes))
    return found


def config(**changes: Any) -> DataConfig:
    return DataConfig(image_size=SIZE, **changes)


def same(one: Batch, two: Batch) -> bool:
    """Whether two batches are equal to the last bit."""
    tensors = ("images", "batch_idx", "cls", "boxes")
    return one.indices == two.indices and all(torch.equal(getattr(one, t), getattr(two, t)) for t in tensors)


def flat(number: int, boxes: int = 1) -> LabeledImage:
    """A 48 x 96 picture of one colour, which no other number has, and a box in its middle."""
    image = np.full((48, 96, 3), 30 * number, np.uint8)
    return image, np.full((boxes, 4), 0.5, np.float32), np.full(boxes, number)


def sources(image: np.ndarray) -> set[int]:
    """Which of the flat pictures are to be seen."""
    return {int(value) // 30 for value in np.unique(image) if value % 30 == 0 and (image == value).sum() > 50}


# --- against ultralytics itself ------------------------------------------------------------------


def seed_global_generators(rng: np.random.Generator) -> None:
    """What their transforms draw next from the global generators is what ours draw from their own."""
    random.seed(rng.bytes(16))
    np.random.seed(rng.integers(2**32, size=4))  # noqa: NPY002


class Theirs:
    """Their transforms, one after the other, as batches were made before they were done in fewer passes."""

    cache = "ram"  # else they draw partners from the images loaded last

    def __init__(self, items: list[Item], gains: dict[str, float]) -> None:
        self.items = items
        augment = import_ultralytics("data.augment")
        g = SimpleNamespace(**{**dict.fromkeys([*YOLO_KEYS, "fliplr", "translate", "scale"], 0.0), **gains})
        one = augment.Compose(
            [
                augment.Mosaic(self, imgsz=SIZE, p=g.mosaic),
                augment.RandomPerspective(
                    degrees=g.degrees, translate=g.translate, scale=g.scale, shear=g.shear,
                    perspective=g.perspective, size=(SIZE, SIZE),
                ),
            ]
        )  # fmt: skip
        self.transforms = augment.Compose(
            [
                one,
                augment.MixUp(self, pre_transform=one, p=g.mixup),
                augment.RandomHSV(hgain=g.hsv_h, sgain=g.hsv_s, vgain=g.hsv_v),
                augment.RandomFlip(p=g.flipud, direction="vertical"),
                augment.RandomFlip(p=g.fliplr, direction="horizontal"),
            ]
        )

    def __len__(self) -> int:
        return len(self.items)

    def get_image_and_label(self, index: int) -> dict[str, Any]:
        item = self.items[index]
        image = cv2.imread(str(item.image))  # BGR, as they read it
        boxes = import_ultralytics("utils.instance").Instances(item.boxes.copy(), bbox_format="xywh")
        return {
            "img": image,
            "instances": boxes,
            "cls": item.classes,
            "im_file": "",
            "ori_shape": image.shape[:2],
        }

    def __call__(self, index: int) -> LabeledImage:
        labels = self.transforms(self.get_image_and_label(index))
        labels["instances"].convert_bbox("xywh")
        labels["instances"].normalize(SIZE, SIZE)
        return labels["img"][..., ::-1], labels["instances"].bboxes, labels["cls"]


CASES = [FINETUNE, STRONG, {**STRONG, "perspective": 0.0}, {**STRONG, "mosaic": 0.0, "mixup": 0.0},
         *({key: 1.0} for key in ("mosaic", "mixup", "hsv_h", "hsv_s", "hsv_v", "flipud")),
         {"degrees": 180.0, "scale": 0.9}]  # fmt: skip


@pytest.mark.parametrize("gains", CASES)
def test_equal_to_their_transforms_bit_for_bit(items: list[Item], gains: dict[str, float]) -> None:
    """Pixels and boxes to the last bit, so that what was published with them can be repeated."""
    theirs, checked = Theirs(items, gains), 0
    with_boxes = 0
    for number, batch in enumerate(Loader(items, config(**gains)).train_batches(batch=2, seed=8, stop=12)):
        for at, index in enumerate(batch.indices):
            seed_global_generators(np.random.default_rng([AUGMENT, 8, number // 3, index]))
            image, boxes, classes = theirs(index)
            mine = batch.batch_idx == at
            np.testing.assert_array_equal(batch.images[at].permute(1, 2, 0).numpy(), image)
            np.testing.assert_array_equal(batch.boxes[mine].numpy(), boxes)
            assert boxes.dtype == np.float32 and batch.cls[mine].tolist() == classes.tolist()
            checked, with_boxes = checked + 1, with_boxes + len(boxes)
    assert checked == 24 and with_boxes > 24


@pytest.mark.parametrize("gains", [FINETUNE, STRONG, {**STRONG, "mosaic": 0.0, "mixup": 0.0}])
def test_equal_to_ultralytics_own_dataset(folder: Path, items: list[Item], gains: dict[str, float]) -> None:
    """Their dataset reads the same files and augments with the same draws: the same images and boxes.

    Left out of their list are CutMix, which is off and yet draws a number, and Albumentations.
    """
    overrides = {"imgsz": SIZE, "cache": "ram", **dict.fromkeys(YOLO_KEYS, 0.0), **gains}
    cfg = import_ultralytics("cfg").get_cfg(overrides=overrides)
    data = {"names": {number: str(number) for number in range(6)}, "channels": 3}
    build = import_ultralytics("data").build_yolo_dataset
    theirs = build(cfg, str(folder / "images" / "train"), batch=4, data=data)
    names = [type(part).__name__ for part in theirs.transforms.transforms]
    assert names == [
        "Compose",
        "MixUp",
        "CutMix",
        "Albumentations",
        "RandomHSV",
        "RandomFlip",
        "RandomFlip",
        "Format",
    ]
    theirs.transforms.transforms = [
        part for part, name in zip(theirs.transforms.transforms, names, strict=True)
        if name not in ("CutMix", "Albumentations")
    ]  # fmt: skip

    loader, objects = Loader(items, config(**gains)), 0
    for number, batch in enumerate(loader.train_batches(batch=1, seed=5, stop=18)):
        (index,) = batch.indices
        seed_global_generators(np.random.default_rng([AUGMENT, 5, number // 6, index]))
        expected = theirs[index]
        assert torch.equal(batch.images[0], expected["img"])
        assert torch.equal(batch.cls, expected["cls"][:, 0])
        torch.testing.assert_close(batch.boxes, expected["bboxes"], atol=1e-6, rtol=0)
        objects += len(batch.cls)
    assert objects > 18


def test_albumentations_is_never_asked(items: list[Item], monkeypatch: pytest.MonkeyPatch) -> None:
    """Somebody installs it for another project: the batches stay the same. ultralytics' own would change."""
    asked: list[str] = []

    class Installed(ModuleType):
        def __getattr__(self, name: str) -> Any:
            asked.append(name)
            raise AttributeError(name)

    before = list(Loader(items, config(**FINETUNE)).train_batches(batch=3, seed=0, stop=4))
    monkeypatch.setitem(sys.modules, "albumentations", Installed("albumentations"))
    after = list(Loader(items, config(**FINETUNE)).train_batches(batch=3, seed=0, stop=4))
    assert all(map(same, before, after)) and not asked
    import_ultralytics("data.augment").Albumentations()
    assert asked


def test_finetune_yaml_has_the_defaults_of_ultralytics() -> None:
    ours = load_config(ROOT / "configs" / "finetune.yaml").config.data
    theirs = import_ultralytics("cfg").get_cfg()
    for key in (*YOLO_KEYS, "fliplr", "translate", "scale", "close_mosaic"):
        assert getattr(ours, key) == getattr(theirs, key), key


# --- the same for the same key -------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.timeout(60)  # where it fails, it hangs
def test_workers_and_resuming_change_nothing(items: list[Item]) -> None:
    """First here on several OpenCV threads, then in forked processes, which must not wait for those."""
    threads = cv2.getNumThreads()
    cv2.setNumThreads(4)
    try:
        loader = Loader(items * 4, DataConfig(image_size=320, **STRONG))
        here = list(loader.train_batches(batch=5, seed=3, stop=9, epochs=11))
        there = list(loader.train_batches(batch=5, seed=3, stop=9, epochs=11, workers=2))
        resumed = list(loader.train_batches(batch=5, seed=3, start=4, stop=9, epochs=11))
        assert cv2.getNumThreads() == 4
    finally:
        cv2.setNumThreads(threads)
    assert len(here) == 9 and all(map(same, here, there)) and all(map(same, here[4:], resumed))


def test_images_read_from_the_disk_are_the_same(items: list[Item]) -> None:
    cached, read = (Loader(items, config(**STRONG, cache=cache)) for cache in (True, False))
    assert all(
        map(same, cached.train_batches(batch=6, seed=0, stop=3), read.train_batches(batch=6, seed=0, stop=3))
    )


def test_the_global_generators_are_neither_read_nor_moved(items: list[Item]) -> None:
    def states() -> list[str]:
        numpy = np.random.get_state()[1].tolist()  # noqa: NPY002
        return [repr(random.getstate()), repr(numpy), repr(torch.get_rng_state().tolist())]

    random.seed(1)
    np.random.seed(1)  # noqa: NPY002
    first = list(Loader(items, config(**STRONG)).train_batches(batch=3, seed=0, stop=4))
    random.seed(2)
    np.random.seed(2)  # noqa: NPY002
    before = states()
    second = list(Loader(items, config(**STRONG)).train_batches(batch=3, seed=0, stop=4))
    assert all(map(same, first, second)) and states() == before


def test_seed_epoch_and_image_each_change_the_augmentation(items: list[Item]) -> None:
    twins = [items[0]] * 2
    loader = Loader(twins, config(hsv_v=0.5, scale=0.5))
    (first,), (later,) = (loader.train_batches(batch=2, seed=0, start=e, stop=e + 1) for e in (0, 1))
    (other,) = loader.train_batches(batch=2, seed=1, stop=1)
    pictures = [image.numpy().tobytes() for batch in (first, later, other) for image in batch.images]
    assert len(set(pictures)) == 6


def test_partners_come_from_the_whole_split() -> None:
    make = YoloAugmentation(flat, 8, config(mosaic=1.0))
    seen = [sources(make(flat(0), 0, np.random.default_rng(seed))[0]) for seed in range(40)]
    assert set().union(*seen) == set(range(8))
    assert sum(0 in found for found in seen) > 20  # it may be pushed out of the picture


def test_training_does_not_alter_the_cache(items: list[Item]) -> None:
    loader = Loader(items, config(**STRONG))
    before = list(loader.eval_batches(batch=6))
    boxes = [item.boxes.copy() for item in items]
    for batch in loader.train_batches(batch=6, seed=0, stop=4):
        batch.images.zero_()
    assert all(map(same, before, loader.eval_batches(batch=6)))
    assert all(np.array_equal(item.boxes, kept) for item, kept in zip(items, boxes, strict=True))


# --- when it is on -------------------------------------------------------------------------------


@pytest.mark.parametrize("key", YOLO_KEYS)
def test_each_key_alone_brings_it_in_and_changes_something(items: list[Item], key: str) -> None:
    value = {"degrees": 20.0, "shear": 20.0, "perspective": 0.001}.get(key, 1.0)
    assert config(**{key: value}).uses_yolo_augmentation
    (plain,) = Loader(items, config()).eval_batches(batch=6)
    order = np.argsort(next(Loader(items, config()).train_batches(batch=6, seed=0)).indices)
    batch = next(Loader(items, config(**{key: value})).train_batches(batch=6, seed=0))
    changed = [
        not torch.equal(batch.images[int(at)], image) for at, image in zip(order, plain.images, strict=True)
    ]
    assert sum(changed) >= 3


def test_without_them_nothing_is_as_before(items: list[Item]) -> None:
    """The published results were trained with our own three: they must not change by a bit."""
    gains = {"fliplr": 0.5, "translate": 0.2, "scale": 0.4}
    assert not config(**gains).uses_yolo_augmentation
    plain = next(Loader(items, config()).eval_batches(batch=6))
    batch = next(Loader(items, config(**gains)).train_batches(batch=6, seed=7))
    for at, index in enumerate(batch.indices):
        image, mine = plain.images[index].permute(1, 2, 0).numpy(), plain.batch_idx == index
        rng = np.random.default_rng([AUGMENT, 7, 0, index])
        expected, boxes, _ = augment(image, plain.boxes[mine].numpy(), plain.cls[mine].numpy(), rng, **gains)
        np.testing.assert_array_equal(batch.images[at].permute(1, 2, 0).numpy(), expected)
        np.testing.assert_array_equal(batch.boxes[batch.batch_idx == at].numpy(), boxes)
    off = next(Loader(items, config()).train_batches(batch=6, seed=7))
    assert torch.equal(off.images, plain.images[list(off.indices)])


def test_a_flip_alone_shows_the_letterboxed_image(items: list[Item]) -> None:
    """Where padding is even on both sides, nothing is resampled: the plain image, upside down."""
    (plain,) = Loader(items[:3], config()).eval_batches(batch=3)
    (batch,) = Loader(items[:3], config(flipud=1.0)).train_batches(batch=3, seed=0, stop=1)
    assert torch.equal(batch.images, plain.images[list(batch.indices)].flip(2))


def test_without_hsv_the_colours_stay(items: list[Item]) -> None:
    def red(number: int) -> LabeledImage:
        image, boxes, classes = flat(number)
        image[:] = (200, 40, 10)
        return image, boxes, classes

    image, _, _ = YoloAugmentation(red, 4, config(mosaic=1.0, flipud=0.5))(
        red(0), 0, np.random.default_rng(0)
    )
    assert {tuple(map(int, colour)) for colour in np.unique(image.reshape(-1, 3), axis=0)} <= {
        (200, 40, 10),
        (GREY,) * 3,
    }
    brighter = YoloAugmentation(red, 4, config(hsv_v=0.4))
    colours = np.array([brighter(red(0), 0, np.random.default_rng(s))[0][48, 48] for s in range(20)], float)
    assert np.ptp(colours[:, 0]) > 50
    np.testing.assert_allclose(colours[:, 1] / colours[:, 0], 0.2, atol=0.02)  # the hue is the same red
    np.testing.assert_allclose(colours[:, 2] / colours[:, 0], 0.05, atol=0.02)


@pytest.mark.parametrize("mixer", ["mosaic", "mixup"])
@pytest.mark.parametrize(
    ("epochs", "close", "on"),
    [(5, 2, [True] * 3 + [False] * 2), (5, 0, [True] * 5), (3, 10, [False] * 3), (3, 3, [False] * 3),
     (None, 1, [True] * 3)],
)  # fmt: skip
def test_mosaic_and_mixup_end_before_the_run_does(
    mixer: str, epochs: int | None, close: int, on: list[bool]
) -> None:
    make = YoloAugmentation(flat, 8, config(**{mixer: 1.0}, close_mosaic=close), epochs)
    for epoch, mixed in enumerate(on):
        images = [make(flat(1), epoch, np.random.default_rng(seed))[0] for seed in range(5)]
        plain = [set(np.unique(image).tolist()) <= {30, GREY} for image in images]
        assert all(plain) != mixed


def test_how_long_the_mixing_lasts() -> None:
    assert mixing_epochs(config(mosaic=1.0), 100) == 90
    assert mixing_epochs(config(mosaic=1.0), 4) == 0
    assert mixing_epochs(config(mosaic=1.0, close_mosaic=0), 4) == float("inf")


# --- boxes and pixels ----------------------------------------------------------------------------

COLOURS = np.array([[250, 0, 0], [0, 250, 0], [0, 0, 250], [250, 250, 0], [250, 0, 250], [0, 250, 250]])
CORNERS = np.array([[20, 10, 60, 40], [5, 5, 50, 50], [64, 30, 120, 90],
                    [10, 60, 30, 120], [40, 40, 90, 80], [2, 3, 100, 30]])  # fmt: skip
SHAPES = [(64, 128), (128, 96), (128, 128), (128, 64), (100, 128), (50, 128)]  # height, width


def painted(number: int) -> LabeledImage:
    """A rectangle of its own colour on black, and its box."""
    (height, width), (left, top, right, bottom) = SHAPES[number], CORNERS[number]
    image = np.zeros((height, width, 3), np.uint8)
    image[top:bottom, left:right] = COLOURS[number]
    box = np.array([[(left + right) / 2 / width, (top + bottom) / 2 / height, (right - left) / width,
                     (bottom - top) / height]], np.float32)  # fmt: skip
    return image, box, np.array([number])


@pytest.mark.slow
@settings(max_examples=150)
@given(
    seed=st.integers(0, 2**32),
    mosaic=st.sampled_from([0.0, 1.0]),
    degrees=st.sampled_from([0.0, 40.0]),
    shear=st.sampled_from([0.0, 15.0]),
    perspective=st.sampled_from([0.0, 0.001]),
)
def test_pixels_and_boxes_move_together(
    seed: int, mosaic: float, degrees: float, shear: float, perspective: float
) -> None:
    """Each rectangle that is left covers its box, unless a slanted one was cut at the image's edge."""
    shown: list[int] = []

    def read(number: int) -> LabeledImage:
        shown.append(number)
        return painted(number)

    strength = {"mosaic": mosaic, "degrees": degrees, "shear": shear, "perspective": perspective}
    settings = DataConfig(image_size=128, fliplr=0.5, flipud=0.5, translate=0.2, scale=0.4, **strength)
    image, boxes, classes = YoloAugmentation(read, 6, settings)(
        read(seed % 6), 0, np.random.default_rng(seed)
    )
    assert image.shape == (128, 128, 3) and boxes.dtype == np.float32
    for corners, number in zip(xywh_to_xyxy(boxes) * 128, classes, strict=True):
        assert (corners > -1e-3).all() and (corners < 128 + 1e-3).all()
        if shown.count(number) > 1:
            continue  # the same rectangle twice, of which one may have been dropped
        rows, columns = np.nonzero((np.abs(image - COLOURS[number]) < 100).all(axis=2))
        inside = (corners > 1).all() and (corners < 127).all()
        slanted = degrees > 0 or shear > 0 or perspective > 0
        if slanted and not inside and not len(rows):
            continue  # what reached into the image was the corner of its box
        measured = np.array([columns.min(), rows.min(), columns.max() + 1, rows.max() + 1])
        if inside or not slanted:
            np.testing.assert_allclose(measured, corners, atol=2)
        else:
            assert (measured[:2] > corners[:2] - 2).all() and (measured[2:] < corners[2:] + 2).all()


def test_images_without_objects() -> None:
    def background(number: int) -> LabeledImage:
        return flat(number, boxes=0)

    make = YoloAugmentation(background, 4, config(**STRONG))
    for seed in range(10):
        image, boxes, classes = make(background(0), 0, np.random.default_rng(seed))
        assert image.shape == (SIZE, SIZE, 3) and boxes.shape == (0, 4) and classes.shape == (0,)
        assert boxes.dtype == np.float32 and classes.dtype == np.int64


def test_a_single_image_is_its_own_partner() -> None:
    image, boxes, _ = YoloAugmentation(flat, 1, config(mosaic=1.0))(flat(0), 0, np.random.default_rng(0))
    assert sources(image) == {0} and len(boxes) >= 2


@pytest.mark.parametrize("workers", [0, 2])
def test_a_partner_that_was_deleted_during_training(items: list[Item], workers: int) -> None:
    loader = Loader(items, config(mosaic=1.0, cache=False, workers=workers))
    items[2].image.unlink()
    with pytest.raises(UserError, match=r"2\.png: the image cannot be read"):
        list(loader.train_batches(batch=2, seed=0, stop=6))
