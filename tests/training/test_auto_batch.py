"""The largest batch that fits: the search, what is kept of it, and what it refuses. No GPU is needed."""

from __future__ import annotations

import math
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from detector.cli import main
from detector.config.loading import LoadedConfig, load_config
from detector.data.dataset import Dataset
from detector.data.sources import load_configured
from detector.errors import UserError
from detector.rundir import RunDir
from detector.runtime.distributed import SingleProcess
from detector.training import prepare
from detector.training.auto_batch import largest, noise, one_pass, with_batch
from tests.support import TINY
from tests.tools.doctor.drawn import draw


@given(holds=st.integers(0, 5000), most=st.integers(1, 5000))
def test_the_search_ends_a_sixteenth_below_what_fits_at_most(holds: int, most: int) -> None:
    tried: list[int] = []

    def fits(batch: int) -> bool:
        tried.append(batch)
        return batch <= holds

    found, best = largest(fits, most), min(holds, most)
    assert found <= best <= found + max(1, found // 16) - (found < most)
    assert max(tried) <= most and max(tried) <= max(1, 2 * holds)  # a try far beyond it would be slow to fail
    assert len(tried) <= 2 * math.log2(most) + 3


@pytest.fixture
def loaded(tmp_path: Path) -> LoadedConfig:
    data = draw(tmp_path / "d", train=6)
    return load_config("coco8", [*TINY, f"data.path={data}", "train.auto_batch=true", "train.steps=2"])


@pytest.fixture
def dataset(loaded: LoadedConfig) -> Dataset:
    return load_configured(loaded.config.data, 0)


def test_the_number_found_takes_the_place_of_the_batch(
    loaded: LoadedConfig, dataset: Dataset, capsys: pytest.CaptureFixture[str]
) -> None:
    found = with_batch(loaded, dataset, SingleProcess(), lambda *_: lambda batch: batch <= 3)
    assert (found.config.train.batch, found.config.train.auto_batch) == (3, False)
    assert "train.batch: 4 -> 3" in found.difference
    assert not any("auto_batch" in line for line in found.difference)
    assert "train.batch=3 is the most" in capsys.readouterr().err
    everything = with_batch(loaded, dataset, SingleProcess(), lambda *_: lambda batch: True)
    assert everything.config.train.batch == 6  # no larger than the data


def test_what_cannot_be_found_is_one_line(loaded: LoadedConfig, dataset: Dataset) -> None:
    with pytest.raises(UserError, match="not even one image of 32 px"):
        with_batch(loaded, dataset, SingleProcess(), lambda *_: lambda batch: False)
    cpu = replace(loaded, config=loaded.config.model_copy(
        update={"train": loaded.config.train.model_copy(update={"device": "cpu"})}
    ))  # fmt: skip
    with pytest.raises(UserError, match=r"this run is on cpu; leave it out, and train\.batch=4 counts"):
        with_batch(cpu, dataset, SingleProcess())


@pytest.mark.slow
def test_a_run_stores_the_number(
    loaded: LoadedConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As if a GPU held three images: what is resumed or repeated has the number, and does not look again."""
    asked = []

    def found(loaded: LoadedConfig, dataset: Dataset, dist: SingleProcess) -> LoadedConfig:
        asked.append(loaded.config.train.auto_batch)
        return with_batch(loaded, dataset, dist, lambda *_: lambda batch: batch <= 3)

    monkeypatch.setattr(prepare, "with_batch", found)
    run = RunDir(tmp_path / "run")
    assert main(["train", "--config", "coco8", *loaded.overrides, f"run.dir={run}"]) == 0
    train = run.read_config().config.train
    assert (train.batch, train.auto_batch) == (3, False)
    assert run.read_checkpoint("last")["extra"]["config"]["train"]["batch"] == 3
    assert main(["train", "--config", str(run.config_file), f"run.dir={tmp_path / 'again'}"]) == 0
    assert asked == [True, False]
    assert RunDir(tmp_path / "again").read_history()[-1]["train/loss"] == run.read_history()[-1]["train/loss"]


def test_what_is_tried_is_a_training_step_of_so_many_images_and_objects(make_state: object) -> None:
    state, loss = make_state()  # type: ignore[operator]
    before = [p.detach().clone() for p in state.model.parameters()]
    batch = noise(3, 64, objects=7)
    assert batch.images.shape == (3, 3, 64, 64)
    assert torch.bincount(batch.batch_idx.long()).tolist() == [7, 7, 7]
    one_pass(state, loss, batch)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in state.model.parameters())
    assert all(torch.equal(p, old) for p, old in zip(state.model.parameters(), before, strict=True))
