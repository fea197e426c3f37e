"""Files as a stranger or an accident might leave them, each made in code and given to a real command.

A case spoils one thing below a root that holds a good dataset, configuration and finished run:

    root/data/…         two classes, three pictures, labels, data.yaml, and list.txt, which names them
    root/config.yaml    a network of a few weights, one step, on that dataset
    root/run/…          what `train.py --config config.yaml` left behind
    root/secret/…       a labelled picture outside the dataset

`{root}` in an argument stands for that folder.
"""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

Spoil = Callable[[Path], object]

CHECK = ("detector", "check", "{root}/data/data.yaml")
TRAIN = ("train.py", "--config", "{root}/config.yaml", "run.dir={root}/out")
RESUME = ("train.py", "--resume", "{root}/run")
COMPARE = ("detector", "compare", "{root}/run", "--csv", "{root}/out.csv")
INFO = ("detector", "info", "--config", "{root}/pretrained.yaml", "model.pretrained={root}/given.pt")
UNZIP = ("unzip", "{root}/given.zip")


@dataclass(frozen=True)
class Case:
    """One bad file, the command that meets it, and how that must end."""

    name: str
    spoil: Spoil
    command: tuple[str, ...]
    words: str  # part of what is printed
    code: int = 2  # 0 and 1: a clean skip, or read as what it is


def content(name: str, data: bytes | str) -> Spoil:
    """Replace a file's content."""

    def spoil(root: Path) -> None:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_bytes(data.encode() if isinstance(data, str) else data)

    return spoil


def pipe(name: str) -> Spoil:
    """A pipe that nobody writes to: whoever opens it as a file waits for ever."""

    def spoil(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.mkfifo(root / name)

    return spoil


def link(name: str, target: str) -> Spoil:
    """A symbolic link; to itself, it is a loop."""

    def spoil(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        os.symlink(target.format(root=root), root / name)

    return spoil


def folder(name: str) -> Spoil:
    """A folder where a file belongs."""

    def spoil(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        (root / name).mkdir()

    return spoil


def sparse(name: str, size: int) -> Spoil:
    """A file of many zeros that takes no room on the disk."""

    def spoil(root: Path) -> None:
        (root / name).unlink(missing_ok=True)
        with (root / name).open("wb") as file:
            file.truncate(size)

    return spoil


def damaged(name: str, damage: Callable[[bytes], bytes]) -> Spoil:
    """A file whose bytes are changed."""

    def spoil(root: Path) -> None:
        (root / name).write_bytes(damage((root / name).read_bytes()))

    return spoil


def archive(name: str, fill: Callable[[zipfile.ZipFile], object]) -> Spoil:
    """A zip file."""

    def spoil(root: Path) -> None:
        with zipfile.ZipFile(root / name, "w", zipfile.ZIP_DEFLATED) as package:
            fill(package)

    return spoil


def every_case() -> list[Case]:
    """The whole corpus."""
    from tests.hostile import images, runs, texts, weights, zips

    cases = [*texts.CASES, *images.CASES, *zips.CASES, *weights.CASES, *runs.CASES]
    assert len({case.name for case in cases}) == len(cases)
    return cases
