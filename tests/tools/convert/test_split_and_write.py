"""Which image goes where, and a folder that appears whole or not at all."""

from __future__ import annotations

import errno
import os
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.cli import main
from detector.data.data_yaml import read_data_yaml
from detector.data.dataset import read_dataset
from detector.errors import UserError, has_control
from detector.tools.convert import write
from detector.tools.convert.conversion import Options, convert
from detector.tools.convert.split import assign, draw, parse_fractions
from detector.tools.convert.write import data_yaml, unique_names
from tests.tools.convert.builders import messages, run, save_picture, save_voc, splits, voc_text

# --------------------------------------------------------------------------------------- split

# What the reader accepts: control characters would reach the terminal.
CLASS_NAMES = st.text(min_size=1).map(str.strip).filter(lambda name: name and not has_control(name))
digests = st.lists(st.binary(min_size=4, max_size=4), min_size=3, max_size=40, unique=True)


@given(digests, st.integers(0, 5), st.sampled_from([(0.8, 0.2), (0.7, 0.2, 0.1), (0.02, 0.49, 0.49)]))
def test_a_draw_is_complete_close_to_its_parts_and_repeatable(
    images: list[bytes], seed: int, fractions: tuple[float, ...]
) -> None:
    drawn, _ = draw(images, fractions, seed)
    counts = Counter(drawn)
    for name, fraction in zip(("train", "val", "test"), fractions, strict=False):
        assert counts[name] >= 1
        assert abs(counts[name] - fraction * len(images)) <= 2
    assert counts.total() == len(images) and len(counts) == len(fractions)
    backwards, _ = draw(images[::-1], fractions, seed)
    assert backwards[::-1] == drawn  # by content, not by order


def test_another_seed_is_another_draw() -> None:
    images = [bytes([i]) for i in range(50)]
    assert draw(images, (0.8, 0.2), 0) != draw(images, (0.8, 0.2), 1)


def test_the_sources_own_splits() -> None:
    images = [bytes([i]) for i in range(4)]
    own = ["train", "val", "train", "test"]
    assert assign(own, images, None, 0) == (own, "")
    assert set(assign(own, images, (0.5, 0.5), 0)[0]) == {"train", "val"}
    assert Counter(assign(["val"] * 4, images, None, 0)[0]) == {"train": 3, "val": 1}
    with pytest.raises(UserError, match="test and val but no train; --split"):
        assign(["val", "test", "val", "test"], images, None, 0)
    with pytest.raises(UserError, match="1 images are in none of the source's splits train, val"):
        assign(["train", "val", "train", None], images, None, 0)
    with pytest.raises(UserError, match="1 usable images cannot be split into 2"):
        draw([b"x"], (0.8, 0.2), 0)


# ------------------------------------------------------------------------------- near-duplicates


def save_frames(source: Path, scene: str, seed: int, frames: int) -> None:
    """Pictures of one scene, each with other noise: what consecutive frames of a video are."""
    scenery = np.random.default_rng(seed).integers(0, 256, (6, 8, 3), dtype=np.uint8)
    scenery = cv2.resize(scenery, (64, 48), interpolation=cv2.INTER_CUBIC).astype(float)
    noise = np.random.default_rng(list(scene.encode()))
    for frame in range(frames):
        pixels = np.clip(scenery + noise.normal(0, 3, scenery.shape), 0, 255).astype(np.uint8)
        save_voc(source, f"{scene}-{frame}", [("cat", 1, 1, 9, 9)], seed=0)
        (source / f"{scene}-{frame}.png").write_bytes(cv2.imencode(".png", pixels)[1].tobytes())


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("fractions", [None, (0.6, 0.2, 0.2), (0.1, 0.9)])
def test_images_that_look_alike_stay_on_one_side(
    tmp_path: Path, fractions: tuple[float, ...] | None, seed: int, capsys: pytest.CaptureFixture[str]
) -> None:
    for number, frames in enumerate((1, 4, 1, 3, 6, 1, 2, 2)):
        save_frames(tmp_path / "source", f"scene{number}", number, frames)
    report = run("voc", tmp_path / "source", tmp_path / "out", fractions=fractions, seed=seed)
    found = splits(tmp_path / "out")
    scenes = {split: {stem.partition("-")[0] for stem in stems} for split, stems in found.items()}
    assert sum(map(len, scenes.values())) == 8 and all(scenes.values())
    assert len(scenes) == len(fractions or (0.8, 0.2)) and sum(report.images.values()) == 20
    if fractions is None:
        assert 2 <= report.images["val"] <= 4
    assert "17 of the 20 images look like another one and are kept in one split" in messages(report)[-1]
    main(["check", str(tmp_path / "out/data.yaml")])
    assert "near-leak" not in capsys.readouterr().out  # the check's own search


def test_a_draw_without_look_alikes_is_the_one_before(tmp_path: Path) -> None:
    """The same seed gives the same split as ever."""
    images = [bytes([i]) for i in range(12)]
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (16, 17), dtype=np.uint8) for _ in images]
    assert draw(images, (0.5, 0.25, 0.25), 3, pictures) == draw(images, (0.5, 0.25, 0.25), 3)
    before = "train train val test val val " \
             "train train test test train train"  # fmt: skip
    assert draw(images, (0.5, 0.25, 0.25), 3)[0] == before.split()


def test_where_everything_looks_alike_it_is_drawn_and_said(tmp_path: Path) -> None:
    save_frames(tmp_path / "source", "scene", 0, 10)
    report = run("voc", tmp_path / "source", tmp_path / "out")
    assert report.images == {"train": 8, "val": 2}
    assert "the 10 images look too much alike to be split" in messages(report)[-1]


def test_a_scene_that_is_larger_than_val(tmp_path: Path) -> None:
    for seed in (0, 1):
        save_frames(tmp_path / "source", f"scene{seed}", seed, 5 + seed)
    assert run("voc", tmp_path / "source", tmp_path / "out").images == {"train": 6, "val": 5}


def test_the_sources_own_splits_are_kept_even_if_they_leak(tmp_path: Path) -> None:
    save_frames(tmp_path / "source/train", "scene", 0, 2)
    save_frames(tmp_path / "source/val", "other", 0, 2)  # the same scene
    run("voc", tmp_path / "source", tmp_path / "out")
    assert splits(tmp_path / "out") == {"train": {"scene-0", "scene-1"}, "val": {"other-0", "other-1"}}


@pytest.mark.parametrize(
    "text", ["0.8", "0.8,0.1", "1,0", "a,b", "", "0.25,0.25,0.25,0.25", "1.5,-0.5", "nan,1"]
)
def test_fractions_that_are_none(text: str) -> None:
    with pytest.raises(UserError, match="--split"):
        parse_fractions(text)
    assert parse_fractions("0.7, 0.2,0.1") == (0.7, 0.2, 0.1)


def test_identical_images_never_land_in_different_splits(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for seed in range(10):
        save_voc(source, f"{seed}", [("cat", 1, 1, 9, 9)], seed=seed % 5)
    report = run("voc", source, tmp_path / "out", fractions=(0.6, 0.4))
    assert report.images == {"train": 3, "val": 2} and report.count("left out") == 5
    read_dataset(tmp_path / "out/data.yaml")  # which refuses copies


def test_a_copy_in_train_and_in_val_stays_in_val(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for seed, stem in enumerate(("train/a", "train/b", "val/c")):
        save_voc(source, stem, [("cat", 1, 1, 9, 9)], seed=seed)
    save_voc(source, "train/copy", [("cat", 1, 1, 9, 9), ("cat", 2, 2, 9, 9)], seed=2)
    report = run("voc", source, tmp_path / "out")
    assert splits(tmp_path / "out") == {"train": {"a", "b"}, "val": {"c"}}
    (text,) = messages(report)
    assert "train/copy.png: is identical to " in text and "val/c.png; 1 boxes there, 2 here" in text


# --------------------------------------------------------------------------------------- names


def test_names_are_unique_whatever_the_case_and_the_suffix() -> None:
    paths = ("x/1.jpg", "y/1.png", "y/1.PNG", "z/2.JPG", "a/x/1.bmp", "q/x_1.jpg")
    images = [Path("/data", path) for path in paths]
    assert unique_names(images) == ["x_1-2.jpg", "y_1.png", "y_1-2.png", "2.jpg", "x_1-3.bmp", "x_1.jpg"]


@given(
    st.lists(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="/\0"), min_size=1), max_size=8
    )
)
def test_no_two_images_share_a_label_file(stems: list[str]) -> None:
    images = [Path("/data") / f"folder{index % 2}" / f"{stem}.png" for index, stem in enumerate(stems)]
    names = unique_names(images)
    written = [Path(name).stem.casefold() for name in names]
    assert len(set(written)) == len(images)
    assert not any(name.startswith(".") or "/" in name or "\\" in name for name in names)


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(names=st.lists(CLASS_NAMES, min_size=1, max_size=5, unique=True))
def test_any_class_name_survives_the_yaml(tmp_path: Path, names: list[str]) -> None:
    path = tmp_path / "data.yaml"
    path.write_text(data_yaml(names, ["train", "val"]), encoding="utf-8")
    assert read_data_yaml(path).names == tuple(names)


@pytest.mark.parametrize("name", ["no", "1e3", "null", "~", "12", "a: b", "# c", '"', "é", "🐈"])
def test_awkward_class_names(tmp_path: Path, name: str) -> None:
    (tmp_path / "data.yaml").write_text(data_yaml([name, "other"], ["train", "val"]), encoding="utf-8")
    assert read_data_yaml(tmp_path / "data.yaml").names == (name, "other")


def test_a_class_name_with_control_characters_is_refused(tmp_path: Path) -> None:
    """The reader would refuse the data YAML; by then the conversion would be done."""
    save_voc(tmp_path / "source", "a", [("cat\x7f", 1, 1, 9, 9)], seed=0)
    with pytest.raises(UserError, match="control character"):
        convert(Options("voc", tmp_path / "source", tmp_path / "out"))
    assert not (tmp_path / "out").exists()


# ---------------------------------------------------------------------------------- destination


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Three images with XML."""
    for seed, stem in enumerate("abc"):
        save_voc(tmp_path / "source", stem, [("cat", 1, 1, 9, 9)], seed=seed)
    return tmp_path / "source"


def test_the_source_is_not_touched(source: Path, tmp_path: Path) -> None:
    def state() -> dict[Path, tuple[int, bytes]]:
        return {path: (path.stat().st_mtime_ns, path.read_bytes()) for path in source.iterdir()}

    before = state()
    run("voc", source, tmp_path / "out")
    assert state() == before
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "images",
        "labels",
        "data.yaml",
        "conversion.json",
    }
    assert set(os.listdir(tmp_path)) == {"source", "out"}


def test_a_destination_that_is_taken(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = tmp_path / "taken"
    taken.mkdir()
    (taken / "mine.txt").write_text("mine")
    file = tmp_path / "file"
    file.write_text("mine")
    dangling = tmp_path / "dangling"
    dangling.symlink_to(tmp_path / "gone")
    monkeypatch.chdir(tmp_path)
    for destination, reason in (
        (taken, "is not empty"),
        (file, "exists already"),
        (dangling, "exists already"),
        (tmp_path / "no/parent", "parent folder does not exist"),
        (source / "out", "lies inside"),
        (source, "is not empty"),
        (Path("."), "is not empty"),
    ):
        with pytest.raises(UserError, match=reason):
            run("voc", source, destination)
    assert (taken / "mine.txt").read_text() == file.read_text() == "mine"
    empty = tmp_path / "empty"
    empty.mkdir()
    run("voc", source, empty)
    read_dataset(empty / "data.yaml")
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    with pytest.raises(UserError, match="is the working directory"):
        run("voc", source, Path("."))


@pytest.mark.parametrize("stop", [KeyboardInterrupt, OSError(errno.ENOSPC, "No space left on device")])
def test_an_interrupted_conversion_leaves_nothing(
    source: Path, tmp_path: Path, stop: BaseException | type[BaseException], monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[object] = []

    def copy(image: Path, target: Path) -> None:
        if copied:
            raise stop
        copied.append(target.write_bytes(image.read_bytes()))

    monkeypatch.setattr(write.shutil, "copyfile", copy)
    with pytest.raises((KeyboardInterrupt, UserError)):
        run("voc", source, tmp_path / "out")
    assert copied and os.listdir(tmp_path) == ["source"]


def test_links(source: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run("voc", source, tmp_path / "hard", link="hard")
    run("voc", source, tmp_path / "sym", link="sym")
    original = (source / "a.png").stat()
    (hard,) = (tmp_path / "hard/images").rglob("a.png")
    (sym,) = (tmp_path / "sym/images").rglob("a.png")
    assert hard.stat().st_ino == original.st_ino and not hard.is_symlink()
    assert sym.is_symlink() and sym.resolve() == (source / "a.png").resolve()
    assert (
        read_dataset(tmp_path / "hard/data.yaml").splits and read_dataset(tmp_path / "sym/data.yaml").splits
    )

    def other_device(*_: object) -> None:
        raise OSError(errno.EXDEV, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", other_device)
    with pytest.raises(UserError, match="--link sym works between file systems"):
        run("voc", source, tmp_path / "other", link="hard")
    assert not (tmp_path / "other").exists()


def test_unreadable_images_are_left_out_and_named(source: Path, tmp_path: Path) -> None:
    (source / "a.png").write_bytes(b"no picture")
    report = run("voc", source, tmp_path / "out")
    (text,) = messages(report)
    assert text.startswith(f"left out: {source}/a.png: the image cannot be decoded")
    for stem in "bc":
        (source / f"{stem}.png").write_bytes(b"")
    with pytest.raises(UserError, match="none of the 3 images can be used"):
        run("voc", source, tmp_path / "none")


def test_progress_counts_to_the_end(source: Path, tmp_path: Path) -> None:
    seen: list[tuple[str, int, int]] = []
    convert(Options("voc", source, tmp_path / "out"), lambda *step: seen.append(step))
    assert seen == [(stage, done, 3) for stage in ("read", "written") for done in (1, 2, 3)]


def test_a_folder_called_images_does_not_mislead_the_reader(tmp_path: Path) -> None:
    """The reader finds labels by the last folder called images."""
    for seed, stem in enumerate("ab"):
        save_picture(tmp_path / f"images/{stem}.png", seed)
        (tmp_path / f"images/{stem}.xml").write_text(voc_text([("cat", 1, 1, 9, 9)]))
    (tmp_path / "parent/images").mkdir(parents=True)
    run("voc", tmp_path / "images", tmp_path / "parent/images/out")
    dataset = read_dataset(tmp_path / "parent/images/out/data.yaml")
    assert all(len(item.boxes) == 1 for items in dataset.splits.values() for item in items)
