"""Which file is meant: exports are packed, unpacked, moved and renamed before they get here."""

from __future__ import annotations

import os
import re
import unicodedata
from collections import defaultdict
from pathlib import Path, PurePath, PurePosixPath

from detector.data.images import SUFFIXES
from detector.errors import UserError, display_path, shorten

SPLIT_NAMES = {
    "train": "train", "training": "train", "trainval": "train",
    "val": "val", "valid": "val", "validation": "val",
    "test": "test", "testing": "test",
}  # fmt: skip
# Folders that say what is in them, not which image: Annotations/a/1.xml belongs to JPEGImages/a/1.jpg.
_CONTAINERS = {"annotations", "annotation", "xml", "xmls", "labels", "jpegimages", "images", "image", "imgs"}


def files_below(folder: Path) -> list[Path]:
    """All files below a folder, absolute and sorted. Links are followed, each real folder once, so loops end.

    Hidden files are left out: macOS puts a `._photo.jpg` beside every photo, and `__MACOSX` into zip files.
    """
    walked: set[str] = set()
    found: list[Path] = []
    for parent, folders, files in os.walk(os.path.abspath(folder), followlinks=True):
        real = os.path.realpath(parent)
        if real in walked:
            folders.clear()
            continue
        walked.add(real)
        folders[:] = sorted(name for name in folders if not name.startswith(".") and name != "__MACOSX")
        found += [Path(parent, name) for name in files if not name.startswith(".")]
    return sorted(path for path in found if path.is_file())  # reading a pipe would hang


def split_named_in(part: str) -> str | None:
    """The split in a file's stem or a folder's name, such as val in `instances_val2017`; None if unclear."""
    words = {SPLIT_NAMES[word] for word in re.findall("[a-z]+", part.lower()) if word in SPLIT_NAMES}
    return words.pop() if len(words) == 1 else None


def split_of(path: PurePath, root: PurePath) -> str | None:
    """The split named by the deepest folder between `root` and a file that names one."""
    for part in reversed(path.relative_to(root).parts[:-1]):
        if split := split_named_in(part):
            return split
    return None


class ImageIndex:
    """The images below a folder, found by what an annotation calls them."""

    def __init__(self, root: Path) -> None:
        self.root = Path(os.path.abspath(root))
        self.images = [path for path in files_below(root) if path.suffix.lower() in SUFFIXES]
        self._by_name: dict[str, list[Path]] = defaultdict(list)
        self._by_stem: dict[str, list[Path]] = defaultdict(list)
        for path in self.images:
            self._by_name[_key(path.name)].append(path)
            self._by_stem[_key(path.stem)].append(path)

    def by_file_name(self, written: str, near: Path, split: str | None, loose: bool) -> Path:
        r"""The image that an annotation calls `written`, a path that may lack its first folders.

        Only images below the index's folder are ever found, whatever is written.

        Args:
            written: such as `a.jpg` or `images\a.jpg`.
            near: the annotation file; among several images, the one beside it is meant.
            split: of the annotation file, which decides where nearness does not.
            loose: whether the name without its folders is enough, if there is one such image.

        Raises:
            ValueError: there is none, or it is unclear which.
        """
        wanted = PurePosixPath(written.replace("\\", "/"))
        same_name = self._by_name.get(_key(wanted.name), [])
        parts = [_key(part) for part in wanted.parts]
        found = [path for path in same_name if [_key(part) for part in path.parts[-len(parts) :]] == parts]
        if not found and loose:
            found = same_name
        if not found:
            hint = ""
            if wanted.suffix.lower() not in SUFFIXES:
                hint = "; of this format none is read: use jpg or png"
            elif len(parts) > 1 and not loose:  # Label Studio writes where the image was on its server
                hint = f"; --images DIR looks for {shorten(wanted.name)} there"
            raise ValueError(f"there is no image {shorten(written)!r}{hint}")
        return self._nearest(found, near, split)

    def by_stem(self, xml: Path, root: Path, unique: bool) -> Path | None:
        """The image that an XML file belongs to: same stem, same folders but for `Annotations` and the like.

        Args:
            xml: the annotation file, below `root`.
            root: the dataset's folder.
            unique: whether no other XML file has this stem, so that the folders need not agree.

        Raises:
            ValueError: it is unclear which of several.
        """
        same_stem = self._by_stem.get(_key(xml.stem), [])
        folders = _told(xml, root)
        found = [path for path in same_stem if _told(path, self.root) == folders]
        if not found and unique and len(same_stem) == 1:
            found = same_stem
        return self._nearest(found, xml, split_of(xml, root)) if found else None

    def _nearest(self, found: list[Path], near: Path, split: str | None) -> Path:
        def closeness(path: Path) -> tuple[int, bool]:
            shared = len(os.path.commonpath([path.parent, near.parent])) if path.drive == near.drive else 0
            return shared, split is not None and split_of(path, self.root) == split

        best = max(map(closeness, found))
        nearest = [path for path in found if closeness(path) == best]
        if len(nearest) > 1:
            one, other = map(display_path, nearest[:2])
            raise ValueError(f"it could be {one} or {other}; rename one, or convert their folders one by one")
        return nearest[0]


def image_folder(named: Path | None, default: Path) -> Path:
    """Where the images are: `--images`, else below the source.

    Raises:
        UserError: `--images` is no folder.
    """
    if named is not None and not named.is_dir():
        raise UserError(f"--images {named}: there is no such folder")
    return named or default


def _key(name: str) -> str:
    """Names compare as where they differ least: macOS decomposes é, Windows ignores case."""
    return unicodedata.normalize("NFC", name).casefold()


def _told(path: Path, root: Path) -> list[str]:
    """The folders between root and file that tell images apart."""
    return [_key(part) for part in path.relative_to(root).parts[:-1] if _key(part) not in _CONTAINERS]
