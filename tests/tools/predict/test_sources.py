"""What may be predicted on, and under which names the results are kept."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from detector.errors import UserError
from detector.tools.predict.sources import find_sources, output_stems


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in (
        "b.jpg",
        "a.PNG",
        "clip.mp4",
        "notes.txt",
        "deep/c.webp",
        "deep/deeper/d.jpg",
        "empty/x.txt",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


def test_a_folder_gives_its_images_and_videos_in_order(folder: Path) -> None:
    found = find_sources([str(folder)])
    assert [path.name for path in found.images] == ["a.PNG", "b.jpg"]
    assert [path.name for path in found.videos] == ["clip.mp4"]


def test_what_is_hidden_is_no_data(folder: Path) -> None:
    (folder / "._b.jpg").touch()
    (folder / ".ipynb_checkpoints").mkdir()
    (folder / ".ipynb_checkpoints/b-checkpoint.jpg").touch()
    for source in (str(folder), "*.jpg", "**/*.jpg"):
        assert all("." not in path.name[:1] for path in find_sources([source]).images)
    assert [path.name for path in find_sources(["._b.jpg"]).images] == ["._b.jpg"]  # who asks for it gets it


def test_patterns_reach_into_folders_and_no_file_comes_twice(folder: Path) -> None:
    found = find_sources(["deep/c.webp", "**/*.*", "b.jpg", str(folder / "b.jpg")])
    assert [path.name for path in found.images] == ["c.webp", "a.PNG", "b.jpg", "d.jpg"]


def test_a_number_is_a_camera_unless_it_is_a_file(folder: Path) -> None:
    (folder / "1").mkdir()
    (folder / "1" / "x.jpg").touch()
    found = find_sources(["0", "1", "0"])
    assert found.cameras == (0,)
    assert [path.name for path in found.images] == ["x.jpg"]


@pytest.mark.usefixtures("folder")
def test_a_file_whose_name_looks_like_a_pattern() -> None:
    Path("odd[1].jpg").touch()
    assert find_sources(["odd[1].jpg"]).images == (Path("odd[1].jpg"),)


@pytest.mark.usefixtures("folder")
@pytest.mark.parametrize(
    ("source", "named"),
    [
        ("https://example.org/a.jpg", "download"),
        ("rtsp://camera/1", "URLs"),
        ("nowhere.jpg", "nowhere.jpg: there is no such file"),
        ("notes.txt", "neither an image nor a video"),
        ("empty", "no image or video"),
        ("*.gif", "matches nothing"),
        ("*.txt", "matches 1 files, but no image"),
    ],
)
def test_what_cannot_be_read_is_named(source: str, named: str) -> None:
    with pytest.raises(UserError) as error:
        find_sources([source])
    assert named in str(error.value)
    assert "\n" not in str(error.value)


def stems(*paths: str) -> list[str]:
    return [stem.as_posix() for stem in output_stems([Path(path) for path in paths])]


def test_names_are_kept_where_they_differ() -> None:
    assert stems("/x/a.jpg", "/y/deep/b.v2.png") == ["a", "b.v2"]


def test_same_names_keep_their_folders() -> None:
    assert stems("/x/train/a.jpg", "/x/val/a.jpg", "/x/val/b.jpg") == ["train/a", "val/a", "val/b"]
    assert stems("/x/a.jpg", "/x/val/A.jpg") == ["a", "val/A"]


def test_same_names_in_one_folder_are_numbered() -> None:
    assert stems("/x/a.jpg", "/x/a.png", "/x/a_2.jpg") == ["a", "a_3", "a_2"]


names = st.lists(st.sampled_from(["a", "A", "b", "a_2", "a_3"]), min_size=1, max_size=3)


@given(st.lists(st.tuples(names, st.sampled_from([".jpg", ".png", ".mp4"])), unique_by=str, max_size=8))
def test_no_two_results_share_a_name(files: list[tuple[list[str], str]]) -> None:
    found = output_stems([Path("/root", *parts).with_suffix(suffix) for parts, suffix in files])
    assert len({str(stem).casefold() for stem in found}) == len(files)
    assert all(not stem.is_absolute() and ".." not in stem.parts for stem in found)
