"""What is made of a data set before a run."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from detector.config.loading import load_config
from detector.data import samples
from detector.runtime.distributed import SingleProcess
from detector.training.prepare import load_data
from tests.support import TINY
from tests.tools.doctor.drawn import draw


def test_val_is_kept_in_memory_only_beside_train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = draw(tmp_path / "d", train=6)
    loaded = load_config("coco8", [*TINY, f"data.path={data}", "data.image_size=32"])
    images = sum(len(loader) for loader in load_data(loaded, SingleProcess())[1].values())
    assert images > 6
    for spare, cached in ((-1, False), (0, True)):
        memory = SimpleNamespace(available=4 * images * 32 * 32 * 3 + spare)
        monkeypatch.setattr(samples.psutil, "virtual_memory", lambda memory=memory: memory)
        loaders = load_data(loaded, SingleProcess())[1]
        assert [loaders[split]._samples.cached for split in ("train", "val")] == [True, cached]
