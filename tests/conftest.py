"""What the end-to-end tests share: the real COCO8, and a way to run `train.py` as a user would."""

from __future__ import annotations

import gc
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from detector.data.coco8 import DatasetUnavailable
from detector.data.sources import load_dataset
from detector.runtime import interrupts
from tests.starter import Starter, fork_cells
from tests.support import Run, forgetting_names

# A slow machine is no failure: no test asserts how long anything takes.
settings.register_profile("patient", deadline=None)
# More than 10,000 cases of hostile input: pytest tests/hostile -k fuzz --hypothesis-profile=long
settings.register_profile("long", deadline=None, max_examples=1500)
# The same few examples each time, so that two measurements of the tests themselves agree.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """The long forms: `--kills 20` of reliability/test_resume.py, `--seeds 3` of runs/test_science.py."""
    parser.addoption("--kills", type=int, default=3, metavar="N", help="moments at which runs are killed")
    parser.addoption("--seeds", type=int, default=1, metavar="N", help="whole trainings of each ablation")


def pytest_runtest_setup(item: pytest.Item) -> None:
    """What needs a GPU is skipped where there is none."""
    if item.get_closest_marker("cuda"):
        import torch

        if not torch.cuda.is_available():
            pytest.skip("needs a CUDA GPU")


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """The longest first: a worker that begins one as the last of all leaves the others with nothing to do."""

    def patience(item: pytest.Item) -> float:
        mark = item.get_closest_marker("timeout")
        return mark.args[0] if mark is not None else 0.0

    items.sort(key=lambda item: patience(item) < 900)


def pytest_collection_finish() -> None:
    """What was imported stays: nothing of it is looked through for garbage again and again."""
    gc.collect()
    gc.freeze()


def pytest_unconfigure() -> None:
    """Python ends as always: else Triton lists what it thinks has leaked."""
    gc.unfreeze()


@pytest.fixture
def own_names() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    with forgetting_names():
        yield


@pytest.fixture(autouse=True)
def ctrl_c(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Each test begins as a process that nobody has interrupted yet, and leaves Ctrl-C as it was."""
    monkeypatch.setattr(interrupts, "_raised", -interrupts._BURST)
    monkeypatch.setattr(interrupts, "_over", False)
    before = signal.getsignal(signal.SIGINT)
    yield
    if signal.getsignal(signal.SIGINT) is not before:
        signal.signal(signal.SIGINT, before)


@pytest.fixture(scope="session")
def coco8() -> Path:
    """The folder that holds COCO8, downloaded as a run would if it is not there yet."""
    try:
        dataset = load_dataset("datasets/coco8.yaml")
    except DatasetUnavailable as error:
        pytest.skip(str(error))
    return dataset.splits["train"][0].image.parents[3]  # <folder>/coco8/images/train/x.jpg


@pytest.fixture(scope="session")
def warm_start(tmp_path_factory: pytest.TempPathFactory, coco8: Path) -> Iterator[Starter]:
    """What `train_py` is forked from."""
    starter = Starter(tmp_path_factory.mktemp("streams"), coco8)
    yield starter
    starter.close()


@pytest.fixture
def forked_cells(warm_start: Starter, monkeypatch: pytest.MonkeyPatch) -> None:
    """Suites' processes of `train.py` are forked too."""
    fork_cells(warm_start, monkeypatch)


@pytest.fixture
def train_py(tmp_path: Path, warm_start: Starter) -> Callable[..., Run]:
    """Run `train.py` on COCO8 in a process of its own, on one thread, recorded locally only."""

    def run(*arguments: str, name: str = "run", wandb: str = "disabled", check: bool = True) -> Run:
        directory = tmp_path / name
        resuming = "--resume" in arguments
        settings = () if resuming else (f"run.dir={directory}", "train.threads=1", f"tracking.wandb={wandb}")
        started = warm_start.start((*arguments, *settings), cwd=tmp_path)
        done = warm_start.end(started, directory, limit=900)
        if check:
            assert done.code == 0, done.err
        return done

    return run
