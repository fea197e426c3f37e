r"""Where the paths in a data YAML lead, when they were written for another machine or another program.

A path that exists is what it says. Else it may have backslashes (Windows), be absolute on another machine
(`/content/set/images/train`, of which the end lies beside the data YAML), or be meant as ultralytics
resolves it. What is found in such a way lies below the data YAML's folder or in a folder for datasets; nobody
is sent elsewhere.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PureWindowsPath

from detector.errors import display_path
from detector.runtime.files import read_bytes

VARIABLE = "DETECTOR_DATASETS"
_GENERIC = {"images", "labels", "data"}  # too little of a path to know a folder by


def find_root(beside: Path, written: str, entries: Sequence[str], repair: bool) -> tuple[Path, str]:
    """The dataset's folder, and how it was found where that is not simply where `path` says.

    Args:
        beside: the folder of the data YAML.
        written: its `path`.
        entries: of its splits: the folder has to hold one of them.
        repair: look elsewhere, too.
    """
    plain = _join(beside, os.path.expanduser(written))
    if not repair or _holds(plain, entries) or plain == beside:
        return plain, ""
    for candidate in _other_roots(beside, written):
        if _holds(candidate, entries):
            return candidate, f"read as {display_path(candidate)}"
    return plain, ""


def is_export(root: Path, entries: Sequence[str]) -> bool:
    """Whether Roboflow wrote the entries: as `../train/images`, for folders of which one is in `root`."""
    return any(
        entry.startswith("../") and os.path.exists(_join(root, entry.removeprefix("../")))
        for entry in entries
    )


def find_source(root: Path, beside: Path, entry: str, export: bool, repair: bool) -> tuple[Path, str]:
    """The folder or list of a split, and how it was found where that is not simply where `entry` says.

    Args:
        root: the dataset's folder.
        beside: the folder of the data YAML.
        entry: as written.
        export: the YAML has no `path`, and `is_export`. What it calls `../valid/images` is then in `root` or
            nowhere: above, there may be a neighbouring export.
        repair: look elsewhere, too.
    """
    plain = _join(root, entry)
    if entry.startswith("../"):
        inner = _join(root, entry.removeprefix("../"))
        if os.path.exists(inner) and not os.path.exists(plain):
            return inner, ""
        if export and repair and os.path.exists(plain):
            where = f"{display_path(inner)} beside the data YAML, not from {display_path(plain)}"
            return inner, f"read from {where}"
    if repair and not os.path.exists(plain):
        for candidate in other_readings(entry, root, beside):
            if os.path.exists(candidate):
                return candidate, f"read from {display_path(candidate)}"
    return plain, ""


def other_readings(written: str, *folders: Path) -> Iterator[Path]:
    """What a path that does not exist may mean: with slashes, or its end below one of the folders."""
    posix = written.replace("\\", "/")
    foreign = PureWindowsPath(written)
    for folder in dict.fromkeys(folders):
        if posix != written and not foreign.drive:
            yield _join(folder, posix)
    parts = foreign.parts[1:] if foreign.anchor else ()
    if ".." in parts:
        return
    for start in range(len(parts)):
        if start < len(parts) - 1 or parts[-1].lower() not in _GENERIC:
            for folder in dict.fromkeys(folders):
                yield folder.joinpath(*parts[start:])


def _other_roots(beside: Path, written: str) -> Iterator[Path]:
    foreign = PureWindowsPath(written)
    if not foreign.anchor:
        posix = written.replace("\\", "/")
        for folder in (beside, Path.cwd(), *_dataset_folders()):
            yield _join(folder, posix)
        return
    yield from other_readings(written, beside)
    yield beside  # the data YAML lies in the folder itself


def _dataset_folders() -> Iterator[Path]:
    """The folders in which this project and ultralytics look for datasets."""
    if folder := os.environ.get(VARIABLE):
        yield Path(os.path.abspath(os.path.expanduser(folder)))
    home = os.environ.get("YOLO_CONFIG_DIR") or os.path.expanduser("~/.config/Ultralytics")
    try:
        folder = json.loads(read_bytes(Path(home, "settings.json"), 100_000))["datasets_dir"]
    except (OSError, ValueError, LookupError, TypeError, RecursionError):
        folder = None
    if isinstance(folder, str) and os.path.isabs(folder) and "\0" not in folder:
        yield Path(os.path.normpath(folder))


def _holds(folder: Path, entries: Sequence[str]) -> bool:
    posix = [entry.replace("\\", "/") for entry in entries]
    return any(
        os.path.exists(_join(folder, path.removeprefix(above))) for path in posix for above in ("", "../")
    )


def _join(folder: Path, path: str) -> Path:
    return Path(os.path.normpath(folder / path))
