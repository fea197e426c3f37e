"""Before the first step the processes of a run compare what they train on, and how."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
import torch

from detector.config.schema import Config, DataConfig, TrainConfig
from detector.data.sources import load_configured
from detector.errors import UserError
from detector.runtime.distributed import SingleProcess
from detector.training.prepare import conditions
from detector.training.state import TrainState
from tests.data.preflight_data import make_dataset


class SecondRank(SingleProcess):
    """Two processes, of which the other one has these facts."""

    def __init__(self, other: dict[str, object]) -> None:
        self.other = other

    def all_gather_object(self, value: Any) -> list[Any]:
        return [value, self.other]


def facts(folder: Path, extra: str = "", **train: Any) -> dict[str, object]:
    """Of a process whose copy of the data has one label more."""
    data = make_dataset(folder)
    label = min((folder / "labels/train").glob("*.txt"))
    label.write_text(label.read_text().rstrip("\n") + "\n" + extra)
    config = Config(data=DataConfig(path=str(data), cache=False), train=TrainConfig(**train))
    state = cast("TrainState", SimpleNamespace(device=torch.device("cpu"), precision_name="fp32"))
    return conditions(config, load_configured(config.data, 0), state) | {"data.path": "the same"}


def test_another_copy_of_the_data_is_noticed(tmp_path: Path) -> None:
    one, same = facts(tmp_path / "one"), facts(tmp_path / "same")
    SecondRank(same).check_alike(one)
    other = facts(tmp_path / "other", "0 0.5 0.5 0.2 0.2\n")
    with pytest.raises(UserError, match="rank 1 differs from rank 0 in the data itself"):
        SecondRank(other).check_alike(one)


def test_another_configuration_is_named_by_its_key(tmp_path: Path) -> None:
    one, other = facts(tmp_path / "one"), facts(tmp_path / "other", lr=0.25)
    with pytest.raises(UserError, match=r"^rank 1 differs from rank 0 in train\.lr: 0\.25, not "):
        SecondRank(other).check_alike(one)
