"""Every file of the corpus, given to the command that a user would give it to.

It ends in one clear error, or is skipped or read; never in a traceback, a hang, a terminal code, a file
written anywhere but where the run belongs, gigabytes of memory or a question to the network.
"""

from __future__ import annotations

import re
import shutil
import sys
import urllib.request
from collections.abc import Callable, Iterator
from pathlib import Path

import cv2
import numpy as np
import pytest

import train as front_door
from detector import cli
from detector.data import coco8
from detector.errors import UserError, for_terminal
from tests.hostile.corpus import RESUME, Case, every_case
from tests.hostile.watch import watched

pytestmark = pytest.mark.slow

CASES = every_case()
CONFIG = """\
data: {path: ROOT/data/data.yaml, image_size: 32}
model: {depths: [1, 1, 1, 1], widths: [8, 8, 8, 8, 8], neck_width: 8}
train: {steps: 1, batch: 2, warmup_steps: 0, device: cpu, threads: 1}
tracking: {wandb: disabled, plots: false, images: 0}
run: {name: cfg}
"""
MOST_MEMORY = 500_000_000  # bytes beyond what the process had
_CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]")


@pytest.fixture(scope="module")
def good(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The root that each case gets a copy of."""
    root = tmp_path_factory.mktemp("good") / "root"
    rng = np.random.default_rng(0)
    for name in ("data/images/train/a", "data/images/train/b", "data/images/val/c", "secret/images/s"):
        image, label = root / f"{name}.jpg", root / f"{name.replace('images', 'labels')}.txt"
        for file in (image, label):
            file.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(image), rng.integers(0, 256, (24, 32, 3), np.uint8))
        label.write_text("0 0.5 0.5 0.5 0.5\n1 0.4 0.4 0.6 0.7\n")
    (root / "data/data.yaml").write_text("train: images/train\nval: images/val\nnames: [cat, dog]\n")
    (root / "data/listed.yaml").write_text("train: list.txt\nval: images/val\nnames: [cat, dog]\n")
    (root / "data/list.txt").write_text("images/train/a.jpg\nimages/train/b.jpg\n")
    (root / "config.yaml").write_text(CONFIG.replace("ROOT", str(root)))
    (root / "pretrained.yaml").write_text(f"data: {{path: {root}/data/data.yaml}}\n")
    assert front_door.main(["--config", str(root / "config.yaml"), f"run.dir={root / 'run'}"]) == 0
    # What a command imports when it reads its first network, 200 MB, is no file's fault.
    network = root / "network.yaml"
    network.write_text("nc: 2\nbackbone:\n  - [-1, 1, Conv, [8, 3, 2]]\nhead:\n  - [[0], 1, Detect, [nc]]\n")
    assert cli.main(["info", f"model.pretrained={network}"]) == 0
    network.unlink()
    return root


@pytest.fixture
def root(good: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A fresh copy, in which the commands run; whatever they leave in a home would lie in it too."""
    root = tmp_path / "root"
    shutil.copytree(good, root, symlinks=True)
    for file in (root / "config.yaml", root / "pretrained.yaml", root / "run/config.yaml"):
        file.write_text(file.read_text().replace(str(good), str(root)))
    for name in ("HOME", "XDG_CACHE_HOME", "XDG_CONFIG_HOME", "TORCH_HOME"):
        monkeypatch.setenv(name, str(root))
    monkeypatch.delenv("DETECTOR_DATASETS", raising=False)
    monkeypatch.chdir(root)
    yield root


def snapshot(root: Path) -> dict[str, tuple[int, int]]:
    """Everything below a folder that a run must leave as it is."""
    own = {"out", "run", "out.csv"}
    found = {}
    for path in sorted(root.rglob("*")):
        if path.relative_to(root).parts[0] not in own:
            state = path.lstat()
            unchanged = (0, 0) if path.is_dir() else (state.st_mtime_ns, state.st_size)
            found[str(path)] = unchanged  # of a folder, only its content counts: a temporary file is allowed
    return found


def run(command: tuple[str, ...], root: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    """Run a command in this process, as its own would."""
    program, *arguments = (word.replace("{root}", str(root)) for word in command)
    if program == "train.py":
        return front_door.main(arguments)
    if program == "detector":
        return cli.main(arguments)
    assert program == "unzip"
    (archive,) = arguments
    monkeypatch.setattr(coco8, "download", lambda url, file, **_: shutil.copyfile(archive, file))
    try:
        coco8.fetch_coco8(root / "datasets/coco8")
    except UserError as error:
        print(f"error: {for_terminal(error)}")
        return 2
    return 0


@pytest.mark.timeout(60, func_only=True)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_ends_well(
    case: Case,
    root: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    record_property: Callable[[str, object], None],
) -> None:
    if case.command == RESUME:  # as if it had been killed before its end, else there is nothing to resume
        (root / "run/summary.json").unlink()
    case.spoil(root)
    if case.command[0] == "unzip":
        (root / "datasets").mkdir()
    before = snapshot(root)
    with watched() as took:
        code = run(case.command, root, monkeypatch)
    said = "".join(capsys.readouterr())
    assert code == case.code, said
    assert case.words in said
    assert "Traceback" not in said and not _CONTROL.search(said)
    assert max(map(len, said.splitlines())) < 3000
    if code == 2:
        assert not (root / "out").exists(), "a run began"
    assert snapshot(root) == before
    assert not took.connections
    record_property("megabytes", round(took.grown / 1e6))  # for scripts/reliability.py
    assert took.grown < MOST_MEMORY


def test_the_corpus_is_large() -> None:
    assert len(CASES) >= 60
    assert {case.command[0] for case in CASES} == {"train.py", "detector", "unzip"}


def test_what_is_watched_is_noticed() -> None:
    """A bomb and a question to the network would be."""
    with watched() as took, pytest.raises(OSError, match="no network"):
        held = bytearray(600_000_000)
        del held
        urllib.request.urlopen("http://example.org")
    assert took.connections
    if sys.platform == "linux":
        assert took.grown > MOST_MEMORY
