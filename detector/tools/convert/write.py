"""A dataset in the YOLO format on disk: made beside the destination, and renamed when it is complete."""

from __future__ import annotations

import errno
import json
import os
import re
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import yaml

from detector.errors import UserError

LinkKind = Literal["hard", "sym"]

MAX_NAME = 150  # characters: far below every file system's limit, with room for a number


@dataclass(frozen=True)
class Entry:
    """One image of the dataset to be written."""

    image: Path  # absolute
    split: str
    lines: tuple[str, ...]  # of its label file


def check_destination(destination: Path, source: Path) -> None:
    """Refuse a destination that holds something, or that would put files beside the source's.

    Raises:
        UserError: it exists and is no empty folder, its parent does not exist, or it lies inside the source.
    """
    if destination.is_symlink() or (destination.exists() and not destination.is_dir()):
        raise UserError(f"{destination}: exists already; name a new folder")
    if destination.is_dir() and any(destination.iterdir()):
        raise UserError(f"{destination}: exists and is not empty; name a new folder")
    real = Path(os.path.realpath(destination))
    if real == Path.cwd():
        raise UserError(f"{destination}: is the working directory; name a new folder")
    if not real.parent.is_dir():
        raise UserError(f"{destination}: its parent folder does not exist; make it first")
    inside = Path(os.path.realpath(source))
    if real.is_relative_to(inside):
        raise UserError(
            f"{destination}: lies inside {source}, where nothing is written; name a folder outside it"
        )


def write_dataset(
    destination: Path,
    entries: Sequence[Entry],
    names: Sequence[str],
    report: object,
    link: LinkKind | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write images, labels, data.yaml and conversion.json.

    Args:
        destination: a new or empty folder, see `check_destination`.
        entries: the images; their names are made unique over all splits.
        names: of the classes, by id.
        report: what `conversion.json` is to hold.
        link: None copies the images.
        progress: called with the number of images written so far.

    Raises:
        UserError: a file cannot be written, or linked; nothing is left behind.
    """
    real = Path(os.path.realpath(destination))
    try:
        with tempfile.TemporaryDirectory(dir=real.parent, prefix=f".{real.name}-") as folder:
            content = Path(folder, "content")
            content.mkdir()  # unlike the temporary folder, with the usual permissions
            _write_content(content, entries, link, progress)
            (content / "data.yaml").write_text(
                data_yaml(names, [entry.split for entry in entries]), encoding="utf-8"
            )
            text = json.dumps(report, indent=1, ensure_ascii=False)
            (content / "conversion.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
            if real.is_dir():
                real.rmdir()  # it was empty; if it no longer is, this fails
            content.rename(real)
    except OSError as error:
        hint = ""
        if link == "hard" and error.errno in (errno.EXDEV, errno.EPERM, errno.EMLINK):
            hint = "; --link sym works between file systems"
        raise UserError(f"{destination}: cannot be written: {error.strerror}{hint}") from error


def data_yaml(names: Sequence[str], splits: Sequence[str]) -> str:
    """The data YAML. Names are quoted: YAML would read some as numbers or booleans."""
    lines = [f"{split}: images/{split}" for split in ("train", "val", "test") if split in splits]
    lines.append("names:")
    for index, name in enumerate(names):
        quoted = yaml.safe_dump(name, default_style='"', allow_unicode=True, width=10**9).strip()
        lines.append(f"  {index}: {quoted}")
    return "\n".join(lines) + "\n"


def unique_names(images: Sequence[Path]) -> list[str]:
    """A file name for each image, without folders, such that no two share a label file.

    An image keeps its name if no other has the same, whatever the case and the suffix. Otherwise its folder's
    name is put before it, and a number after it if that is not enough.
    """
    plain = [_harmless(image.stem) for image in images]
    often = Counter(name.casefold() for name in plain)
    chosen: list[str] = []
    taken: set[str] = {name for name, count in often.items() if count == 1}
    for image, name in zip(images, plain, strict=True):
        if often[name.casefold()] > 1:
            base = _harmless(f"{image.parent.name}_{image.stem}")
            name, number = base, 2
            while name.casefold() in taken:
                name, number = f"{base}-{number}", number + 1
            taken.add(name.casefold())
        chosen.append(name + image.suffix.lower())
    return chosen


def _harmless(stem: str) -> str:
    """A stem that every file system takes and that no reader overlooks as hidden."""
    stem = re.sub(r'[\x00-\x1f\x7f<>:"/\\|?*]', "_", stem).strip()[:MAX_NAME].rstrip(". ")
    return re.sub(r"^\.+", "_", stem) or "_"


def _write_content(
    content: Path, entries: Sequence[Entry], link: LinkKind | None, progress: Callable[[int], None]
) -> None:
    for kind in ("images", "labels"):
        for split in {entry.split for entry in entries}:
            (content / kind / split).mkdir(parents=True)
    names = unique_names([entry.image for entry in entries])
    for done, (entry, name) in enumerate(zip(entries, names, strict=True), start=1):
        target = content / "images" / entry.split / name
        if link == "hard":
            os.link(os.path.realpath(entry.image), target)
        elif link == "sym":
            os.symlink(os.path.realpath(entry.image), target)
        else:
            shutil.copyfile(entry.image, target)
        labels = content / "labels" / entry.split / f"{Path(name).stem}.txt"
        labels.write_text("".join(f"{line}\n" for line in entry.lines), encoding="utf-8")
        progress(done)
