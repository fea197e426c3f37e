"""The data YAML: which folders hold which split, and what the classes are called."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from detector.config import safe_yaml
from detector.config.safe_yaml import printable
from detector.errors import UserError, has_control, spelt_out

GENERIC_STEMS = {"data", "dataset"}  # such a file is named after its folder
_MEANINGS = {
    "train": "the folder of the training images",
    "val": "the folder of the validation images",
    "names": "the classes, such as names: [cat, dog]",
}


@dataclass(frozen=True)
class DataYaml:
    """A data YAML whose values have the right types; the files it names are not looked at yet."""

    file: Path  # absolute
    root: Path  # absolute; the splits are relative to it
    names: tuple[str, ...]
    splits: dict[str, tuple[str, ...]]  # as written
    path: str  # the key `path` as written
    source: str | None  # the key `source` where it is a string: see sources.py

    @property
    def name(self) -> str:
        """What to call the dataset: the file's stem, or its folder's name for a plain `data.yaml`."""
        return spelt_out(self.file.parent.name if self.file.stem in GENERIC_STEMS else self.file.stem)

    def at(self, root: Path) -> DataYaml:
        """The same description of data that lies elsewhere."""
        return replace(self, root=Path(os.path.abspath(root)))

    def sources(self, split: str) -> list[Path]:
        """The folders and list files of a split.

        Raises:
            UserError: one is missing, or a file is not a .txt list.
        """
        found = []
        for entry in self.splits[split]:
            path = Path(os.path.normpath(self.root / entry))
            if not os.path.exists(path) and entry.startswith("../"):
                # Roboflow writes `../train/images` for a folder that is beside the YAML.
                path = Path(os.path.normpath(self.root / entry.removeprefix("../")))
            if not os.path.exists(path):  # unlike Path.exists, no error for an overlong name
                expected = shown(Path(os.path.normpath(self.root / entry)))
                raise UserError(f"{shown(self.file)}: {split!r} names {expected}, which does not exist; "
                                f"correct {split!r} or 'path'")  # fmt: skip
            if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".txt"):
                raise UserError(f"{shown(self.file)}: {split!r} names {shown(path)}, which is neither a "
                                f"folder nor a .txt list of images")  # fmt: skip
            found.append(path)
        return found

    def describe(self, split: str) -> str:
        """The sources of a split, for a message."""
        return ", ".join(map(shown, self.sources(split)))


def read_data_yaml(path: Path) -> DataYaml:
    """Read a data YAML. Keys that are not needed are ignored; none is ever executed.

    Raises:
        UserError: the file is missing or no YAML, or a value is missing or of the wrong type.
    """
    file = Path(os.path.abspath(path))
    document = safe_yaml.read(file, shown(file))
    content = document.value
    if not isinstance(content, dict):
        raise UserError(f"{shown(file)}: expected the keys train, val and names; this is no data YAML")
    for key in ("train", "val", "names"):
        if key not in content or content[key].value is None:
            raise UserError(f"{shown(file)}: {key!r} is missing; add {_MEANINGS[key]}")
    names = _names(content["names"])
    nc = content.get("nc")
    if nc is not None and nc.value != len(names):
        raise UserError(f"{nc.where}: nc is {nc} but names has {len(names)}; correct or remove nc")
    splits = {
        split: _entries(split, content[split])
        for split in ("train", "val", "test")
        if split in content and content[split].value is not None
    }
    root, source = ".", None
    if "path" in content and content["path"].value is not None:
        root = content["path"].value
        if not _is_path(root):
            raise UserError(f"{content['path'].where}: path is {content['path']}; write the dataset's folder")
    if "source" in content and isinstance(content["source"].value, str):
        source = content["source"].value
    base = Path(os.path.normpath(file.parent / os.path.expanduser(root)))
    return DataYaml(file, base, names, splits, root, source)


def shown(path: Path) -> str:
    """A path as the user would write it: relative to the working directory where it is below it.

    For messages only: control characters in it are spelt out.
    """
    path = Path(os.path.abspath(path))
    return spelt_out(str(path.relative_to(Path.cwd()) if path.is_relative_to(Path.cwd()) else path))


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _entries(split: str, value: safe_yaml.Value) -> tuple[str, ...]:
    """The folders and lists of one split, as written."""
    entries = value.value if isinstance(value.value, list) else [value.value]
    if not entries or not all(map(_is_path, entries)):
        raise UserError(f"{value.where}: {split!r} must be a folder, a .txt list, or a list of these")
    return tuple(entries)


def _names(value: safe_yaml.Value) -> tuple[str, ...]:
    """The class names by id, from a list or from a map 0..n-1."""
    names = value.value
    if isinstance(names, dict):
        ids = [str(index) for index in range(len(names))]
        if set(names) != set(ids):
            raise UserError(f"{value.where}: the ids in names must be 0 to {len(names) - 1}, each once")
        names = [names[index].value for index in ids]
    if not isinstance(names, list) or not names:
        raise UserError(f"{value.where}: names must list the classes, such as [cat, dog]")
    for index, name in enumerate(names):
        # YAML reads no, off and the like as booleans; an integer is surely meant as written.
        if not isinstance(name, str) and type(name) is not int:
            raise UserError(
                f"{value.where}: class {index} in names is {printable(repr(name))}; put it in quotes"
            )
        if isinstance(name, str) and has_control(name):
            raise UserError(f"{value.where}: class {index} in names holds a control character; "
                            f"write one line of text instead of {printable(name)}")  # fmt: skip
    words = tuple(map(str, names))
    first = {word: index for index, word in reversed(list(enumerate(words)))}
    for index, word in enumerate(words):
        if first[word] != index:
            raise UserError(
                f"{value.where}: classes {first[word]} and {index} are both {printable(word)!r}; rename one"
            )
    return words
