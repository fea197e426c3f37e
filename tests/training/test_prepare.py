"""What is made of a data set before a run."""

from __future__ import annotations

from pathlib import Path

import pytest

from detector.config.loading import load_config
from detector.data import samples
from detector.runtime.distributed import SingleProcess
from detector.training import prepare
from detector.training.prepare import load_data
from tests.support import TINY
from tests.tools.doctor.drawn import draw


def test_val_is_kept_in_memory_only_beside_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw(tmp_path / "d", train=6)
    loaded = load_config("coco8", [*TINY, f"data.path={data}", "data.image_size=32"])
    images = sum(len(loader) for loader in load_data(loaded, SingleProcess())[1].values())
    assert images > 6
    for spare, cached in ((-1, False), (0, True)):
        monkeypatch.setattr(samples, "free_memory", lambda spare=spare: 4 * images * 32 * 32 * 3 + spare)
        loaders = load_data(loaded, SingleProcess())[1]
        assert [loaders[split]._samples.cached for split in ("train", "val")] == [True, cached]


@pytest.mark.parametrize("many", [10, 1000])
def test_reading_many_images_is_shown_and_only_where_they_are_read(
    many: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    data = draw(tmp_path / "d", train=12)
    loaded = load_config("coco8", [*TINY, f"data.path={data}", "data.image_size=32"])
    monkeypatch.setattr(prepare, "MANY", many)
    dataset, _, _ = load_data(loaded, SingleProcess())
    images = sum(map(len, dataset.splits.values()))
    shown = f"reading {images} images and their labels\n"
    assert capsys.readouterr().err.count(shown) == (many == 10)

    class Other(SingleProcess):
        is_main_process = False

    load_data(loaded, Other())
    assert capsys.readouterr().err == ""
