"""Output whose encoding lacks characters, as a redirected Windows console's: no traceback, same exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest

from tests.data.preflight_data import SPOILED, make_dataset
from tests.support import ROOT, environment

RUN = ("data.image_size=32", "train.steps=1", "train.device=cpu", "tracking.wandb=disabled",
       "tracking.plots=false")  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A dataset with a fault, and a run on it."""
    folder = tmp_path_factory.mktemp("streams")
    data = make_dataset(folder / "größe")
    SPOILED["non-ascii-name"].spoil(data.parent)
    SPOILED["clipped"].spoil(data.parent)
    done = subprocess.run(
        [sys.executable, str(ROOT / "train.py"), f"data.path={data}", f"run.dir={folder / 'run'}", *RUN],
        env=environment() | {"PYTHONIOENCODING": "ascii:strict", "PYTHONUTF8": "0"}, cwd=folder,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0 and "Traceback" not in done.stderr, done.stderr
    assert "gr\\xf6\\xdfe" in done.stdout + done.stderr
    return folder


COMMANDS = (
    ("check", "größe/data.yaml"),
    ("check", "größe/nothing.yaml"),
    ("compare", "run"),
    ("val", "run", "--split", "val"),
    ("theory", "--help"),
    ("val", "--help"),
    ("compare", "--help"),
    ("info", "--config", str(ROOT / "configs/coco8.yaml")),
)
# Every command in one process, and each with streams as a process begins with them.
PROGRAM = """
import json, sys
from detector.cli import main
codes = []
for command in json.loads(sys.argv[1]):
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="strict")
    codes.append(main(command))
    for stream in (sys.stdout, sys.stderr):
        print("=" * 40, file=stream, flush=True)
print(json.dumps(codes))
"""


@cache
def ended(folder: Path, **settings: str) -> tuple[list[int], list[bytes], list[bytes]]:
    """The exit code of each command, and what it wrote to stdout and stderr."""
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps(COMMANDS)], cwd=folder, capture_output=True, check=False,
        env=environment(None) | {"PYTHONPATH": str(ROOT), "COLUMNS": "100"} | settings,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    *said, codes = done.stdout.split(b"=" * 40)
    return json.loads(codes), said, done.stderr.split(b"=" * 40)


@pytest.mark.slow
@pytest.mark.parametrize("encoding", ["ascii", "cp1252"])
@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_a_narrow_encoding_ends_as_utf_8_does(folder: Path, command: tuple[str, ...], encoding: str) -> None:
    which = COMMANDS.index(command)
    codes, said, errors = ended(folder, PYTHONIOENCODING=f"{encoding}:strict", PYTHONUTF8="0")
    assert b"Traceback" not in errors[which] and b"UnicodeEncodeError" not in errors[which]
    assert codes[which] == ended(folder, PYTHONUTF8="1")[0][which]
    said[which].decode(encoding)
