"""A data set read with what an earlier run knew is the data set read afresh, whatever happened between."""

from __future__ import annotations

import ast
import itertools
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from detector.config.schema import DataConfig
from detector.data import (
    file_cache,
    geometry,
    image_cache,
    images,
    labels,
    near_duplicates,
    reader,
    reading,
    sources,
)
from detector.data.dataset import Scan, scan
from detector.data.near_duplicates import look_alikes, thumbnail
from detector.data.near_duplicates import near_duplicates as pairs_of
from detector.data.preflight import inspect
from detector.data.sources import load_configured
from detector.errors import UserError
from detector.runtime import array_cache
from tests.data.conftest import LABEL, picture
from tests.support import ROOT

OPTIONS: tuple[dict[str, Any], ...] = (
    {},
    {"repair": False},
    {"ignore_scores": True},
    {"sign": thumbnail},
    {"splits": ("val",)},
    {"val_fraction": 0.3, "sign": thumbnail},
)
LABELS = (
    "",
    LABEL,
    "1 0.5 0.5 0.25 0.5\n",
    "7 0.5 0.5 0.25 0.5\n",  # no such class where there are two
    "0 0.1 0.1 0.9 0.1 0.5 0.9\n",  # a polygon
    "0 0.5 0.5 0.25 0.5 0.9\n",  # with a score
    "0 0.9 0.5 0.4 0.5\n0 0.9 0.5 0.4 0.5\n1 0.5\n",  # leaves the image, comes twice; and too few fields
)


@pytest.fixture
def keeping(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Everything is kept, however few and however new the files are; the folder where."""
    folder = tmp_path / "cache"
    monkeypatch.setattr(array_cache, "FOLDER", folder)
    monkeypatch.setattr(file_cache, "FEW", 0)
    monkeypatch.setattr(file_cache, "TICK", -(10**12))
    return folder


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The names of the files that are read."""
    names: list[str] = []
    for name in ("read_picture", "read_label_file"):
        original = getattr(reader, name)

        def noted(path: Path | str, how: Any, original: Callable[..., Any] = original) -> Any:
            names.append(os.path.basename(path))
            return original(path, how)

        monkeypatch.setattr(reader, name, noted)
    return names


def plain(value: object) -> object:
    """Something that can be compared: arrays with their types, and objects by what is in them."""
    if isinstance(value, np.ndarray):
        return str(value.dtype), value.shape, value.tobytes()
    if isinstance(value, dict):
        return [(key, plain(one)) for key, one in value.items()]
    if isinstance(value, tuple | list):
        return [plain(one) for one in value]
    if hasattr(value, "__dataclass_fields__"):
        return type(value).__name__, [plain(getattr(value, field.name)) for field in fields(value)]  # type: ignore[arg-type]
    return value


def outcome(data: Path, **options: Any) -> object:
    """All that a scan and the checks after it say, or the error."""
    try:
        found: Scan = scan(data, **options)
    except UserError as error:
        return str(error)
    return plain(found), plain(inspect(found, 320))


def configured(data: Path, **options: Any) -> object:
    """The data set of a run, or the error."""
    how = {key: value for key, value in options.items() if key not in ("sign", "splits")}
    try:
        return plain(load_configured(DataConfig(path=str(data), image_size=64, **how), 3))
    except UserError as error:
        return str(error)


# ------------------------------------------------------------------------------- the same as afresh


def old_time(path: Path, status: os.stat_result) -> None:
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def change_image(root: Path, number: int) -> None:
    image = sorted((root / "images").rglob("*.jpg"))[0]
    image.write_bytes(picture(1000 + number))


def swap_images(root: Path, number: int) -> None:
    first, *_, last = sorted((root / "images/train").rglob("*.jpg"))
    status = first.stat(), last.stat()
    first.rename(root / "x")
    last.rename(first)
    (root / "x").rename(last)
    old_time(first, status[0])
    old_time(last, status[1])


def break_image(root: Path, number: int) -> None:
    image = sorted((root / "images/train").rglob("*.jpg"))[-1]
    image.write_bytes(image.read_bytes()[:-20])


def change_label(root: Path, number: int) -> None:
    names = [path.stem for path in sorted((root / "images").rglob("*.jpg"))]
    split = "val" if names[number % len(names)].startswith("v") else "train"
    (root / f"labels/{split}/{names[number % len(names)]}.txt").write_text(LABELS[number % len(LABELS)])


def change_label_in_silence(root: Path, number: int) -> None:
    label = sorted((root / "labels/train").glob("t*.txt"))[number % 3]
    status = label.stat()
    label.write_text(f"1 0.{number % 3 + 3} 0.5 0.25 0.5\n".ljust(status.st_size))
    old_time(label, status)


def damage_label(root: Path, number: int) -> None:
    (root / "labels/train/t1.txt").write_bytes(LABEL.encode("utf-16"))


def remove(root: Path, number: int) -> None:
    images = sorted((root / "images/train").rglob("*.jpg"))
    if len(images) > 3:
        images[number % len(images)].unlink()


def add(root: Path, number: int) -> None:
    (root / f"images/train/u{number}.jpg").write_bytes(picture(2000 + number))
    (root / f"labels/train/u{number}.txt").write_text(LABELS[number % len(LABELS)])


def copy_into_val(root: Path, number: int) -> None:
    shutil.copy(sorted((root / "images/train").glob("*.jpg"))[0], root / "images/val/v9.jpg")


def rename_label(root: Path, number: int) -> None:
    label = sorted((root / "labels/train").iterdir())[0]
    label.rename(label.with_name(f"{label.stem}.jpg.txt"))


def add_class(root: Path, number: int) -> None:
    text = (root / "data.yaml").read_text()
    (root / "data.yaml").write_text(text.replace("]", f", class_{number}]"))


CHANGES = (change_image, swap_images, break_image, change_label, change_label_in_silence, damage_label,
           remove, add, copy_into_val, rename_label, add_class)  # fmt: skip


def make(root: Path) -> Path:
    """Five images in train and three in val, labelled."""
    for number, name in enumerate(("t0", "t1", "t2", "t3", "t4", "v0", "v1", "v2")):
        split = "train" if name[0] == "t" else "val"
        for kind in ("images", "labels"):
            (root / kind / split).mkdir(parents=True, exist_ok=True)
        (root / f"images/{split}/{name}.jpg").write_bytes(picture(number))
        (root / f"labels/{split}/{name}.txt").write_text(LABEL)
    (root / "data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    return root / "data.yaml"


@pytest.fixture(scope="module")
def anywhere() -> Iterator[Path]:
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


@settings(max_examples=20)
@given(
    steps=st.lists(
        st.tuples(st.sampled_from(CHANGES), st.integers(0, 20), st.sampled_from(OPTIONS)),
        min_size=1,
        max_size=4,
    )
)
def test_whatever_changed_it_is_as_if_read_afresh(
    anywhere: Path, steps: list[tuple[Callable[[Path, int], None], int, dict[str, Any]]]
) -> None:
    with pytest.MonkeyPatch.context() as patch, tempfile.TemporaryDirectory(dir=anywhere) as folder:
        patch.setattr(file_cache, "FEW", 0)
        patch.setattr(file_cache, "TICK", -(10**12))
        data = make(Path(folder, "mine"))
        for change, number, options in [(lambda *_: None, 0, {"sign": thumbnail}), *steps]:
            change(data.parent, number)
            patch.setattr(array_cache, "FOLDER", Path(folder, "cache"))
            remembered = [(outcome(data, **options), configured(data, **options)) for _ in range(2)]
            patch.setattr(array_cache, "FOLDER", Path(folder, "nowhere", str(number)))
            shutil.rmtree(Path(folder, "nowhere"), ignore_errors=True)
            assert remembered == [(outcome(data, **options), configured(data, **options))] * 2


# ------------------------------------------------------------------------------------ what is read


def test_what_is_known_is_not_read_again(keeping: Path, dataset: Path, reads: list[str]) -> None:
    data = dataset / "data.yaml"
    first = outcome(data)
    assert sorted(reads) == ["a.jpg", "a.txt", "b.jpg", "b.txt", "c.jpg", "c.txt"]
    reads.clear()
    assert outcome(data) == first and reads == []
    (dataset / "labels/train/b.txt").write_text("1 0.5 0.5 0.5 0.5\n")
    outcome(data)
    outcome(data)
    assert reads == ["b.txt"]
    reads.clear()
    outcome(data, sign=thumbnail)  # there is a thumbnail of each, whoever wanted none
    assert reads == []
    outcome(data, splits=("val",))
    assert reads == []
    outcome(data, ignore_scores=True)  # asks something else of the labels
    assert sorted(reads) == ["a.txt", "b.txt", "c.txt"]
    reads.clear()
    scan(data, afresh=True)
    assert len(reads) == 6


def test_a_change_that_leaves_size_and_time_is_seen(keeping: Path, dataset: Path, reads: list[str]) -> None:
    configured(dataset / "data.yaml")
    label = dataset / "labels/train/a.txt"
    status = label.stat()
    label.write_text("1 0.4 0.5 0.25 0.5\n")
    old_time(label, status)
    assert (label.stat().st_size, label.stat().st_mtime_ns) == (status.st_size, status.st_mtime_ns)
    reads.clear()
    assert scan(dataset / "data.yaml").dataset.splits["train"][0].classes.tolist() == [1]
    found = load_configured(DataConfig(path=str(dataset / "data.yaml"), image_size=64), 3)
    assert found.splits["train"][0].classes.tolist() == [1] and reads == ["a.txt"]


def test_labels_from_elsewhere_are_known_too(keeping: Path, dataset: Path, reads: list[str]) -> None:
    for path in (dataset / "labels").rglob("*.txt"):
        path.rename(dataset / "images" / path.parent.name / path.name)
    data = dataset / "data.yaml"
    first = outcome(data)
    assert sum(name == "a.txt" for name in reads) == 1
    reads.clear()
    assert outcome(data) == first and reads == []


def test_a_background_is_known(keeping: Path, dataset: Path, reads: list[str]) -> None:
    (dataset / "labels/train/a.txt").unlink()
    first = outcome(dataset / "data.yaml")
    reads.clear()
    assert outcome(dataset / "data.yaml") == first and reads == []


def test_what_changed_this_moment_is_not_believed(
    keeping: Path, dataset: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(file_cache, "TICK", 2_000_000_000)
    outcome(dataset / "data.yaml")
    outcome(dataset / "data.yaml")
    assert len(reads) == 12  # it may change again within the same tick
    now = file_cache.time.time_ns
    monkeypatch.setattr(file_cache.time, "time_ns", lambda: now() + 10_000_000_000)
    outcome(dataset / "data.yaml")
    reads.clear()
    outcome(dataset / "data.yaml")
    assert reads == []


def test_a_few_files_are_not_kept(keeping: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(file_cache, "FEW", 3)
    outcome(dataset / "data.yaml")
    assert not keeping.exists()


def test_other_code_knows_nothing(
    keeping: Path, dataset: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    outcome(dataset / "data.yaml")
    reads.clear()
    monkeypatch.setattr(file_cache, "_reader", lambda: "another version")
    outcome(dataset / "data.yaml")
    assert len(reads) == 6


def test_a_data_set_that_has_not_changed_is_not_worked_out_again(
    keeping: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    data, calls = dataset / "data.yaml", list[str]()
    original = sources.scan
    monkeypatch.setattr(sources, "scan", lambda *a, **k: calls.append("scan") or original(*a, **k))
    (dataset / "labels/train/a.txt").write_text("0 0.5 0.5 0.01 0.01\n")  # tiny: there are notes
    first = configured(data)
    assert configured(data) == first and calls == ["scan"]
    configured(data, ignore_scores=True)
    configured(data, val_fraction=0.5)
    assert calls == ["scan"] * 3
    monkeypatch.chdir(tmp_path)  # notes name files from where one stands
    configured(data)
    assert calls == ["scan"] * 4
    for change in (
        lambda: (dataset / "labels/train/orphan.txt").write_text(LABEL),
        lambda: (dataset / "labels/train/orphan.txt").rename(dataset / "labels/train/other.txt"),
        lambda: (dataset / "images/train/film.gif").write_bytes(b""),
        lambda: (dataset / "labels/val/c.txt").write_text(LABEL.replace("0.5", "0.4")),
        lambda: data.write_text(data.read_text().replace("dog", "cow")),
        lambda: (dataset / "labels/val/c.txt").rename(dataset / "labels/val/C.TXT"),
    ):
        configured(data)
        calls.clear()
        change()
        after = configured(data)
        assert calls == ["scan"] and configured(data) == after
    assert calls == ["scan"] * 2  # labels under another name: these are not remembered


def beside_in_a_folder_below(root: Path) -> Path:
    (root / "images/train/below").mkdir()
    (root / "images/train/below/x.jpg").write_bytes(picture(77))
    return root / "images/train/below/x.txt"


def beside_where_another_is_read(root: Path) -> Path:
    for label in (root / "labels/train").iterdir():
        shutil.copy(label, root / "images/train")
    return root / "images/train/t0.txt"


def in_a_linked_folder(root: Path) -> Path:
    for kind in ("images", "labels"):
        (root / kind / "train").rename(root / kind / "far")
        (root / kind / "train").mkdir()
        (root / kind / "train/link").symlink_to(root / kind / "far")
    (root / "labels/far/t0.txt").unlink()
    return root / "labels/far/T0.TXT"


@pytest.mark.parametrize(
    "place", [beside_in_a_folder_below, beside_where_another_is_read, in_a_linked_folder]
)
def test_labels_that_appear_elsewhere_are_seen(
    keeping: Path, tmp_path: Path, place: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path / "mine")
    label = place(data.parent)
    before = configured(data)
    assert configured(data) == before
    label.write_text("1 0.4 0.4 0.2 0.2\n")
    after = configured(data)
    monkeypatch.setattr(array_cache, "FOLDER", tmp_path / "nowhere")
    assert after == configured(data) != before


def test_a_data_set_that_changes_while_it_is_read_is_not_remembered(
    keeping: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = make(tmp_path / "mine")
    original, text = sources.scan, data.read_text()

    def meanwhile(*args: Any, **options: Any) -> Scan:
        add(data.parent, 1)
        data.write_text(text.replace("dog", "cow"))
        return original(*args, **options)

    monkeypatch.setattr(sources, "scan", meanwhile)
    assert "cow" in str(configured(data))
    monkeypatch.setattr(sources, "scan", original)
    (data.parent / "images/train/u1.jpg").unlink()
    (data.parent / "labels/train/u1.txt").unlink()
    data.write_text(text)
    assert "cow" not in str(configured(data))


# ------------------------------------------------------------------------------------ damaged files


def foreign(path: Path, **arrays: Any) -> None:
    with path.open("wb") as file:
        np.savez(file, **arrays)


def edit(path: Path, **others: Callable[[Any], Any]) -> None:
    with np.load(path) as archive:
        arrays = dict(archive)
    foreign(path, **arrays | {key: change(arrays[key]) for key, change in others.items() if key in arrays})


_DEEP = np.frombuffer(b"[" * 100_000, np.uint8)
DAMAGE: dict[str, Callable[[Path], object]] = {
    "empty": lambda path: path.write_bytes(b""),
    "text": lambda path: path.write_text("mine"),
    "cut off": lambda path: path.write_bytes(path.read_bytes()[:-100]),
    "a bit": lambda path: path.write_bytes(path.read_bytes().replace(b"\0\0\1", b"\0\0\2")),
    "zeros": lambda path: path.write_bytes(bytes(path.stat().st_size)),
    "one array": lambda path: np.save(path.open("wb"), np.zeros(3)),
    "other arrays": lambda path: foreign(path, paths=np.zeros(3), states=np.zeros((2, 2))),
    "a pickle": lambda path: foreign(path, paths=np.array([{}], object), states=np.zeros((1, 4), np.int64)),
    "fewer states": lambda path: edit(path, states=lambda states: states[:1]),
    "other numbers": lambda path: edit(path, numbers=lambda n: n + 9, counts=lambda n: n + 1),
    "other types": lambda path: edit(path, numbers=lambda n: n * 1.5, boxes=lambda n: n * np.float64(1)),
    "other words": lambda path: edit(path, content=lambda n: n[:, :3], odd=lambda n: n[:1]),
    "deep words": lambda path: edit(path, odd=lambda n: _DEEP, about=lambda n: _DEEP),
    "a folder": lambda path: (path.unlink(), path.mkdir()),
}  # fmt: skip


@pytest.mark.parametrize("name", DAMAGE)
def test_what_is_damaged_or_foreign_is_read_again_and_replaced(
    keeping: Path, dataset: Path, reads: list[str], name: str
) -> None:
    data = dataset / "data.yaml"
    first = outcome(data, sign=thumbnail), configured(data)
    for path in keeping.iterdir():
        DAMAGE[name](path)
    assert (outcome(data, sign=thumbnail), configured(data)) == first
    reads.clear()
    assert (outcome(data, sign=thumbnail), configured(data)) == first
    assert reads == [] or name == "a folder"


def test_where_nothing_can_be_kept_all_is_read(
    keeping: Path, dataset: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    keeping.write_text("a file where the folder would be")
    first = outcome(dataset / "data.yaml")
    monkeypatch.setattr(array_cache, "FOLDER", dataset.parent / "other")
    monkeypatch.setattr(array_cache, "LEAVE_FREE", 0.0)
    assert outcome(dataset / "data.yaml") == first
    assert len(reads) == 12 and list((dataset.parent / "other").iterdir()) == []


def test_nothing_is_written_beside_the_data(keeping: Path, dataset: Path) -> None:
    before = sorted(dataset.rglob("*"))
    outcome(dataset / "data.yaml")
    assert sorted(dataset.rglob("*")) == before
    assert all(path.suffix == ".npz" for path in keeping.iterdir()) and any(keeping.iterdir())


# -------------------------------------------------------------------------------- near duplicates


def test_a_long_comparison_is_kept_by_what_the_pictures_are(
    keeping: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = np.random.default_rng(0)
    films = [rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(4)]
    frames = [thumbnail(np.clip(film + np.int64(shade), 0, 255).astype(np.uint8))
              for film, shade in itertools.product(films, (0, 2))]  # fmt: skip
    expected = pairs_of(frames[::2], frames[1::2]), look_alikes(frames)
    assert len(expected[0]) == 4 and expected[1] == [[0, 1], [2, 3], [4, 5], [6, 7]]
    monkeypatch.setattr(near_duplicates, "_LONG", 0)
    assert (pairs_of(frames[::2], frames[1::2]), look_alikes(frames)) == expected
    monkeypatch.setattr(near_duplicates, "_alike", None)  # nothing is compared any more
    assert (pairs_of(frames[::2], frames[1::2]), look_alikes(frames)) == expected
    with pytest.raises(TypeError):
        pairs_of(frames[:4], frames[4:])


@pytest.mark.parametrize("year", [2100, 2400])
def test_a_file_from_the_future_is_known_like_another(
    keeping: Path, dataset: Path, reads: list[str], monkeypatch: pytest.MonkeyPatch, year: int
) -> None:
    """A clock that ran ahead must not cost the cache; and after 2262 nanoseconds need 64 bits."""
    image = dataset / "images/train/a.jpg"
    seconds = (year - 1970) * 31_556_952
    os.utime(image, (seconds, seconds))
    (state,) = file_cache.file_states([str(image)]).tolist()
    assert state[0] == image.stat().st_size and state[1] == image.stat().st_mtime_ns % 2**63
    monkeypatch.setattr(file_cache, "TICK", 2_000_000_000)
    now = file_cache.time.time_ns
    monkeypatch.setattr(file_cache.time, "time_ns", lambda: now() + 10_000_000_000)
    first = configured(dataset / "data.yaml")
    reads.clear()
    monkeypatch.setattr(sources, "scan", None)
    assert configured(dataset / "data.yaml") == first and reads == []


def closure(*modules: ModuleType) -> set[str]:
    """The files of these modules of the project, and of all that they import of it."""
    found: set[str] = set()
    left = [str(module.__file__) for module in modules]
    while left:
        file = left.pop()
        if file in found:
            continue
        found.add(file)
        for node in ast.walk(ast.parse(Path(file).read_text())):
            names = [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if isinstance(node, ast.ImportFrom) and node.module:
                names += [f"{node.module}.{alias.name}" for alias in node.names]
            for name in names:
                path = ROOT / f"{name.replace('.', '/')}.py"
                if name.startswith("detector.") and path.is_file():
                    left.append(str(path))
    return found


def test_the_digests_of_the_code_name_all_that_reads_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    """What a helper says that moved to a module of its own counts as well, or stale results are believed."""
    said = {str(ROOT / f"detector/{name}.py") for name in ("errors", "data/problems")}

    def digested(digest: Any) -> set[str]:
        read: set[str] = set()
        real = Path.read_bytes

        def noted(path: Path) -> bytes:
            read.add(str(path))
            return real(path)

        with monkeypatch.context() as patch:
            patch.setattr(Path, "read_bytes", noted)
            digest.__wrapped__()
        return read

    assert closure(geometry, images, labels, reading) - said <= digested(file_cache._reader)
    opens = {str(ROOT / "detector/runtime/files.py")}  # which bytes are an image is part of the name
    assert closure(geometry, images) - said - opens <= digested(image_cache._decoder)
