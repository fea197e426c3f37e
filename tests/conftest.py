"""What the end-to-end tests share: the real COCO8, and a way to run `train.py` as a user would."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from detector.data.coco8 import DatasetUnavailable
from detector.data.sources import load_dataset
from tests.support import ROOT, Run, environment, forgetting_names

# A slow machine is no failure: no test asserts how long anything takes.
settings.register_profile("patient", deadline=None)
# More than 10,000 cases of hostile input: pytest tests/hostile/test_fuzz.py --hypothesis-profile=long
settings.register_profile("long", deadline=None, max_examples=1500)
# The same few examples each time, so that two measurements of the tests themselves agree.
settings.register_profile("fixed", deadline=None, derandomize=True, database=None, max_examples=30)
settings.load_profile("patient")


def pytest_addoption(parser: pytest.Parser) -> None:
    """`--kills 20` is the long form of tests/reliability/test_resume.py."""
    parser.addoption("--kills", type=int, default=3, metavar="N", help="moments at which runs are killed")


@pytest.fixture
def own_names() -> Iterator[None]:
    """What a test registers is forgotten after it."""
    with forgetting_names():
        yield


@pytest.fixture(scope="session")
def coco8() -> Path:
    """The folder that holds COCO8, downloaded as a run would if it is not there yet."""
    try:
        dataset = load_dataset("datasets/coco8.yaml")
    except DatasetUnavailable as error:
        pytest.skip(str(error))
    return dataset.splits["train"][0].image.parents[3]  # <folder>/coco8/images/train/x.jpg


@pytest.fixture
def train_py(tmp_path: Path, coco8: Path) -> Callable[..., Run]:
    """Run `train.py` on COCO8 in a process of its own, on one thread, recorded locally only."""

    def run(*arguments: str, name: str = "run", wandb: str = "disabled", check: bool = True) -> Run:
        directory = tmp_path / name
        resuming = "--resume" in arguments
        settings = () if resuming else (f"run.dir={directory}", "train.threads=1", f"tracking.wandb={wandb}")
        done = subprocess.run(
            [sys.executable, str(ROOT / "train.py"), *arguments, *settings],
            cwd=tmp_path,
            env=environment(coco8),
            capture_output=True,
            text=True,
            check=False,
        )
        if check:
            assert done.returncode == 0, done.stderr
        return Run(directory, done.returncode, done.stdout, done.stderr)

    return run
