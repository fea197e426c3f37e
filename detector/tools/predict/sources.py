"""What `detector predict` is pointed at: images, folders, patterns, videos and cameras."""

from __future__ import annotations

import glob
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from detector.data.images import SUFFIXES
from detector.errors import UserError

VIDEO_SUFFIXES = frozenset({".avi", ".m4v", ".mkv", ".mov", ".mp4", ".mpeg", ".mpg", ".mpv", ".webm", ".wmv"})


@dataclass(frozen=True)
class Sources:
    """Everything that was named, each file once, in the order it was named."""

    images: tuple[Path, ...]
    videos: tuple[Path, ...]
    cameras: tuple[int, ...]


def find_sources(arguments: Sequence[str]) -> Sources:
    """Resolve the command line's SOURCE arguments.

    Raises:
        UserError: one of them names nothing that can be read.
    """
    cameras: list[int] = []
    files: dict[Path, Path] = {}  # by the absolute path, so that no file comes twice
    for argument in arguments:
        path = Path(argument).expanduser()
        if "://" in argument:
            raise UserError(f"{argument}: URLs are not read; download the file and give its path")
        if argument.isdecimal() and not path.exists():
            cameras.append(int(argument))
        elif path.is_dir():
            _add(files, _in_folder(path))
        elif not path.exists() and glob.has_magic(argument):
            _add(files, _matching(os.path.expanduser(argument)))
        elif not path.is_file():
            raise UserError(f"{argument}: there is no such file or folder")
        elif not _is_media(path):
            raise UserError(f"{argument}: neither an image nor a video: {_known()}")
        else:
            _add(files, [path])
    return Sources(
        tuple(path for path in files.values() if path.suffix.lower() in SUFFIXES),
        tuple(path for path in files.values() if path.suffix.lower() in VIDEO_SUFFIXES),
        tuple(dict.fromkeys(cameras)),
    )


def _in_folder(folder: Path) -> list[Path]:
    # What is hidden is no data: macOS leaves a `._photo.jpg` beside every photo it copies.
    found = sorted(
        path
        for path in folder.iterdir()
        if path.is_file() and _is_media(path) and not path.name.startswith(".")
    )
    if not found:
        deeper = "; for its sub-folders too: " + repr(str(folder / "**" / "*.jpg"))
        raise UserError(f"{folder}: no image or video in this folder ({_known()}){deeper}")
    return found


def _matching(pattern: str) -> list[Path]:
    matches = sorted(Path(name) for name in glob.glob(pattern, recursive=True))
    found = [path for path in matches if path.is_file() and _is_media(path)]
    if not found:
        what = f"matches {len(matches)} files, but no image or video" if matches else "matches nothing"
        raise UserError(f"{pattern}: {what} ({_known()})")
    return found


def _add(files: dict[Path, Path], found: Iterable[Path]) -> None:
    for path in found:
        files.setdefault(path.resolve(), path)


def _is_media(path: Path) -> bool:
    return path.suffix.lower() in SUFFIXES | VIDEO_SUFFIXES


def _known() -> str:
    return "known are " + " ".join(suffix[1:] for suffix in sorted(SUFFIXES | VIDEO_SUFFIXES))


def output_stems(paths: Sequence[Path]) -> list[Path]:
    """A relative path without suffix for each file, no two alike (nor on file systems without case).

    The file's own name where no two share one; else with the folders below what all have in common; a
    number tells `a.jpg` and `a.png` of one folder apart.
    """
    stems = [Path(path.stem) for path in paths]
    if len({str(stem).casefold() for stem in stems}) < len(stems):
        absolute = [Path(os.path.abspath(path)) for path in paths]
        if len({path.anchor for path in absolute}) == 1:  # else on several drives, which share no folder
            common = os.path.commonpath([path.parent for path in absolute])
            stems = [path.relative_to(common).with_suffix("") for path in absolute]
    names = {str(stem).casefold() for stem in stems}
    taken: set[str] = set()
    unique = []
    for stem in stems:
        candidate, number = stem, 1
        while str(candidate).casefold() in (taken if number == 1 else taken | names):
            number += 1
            candidate = stem.with_name(f"{stem.name}_{number}")
        taken.add(str(candidate).casefold())
        unique.append(candidate)
    return unique
