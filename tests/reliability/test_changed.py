"""What was changed behind an interrupted run's back is noticed before it goes on."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import train as front_door
from detector.cli import main
from detector.config.experiment import edited
from detector.config.loading import load_config, save
from detector.config.schema import Config, TrainConfig
from detector.fit import fit
from detector.rundir import RunDir
from detector.training.callbacks import Callback
from detector.training.schedule import Schedule
from detector.training.state import TrainState
from tests.data.preflight_data import make_dataset
from tests.support import TINY

SHORT = (
    *TINY, "train.steps=6", "train.eval_every=3", "train.batch=4",
    "gradients.every=1", "gradients.ledger=false",
)  # fmt: skip


class StopAfter(Callback):
    """Stops a run after some steps, as Ctrl-C does."""

    def __init__(self, steps: int) -> None:
        self.steps = steps

    def on_train_begin(self, state: TrainState) -> None:
        self.state = state

    def on_step_end(self, step: int) -> None:
        self.state.should_stop = step + 1 >= self.steps


@pytest.fixture
def stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunDir:
    """A run that was stopped after four of six steps."""
    monkeypatch.chdir(tmp_path)
    data = make_dataset(tmp_path / "data")
    done = fit(load_config("coco8", [*SHORT, f"data.path={data}", "run.dir=run"]), callbacks=[StopAfter(4)])
    assert done.status == "stopped"
    return RunDir("run")


def resume(capsys: pytest.CaptureFixture[str]) -> tuple[int, str]:
    capsys.readouterr()
    return front_door.main(["--resume", "run"]), capsys.readouterr().err


def test_what_was_changed_is_refused_and_lost_rows_are_named(
    stopped: RunDir, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config = stopped.read_config().config
    faster = config.train.model_copy(update={"lr": config.train.lr * 25})
    save(config.model_copy(update={"train": faster}), stopped.config_file)
    code, said = resume(capsys)
    assert code == 2
    (line,) = said.splitlines()
    assert f"config.yaml: was changed since the run began: train.lr was {config.train.lr}, and is" in line
    assert main(["reproduce", "run", "--out", "again"]) == 2
    assert "train.lr was" in capsys.readouterr().err
    save(config, stopped.config_file)

    image = tmp_path / "data/images/train/00.jpg"
    pixels = image.read_bytes()
    changed = bytearray(pixels)
    middle = pixels.index(b"\xff\xda") + 20  # within the compressed pixels: the size stays
    changed[middle] ^= 1
    image.write_bytes(changed)
    code, said = resume(capsys)
    assert code == 2
    assert said.endswith("the images changed since run was trained on them\n")
    image.write_bytes(pixels)

    rows = stopped.history_file.read_text().splitlines(keepends=True)
    assert len(rows) == 4
    stopped.history_file.write_text(rows[0] + "garbage\n" + rows[3])
    code, said = resume(capsys)
    assert code == 0
    assert "rows are lost, of 2 step(s): 1, 2; " in said
    assert stopped.read_summary()["steps_lost"] == [1, 2]
    assert [row["step"] for row in stopped.read_history()] == [0, 3, 4, 5]
    main(["compare", "run"])
    assert "rows of its history are lost, of 2 step(s)" in "".join(capsys.readouterr())


def test_a_whole_run_has_lost_nothing(stopped: RunDir, capsys: pytest.CaptureFixture[str]) -> None:
    code, said = resume(capsys)
    assert code == 0
    assert "rows are lost" not in said
    assert "steps_lost" not in stopped.read_summary()


def test_only_what_makes_the_experiment_and_its_rhythm_is_compared() -> None:
    now = Config(train=TrainConfig(threads=3, seed=1))
    then = json.loads(Config().model_dump_json())
    assert edited(then, now) == ["train.seed was 0, and is 1"]
    del then["train"]["seed"]  # as in a checkpoint of a version that did not have the key
    assert edited(then, now) == []
    assert edited({}, now) == []


@pytest.mark.parametrize(
    ("there", "lost"), [([0, 2, 3, 5], []), ([2, 5], [0, 3]), ([], [0, 2, 3, 5]), ([0, 2, 3], [5])]
)
def test_which_rows_a_history_should_have(there: list[int], lost: list[int]) -> None:
    """Every third step, and every third evaluated; of six steps, nothing after the sixth."""
    schedule = Schedule(9, 1, 1, 3, 3, False)
    assert schedule.lost([{"step": step} for step in there], 6) == lost
