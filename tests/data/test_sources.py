"""Where data is looked for, in a project and a home that exist for the test only."""

from __future__ import annotations

import gc
import os
import shutil
from functools import partial
from pathlib import Path

import pytest

from detector.config.schema import DataConfig
from detector.data import sources
from detector.data.data_yaml import read_data_yaml
from detector.data.shapes import NAMES, render_shapes
from detector.data.sources import DatasetUnavailable, datasets_dir, load_configured, load_dataset, locate
from detector.errors import UserError

SHIPPED = Path(__file__).resolve().parents[2] / "datasets"


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A project with the shipped data YAMLs and nothing else; rendering is short, downloading fails."""
    root = tmp_path / "project"
    (root / "datasets").mkdir(parents=True)
    for name in ("coco8.yaml", "shapes.yaml"):
        shutil.copy(SHIPPED / name, root / "datasets" / name)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    monkeypatch.setattr(sources, "PROJECT", root)
    monkeypatch.setattr(sources, "DOWNLOADS", root)
    monkeypatch.delenv("DETECTOR_DATASETS", raising=False)
    monkeypatch.setattr(sources, "render_shapes", partial(render_shapes, train=3, val=2, size=32))
    monkeypatch.setattr(sources, "fetch_coco8", no_network)
    return root


def no_network(destination: Path) -> Path:
    raise DatasetUnavailable(f"to {destination}")


def place_coco8(folder: Path, dataset: Path) -> None:
    """Something that looks like COCO8."""
    shutil.copytree(dataset, folder / "coco8")


def test_the_shipped_coco8_yaml() -> None:
    data = read_data_yaml(SHIPPED / "coco8.yaml")
    assert len(data.names) == 80
    assert [data.names[index] for index in (0, 45, 79)] == ["person", "bowl", "toothbrush"]
    assert (data.source, data.path, list(data.splits)) == ("coco8", "coco8", ["train", "val"])


def test_the_shipped_shapes_yaml() -> None:
    data = read_data_yaml(SHIPPED / "shapes.yaml")
    assert data.names == NAMES and data.source == "shapes"


def test_the_shipped_folder_ignores_everything_but_descriptions() -> None:
    lines = [line for line in (SHIPPED / ".gitignore").read_text().splitlines() if not line.startswith("#")]
    assert lines == ["*", "!*.yaml", "!.gitignore"]


def test_the_folder_for_datasets(project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert datasets_dir() == project / "datasets"
    monkeypatch.setenv("DETECTOR_DATASETS", "../mine")
    assert datasets_dir() == tmp_path / "mine"
    monkeypatch.setenv("DETECTOR_DATASETS", "")
    assert datasets_dir() == project / "datasets"


def test_locate(project: Path, tmp_path: Path) -> None:
    shipped = project / "datasets" / "coco8.yaml"
    assert locate("datasets/coco8.yaml") == shipped == locate(str(shipped))
    assert locate("coco8.yaml") == shipped  # by its name
    own = tmp_path / "elsewhere" / "datasets" / "coco8.yaml"
    own.parent.mkdir()
    own.write_text("")
    assert locate("datasets/coco8.yaml") == own  # the working directory comes first


@pytest.mark.parametrize(("written", "hint"), [
    ("datasets/coc8.yaml", "did you mean "), ("coc8.yaml", "did you mean "),
    ("datasets/coco8.yml", "coco8.yaml"),
    ("datasets", "is a folder; name the data YAML in it, such as "), ("zzz/qqq.yaml", "give the path of"),
    ("a\0b.yaml", "no such file"),
])  # fmt: skip
def test_locate_helps(project: Path, written: str, hint: str) -> None:
    with pytest.raises(UserError) as caught:
        locate(written)
    message = str(caught.value)
    assert message.startswith(written) and hint in message and "\n" not in message
    if hint == "did you mean ":
        assert message.endswith(f"did you mean {project}/datasets/coco8.yaml?")


def test_a_users_dataset(dataset: Path, project: Path) -> None:
    text = (dataset / "data.yaml").read_text()
    (dataset / "data.yaml").write_text(text + "source: https://example.com/where-it-came-from\n")
    assert load_dataset(str(dataset / "data.yaml")).name == "mine"
    (dataset / "labels/val/c.txt").write_text("0 0.5 0.5 1 1\n0\n")
    assert len(load_dataset(str(dataset / "data.yaml"), on_error="skip").skipped) == 1


def test_python_does_not_look_for_garbage_among_many_images(
    dataset: Path, project: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(path=str(dataset / "data.yaml"))
    frozen = gc.get_freeze_count()
    load_configured(config, seed=0)
    assert gc.get_freeze_count() == frozen  # of a notebook that loads one after another, all would stay
    monkeypatch.setattr(sources, "MANY", 2)
    try:
        images = load_configured(config, seed=0).splits["train"]
        assert not any(one is images for one in gc.get_objects())
    finally:
        gc.unfreeze()
    assert any(one is images for one in gc.get_objects())
    gc.freeze()  # as conftest.py had it


def test_images_outside_a_dataset_are_read_only_if_that_is_allowed(dataset: Path, project: Path) -> None:
    other = project.parent / "other"
    for folder in ("images", "labels"):
        shutil.copytree(dataset / folder / "val", other / folder)
    listed = sorted(str(image) for image in (other / "images").iterdir())
    (dataset / "val.txt").write_text("\n".join(listed))
    description = dataset / "data.yaml"
    description.write_text("train: images/train\nval: val.txt\nnames: [a, b, c]\n")
    with pytest.raises(UserError, match="allow_outside"):
        load_dataset(str(description))
    allowed = load_dataset(str(description), allow_outside=True)
    assert [str(item.image) for item in allowed.splits["val"]] == listed


@pytest.mark.parametrize("path", ["/", "/../..", "~/", "~/..", "~/link", "/proc/self/root"])
def test_no_list_reaches_the_whole_machine_by_way_of_path(
    dataset: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str
) -> None:
    """A stranger's data YAML says which folder is the dataset's; that is not all of somebody's own."""
    home = tmp_path / "homes/me"
    for folder in ("images", "labels"):
        shutil.copytree(dataset / folder / "val", home / "private" / folder)
    dataset = dataset.rename(home / "mine")
    monkeypatch.setenv("HOME", str(home))
    (home / "link").symlink_to("..")
    (dataset / "val.txt").write_text(f"{home}/private/images/c.jpg\n{dataset}/images/val/c.jpg\n")
    base = os.path.realpath(os.path.expanduser(path))
    splits = {"train": "images/train", "val": "val.txt"}
    splits = {split: os.path.relpath(dataset / place, base) for split, place in splits.items()}
    described = dataset / "data.yaml"
    lines = [f"path: {path}", *(f"{split}: {place}" for split, place in splits.items()), "names: [a, b, c]"]
    described.write_text("\n".join(lines))
    with pytest.raises(UserError, match=r"val\.txt:1: .* lies outside the dataset's folder .*mine; "):
        load_dataset(str(described))
    assert len(load_dataset(str(described), "skip").splits["val"]) == 1
    assert load_dataset(str(described), allow_outside=True).splits["val"][0].image.parts[-3] == "private"


def test_shapes_are_rendered_once_into_the_project(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users"
    users.mkdir()
    monkeypatch.setenv("DETECTOR_DATASETS", str(users))
    first = load_dataset("datasets/shapes.yaml")
    assert first.name == "shapes" and len(first.splits["train"]) == 3
    assert list(users.iterdir()) == []  # never into the user's folder
    monkeypatch.setattr(sources, "render_shapes", None)  # would fail if it were called again
    assert load_dataset("datasets/shapes.yaml").fingerprint == first.fingerprint
    (project / "datasets" / "shapes").rename(users / "shapes")
    moved = load_dataset("datasets/shapes.yaml")
    assert moved.splits["val"][0].image.is_relative_to(users) and moved.fingerprint == first.fingerprint


def test_coco8_where_it_is_expected(
    project: Path, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users"
    place_coco8(users, dataset)
    monkeypatch.setenv("DETECTOR_DATASETS", str(users))
    assert load_dataset("datasets/coco8.yaml").splits["val"][0].image.is_relative_to(users)
    monkeypatch.delenv("DETECTOR_DATASETS")
    with pytest.raises(DatasetUnavailable, match=f"to {project}/datasets/coco8"):
        load_dataset("datasets/coco8.yaml")


@pytest.mark.parametrize("exists", [True, False])
def test_coco8_is_downloaded_where_the_user_wants_it(
    project: Path, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch, exists: bool
) -> None:
    users = tmp_path / "users"
    if exists:
        users.mkdir()
    monkeypatch.setenv("DETECTOR_DATASETS", str(users))
    monkeypatch.setattr(sources, "fetch_coco8", lambda folder: shutil.copytree(dataset, folder))
    assert load_dataset("datasets/coco8.yaml").splits["val"][0].image.is_relative_to(users / "coco8")


def test_coco8_is_downloaded_into_the_project_if_the_users_folder_is_read_only(
    project: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    users = tmp_path / "users"
    users.mkdir()
    monkeypatch.setenv("DETECTOR_DATASETS", str(users))
    monkeypatch.setattr(sources.os, "access", lambda folder, mode: Path(folder) != users)
    with pytest.raises(DatasetUnavailable, match=f"to {project}/datasets/coco8"):
        load_dataset("datasets/coco8.yaml")


def test_an_earlier_download_into_the_project_is_found(
    project: Path, tmp_path: Path, dataset: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    place_coco8(project / "datasets", dataset)
    monkeypatch.setenv("DETECTOR_DATASETS", str(tmp_path / "users"))
    assert load_dataset("datasets/coco8.yaml").name == "coco8"


def test_a_folder_for_datasets_that_cannot_be(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DETECTOR_DATASETS", "/no/such/place")
    with pytest.raises(UserError, match="DETECTOR_DATASETS is /no/such/place, which cannot be created"):
        load_dataset("datasets/coco8.yaml")


@pytest.mark.parametrize("name", ["../outside", "/tmp/outside", "a/b", "..", "."])
@pytest.mark.parametrize("source", ["coco8", "shapes"])
def test_a_source_writes_into_one_folder_only(project: Path, source: str, name: str) -> None:
    path = project / "datasets" / f"{source}.yaml"
    path.write_text(path.read_text().replace(f"path: {source}", f"path: {name}"))
    with pytest.raises(UserError, match="it must be one folder name"):
        load_dataset(str(path))
