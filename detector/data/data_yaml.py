"""The data YAML: which folders hold which split, and what the classes are called."""

from __future__ import annotations

import os
from dataclasses import dataclass, replace
from pathlib import Path

from detector.config import safe_yaml
from detector.config.messages import near
from detector.data.places import find_root, find_source, is_export
from detector.data.problems import Problem, Severity
from detector.errors import UserError, display_path, escape_control, has_control, shorten

GENERIC_STEMS = {"data", "dataset"}  # such a file is named after its folder
MOST_CLASSES = 10_000  # that may go without names
_SPLITS = {"train": ("train",), "val": ("val", "valid", "validation"), "test": ("test",)}  # and other names
_READ = {"names", "nc", "path", "source", "kpt_shape", *(one for each in _SPLITS.values() for one in each)}
_TYPO = 0.8  # how much a key is like a split's name: val_fraction is not meant to be one
_MEANINGS = {
    "train": "the folder of the training images",
    "val": "the folder of the validation images, or let data.val_fraction=0.2 hold out a fifth of 'train'",
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
    repair: bool = True  # whether what is written for another machine or program is understood
    keypoints: int = 0  # fields of keypoints that follow a box in a label file
    problems: tuple[Problem, ...] = ()  # how it was understood
    unread: tuple[str, ...] = ()  # keys that mean nothing here

    @property
    def name(self) -> str:
        """What to call the dataset: the file's stem, or its folder's name for a plain `data.yaml`."""
        stem, folder = self.file.stem, self.file.parent.name  # the root of a file system has no name
        return escape_control(folder if folder and stem in GENERIC_STEMS else stem)

    @property
    def folders(self) -> tuple[Path, ...]:
        """Where a list file may name images: below the dataset's folder, and below the YAML's.

        A `path` that holds the user's home, such as `/`, is no dataset's folder: with it, a stranger's list
        could name any file of the machine.
        """
        home = os.path.realpath(os.path.expanduser("~"))
        root = os.path.realpath(self.root)
        wide = root == os.path.dirname(root) or Path(home).is_relative_to(root)
        return (self.file.parent,) if wide else (self.root, self.file.parent)

    def at(self, root: Path) -> DataYaml:
        """The same description of data that lies elsewhere."""
        return replace(self, root=Path(os.path.abspath(root)), path=str(root), problems=())

    def require(self, split: str) -> None:
        """Raise UserError if there is no such split."""
        if split not in self.splits:
            if split in _MEANINGS:
                typo = next(filter(None, (near(name, self.unread, _TYPO) for name in _SPLITS[split])), None)
                advice = f"add {_MEANINGS[split]}" if typo is None else _meant(split, typo)
                raise UserError(f"{display_path(self.file)}: {split!r} is missing; {advice}")
            raise UserError(
                f"{display_path(self.file)}: has no split {split!r}, only {', '.join(self.splits)}"
            )

    def without_val(self) -> DataYaml:
        """The same without a val split. One may be named, but must be the folder of train, or not there.

        Raises:
            UserError: there is one.
        """
        if self.splits.get("val", self.splits.get("train")) != self.splits.get("train"):
            try:
                self.sources("val", [])
            except UserError:
                pass  # Roboflow names folders that it does not export
            else:
                raise UserError(
                    f"{display_path(self.file)}: has a val split; remove it, or leave data.val_fraction out"
                )
        return replace(self, splits={split: self.splits[split] for split in self.splits if split != "val"})

    def sources(self, split: str, problems: list[Problem]) -> list[Path]:
        """The folders and list files of a split; how they were found is added to `problems`.

        Raises:
            UserError: one is missing, or a file is not a .txt list.
        """
        found = []
        export = self.path == "." and is_export(
            self.root, [one for each in self.splits.values() for one in each]
        )
        for entry in self.splits[split]:
            path, remark = find_source(self.root, self.file.parent, entry, export, self.repair)
            if remark:
                message = f"{split!r} is {shorten(entry)}, {remark}"
                problems.append(Problem(self.file, None, message, "path", "repair"))
            here = display_path(self.file)
            if not os.path.exists(path):  # unlike Path.exists, no error for an overlong name
                hint = f"correct {split!r} or 'path'"
                if "\\" in entry:
                    hint = f"write / instead of \\, and {hint}"
                elif os.path.isabs(entry):
                    hint += f"; its end is not below {display_path(self.file.parent)} either"
                elif remark:
                    hint += f"; {entry} may be a neighbour's: write path: {self.root} where it is meant"
                raise UserError(f"{here}: {split!r} names {display_path(path)}, which does not exist; {hint}")
            if not path.is_dir() and not (path.is_file() and path.suffix.lower() == ".txt"):
                raise UserError(
                    f"{here}: {split!r} names {display_path(path)}, which is neither a folder nor a .txt "
                    "list of images"
                )
            found.append(path)
        return found


def read_data_yaml(path: Path, *, repair: bool = True) -> DataYaml:
    """Read a data YAML. Keys that are not needed are ignored; none is ever executed.

    Args:
        path: the file.
        repair: understand what is written for another machine or program, such as `valid` for `val`.

    Raises:
        UserError: the file is missing or no YAML, or a value is missing or of the wrong type.
    """
    file = Path(os.path.abspath(path))
    document = safe_yaml.read(file, display_path(file))
    content = document.value
    if not isinstance(content, dict):
        raise UserError(f"{display_path(file)}: expected the keys train, val and names; this is no data YAML")
    given = {key: value for key, value in content.items() if value.value is not None}
    problems: list[Problem] = []

    def understood(kind: str, severity: Severity, message: str) -> None:
        problems.append(Problem(file, None, message, kind, severity))

    splits = {}
    for split, aliases in _SPLITS.items():
        if key := next((key for key in aliases[: None if repair else 1] if key in given), None):
            splits[split] = _entries(key, given[key])
            if key != split:
                understood("split-name", "note", f"{key!r} is read as {split!r}")
    unread = tuple(key for key in given if key not in _READ)
    if not splits:
        DataYaml(file, file.parent, (), {}, ".", None, unread=unread).require("train")
    nc, typo = given.get("nc"), near("names", unread)
    meant = _meant("names", typo) if typo is not None else ""
    if "names" in given:
        names = _names(given["names"])
        if nc is not None and nc.value != len(names):
            raise UserError(f"{nc.where}: nc is {nc} but names has {len(names)}; correct or remove nc")
    elif repair and nc is not None:
        if type(nc.value) is not int or not 0 < nc.value <= MOST_CLASSES:
            raise UserError(f"{nc.where}: nc is {nc}; write the number of classes, or their names")
        names = tuple(f"class_{index}" for index in range(nc.value))
        called = f"has no names; the classes are called {names[0]} to {names[-1]}"
        understood("no-names", "note", "; ".join(filter(None, (called, meant))))
    else:
        advice = meant or "add the classes, such as names: [cat, dog]"
        raise UserError(f"{display_path(file)}: 'names' is missing; {advice}")
    written, source = ".", None
    if "path" in given:
        written = given["path"].value
        if not _is_path(written):
            raise UserError(f"{given['path'].where}: path is {given['path']}; write the dataset's folder")
    if "source" in given and isinstance(given["source"].value, str):
        source = given["source"].value
    entries = [entry for split in splits.values() for entry in split]
    root, remark = find_root(file.parent, written, entries, repair)
    if remark:
        understood("path", "repair", f"path is {shorten(written)}, {remark}")
    return DataYaml(
        file,
        root,
        names,
        splits,
        written,
        source,
        repair,
        _keypoints(given.get("kpt_shape")),
        tuple(problems),
        unread,
    )


def _meant(key: str, typo: str) -> str:
    return f"did you mean {key}, not {shorten(repr(typo))}?"


def _is_path(value: object) -> bool:
    return isinstance(value, str) and bool(value.strip()) and "\0" not in value


def _entries(split: str, value: safe_yaml.Value) -> tuple[str, ...]:
    """The folders and lists of one split, as written."""
    entries = value.value if isinstance(value.value, list) else [value.value]
    if not entries or not all(map(_is_path, entries)):
        raise UserError(f"{value.where}: {split!r} must be a folder, a .txt list, or a list of these")
    return tuple(entries)


def _keypoints(shape: safe_yaml.Value | None) -> int:
    """How many fields `kpt_shape: [points, values a point]` adds to a label line; 0 where it says nothing."""
    if shape is None or not isinstance(shape.value, list) or len(shape.value) != 2:
        return 0
    points, values = shape.value
    return points * values if type(points) is type(values) is int and points > 0 and values in (2, 3) else 0


def _names(value: safe_yaml.Value) -> tuple[str, ...]:
    """The class names by id, from a list or from a map 0..n-1."""
    names = value.value
    if isinstance(names, dict):
        ids = [str(index) for index in range(len(names))]
        if set(names) != set(ids):
            missing = next((index for index in ids if index not in names), "0")
            raise UserError(f"{value.where}: the ids in names must be 0 to {len(names) - 1}, each once; "
                            f"{missing} is missing")  # fmt: skip
        names = [names[index].value for index in ids]
    if not isinstance(names, list) or not names:
        raise UserError(f"{value.where}: names must list the classes, such as [cat, dog]")
    for index, name in enumerate(names):
        # YAML reads no, off and the like as booleans; an integer is surely meant as written.
        if not isinstance(name, str) and type(name) is not int:
            raise UserError(
                f"{value.where}: class {index} in names is {shorten(repr(name))}; put it in quotes"
            )
        if isinstance(name, str) and has_control(name):
            raise UserError(f"{value.where}: class {index} in names holds a control character; "
                            f"write one line of text instead of {shorten(name)}")  # fmt: skip
    words = tuple(map(str, names))
    first = {word: index for index, word in reversed(list(enumerate(words)))}
    for index, word in enumerate(words):
        if first[word] != index:
            raise UserError(
                f"{value.where}: classes {first[word]} and {index} are both {shorten(word)!r}; rename one"
            )
    return words
