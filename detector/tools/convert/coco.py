"""COCO's object detection JSON: one file a split, or one for all.

Read with orjson and checked here: pycocotools trusts its input, and a KeyError names no annotation.
Boxes are x, y, width, height in pixels, edges counted from 0: nothing to convert.
"""

from __future__ import annotations

import codecs
import contextlib
import json
import os
import re
from collections import defaultdict
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from detector.errors import UserError, display_path, shorten
from detector.tools.convert.files import (
    ImageIndex,
    files_below,
    image_folder,
    split_named_in,
    split_of,
)
from detector.tools.convert.records import Annotations, Box, Corners, Note, Picture, claimed_size, finite

_LISTS = ("images", "annotations", "categories")
_WHOLE = re.compile(r"(-?(?:0|[1-9][0-9]{0,18}))(?:\.0+)?")  # as text; 007 and 7 are different ids


class _Document(NamedTuple):
    """One JSON file whose three lists are there; images and annotations are not looked at yet."""

    file: Path
    images: list[Any]
    annotations: list[Any]
    categories: dict[Any, str]  # id -> name, in the order of the ids
    umbrella: str | None  # the name of a category that is no class


def read_coco(source: Path, images: Path | None, *, keep_crowd: bool) -> Annotations:
    """Read one JSON file, or all of a folder: `instances_*`, else `_annotations.coco*`, else any COCO.

    The split is named by the file (`instances_val2017.json`), else by its folder (`valid/`). Classes are in
    the order of their ids, of the first file where several differ.

    Raises:
        UserError: nothing is COCO, or a file is malformed: a whole split cannot be skipped.
    """
    if source.is_dir():
        root = Path(os.path.abspath(source))
        documents = _choose(root)
    elif source.is_file():
        root = Path(os.path.abspath(source)).parent
        documents = [_document(root / source.name, _parse(root / source.name))]
        if split_named_in(root.name) is None and root.name.lower() == "annotations":
            root = root.parent  # COCO's own layout: annotations/ beside the folders of images
    else:
        raise UserError(f"{source}: there is no such file or folder; name a COCO JSON or the folder with it")
    reader = _Reader(root, ImageIndex(image_folder(images, root)), images is not None, keep_crowd)
    for document in documents:
        reader.read(document)
    if not reader.pictures:
        first = f"the first problem is {reader.notes[0]}" if reader.notes else "it lists none"
        raise UserError(f"{display_path(source)}: no image of it can be used; {first}")
    names = tuple(dict.fromkeys(name for document in documents for name in document.categories.values()))
    if not names:
        raise UserError(f"{display_path(documents[0].file)}: it has no categories")
    return Annotations(names, tuple(reader.pictures), tuple(reader.notes), reader.crowds)


def segmentation_corners(segmentation: object) -> Corners:
    """The box around polygons (lists of x, y, …, or only one such list) or a run-length encoded mask, pixels.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(segmentation, dict):
        from faster_coco_eval import mask

        size, counts = segmentation.get("size"), segmentation.get("counts")
        if not isinstance(size, list) or len(size) != 2:
            raise ValueError("its segmentation has no size")
        height, width = (int(finite(side)) for side in size)
        encoded = {"size": [height, width], "counts": counts}
        try:
            if isinstance(counts, list):
                encoded = mask.frPyObjects(encoded, height, width)
            left, top, w, h = (float(value) for value in mask.toBbox(encoded))
        except (RuntimeError, TypeError, OverflowError) as error:
            raise ValueError(f"its segmentation is no mask: {error}") from None
        return left, top, left + w, top + h
    parts = segmentation if isinstance(segmentation, list) else []
    if not any(isinstance(part, list) for part in parts):
        parts = [parts]
    if not all(isinstance(part, list) for part in parts):
        raise ValueError("its segmentation mixes numbers and lists")
    x = [finite(value) for part in parts for value in part[0::2]]
    y = [finite(value) for part in parts for value in part[1::2]]
    if not y:
        raise ValueError("it has neither a bbox nor a segmentation")
    return min(x), min(y), max(x), max(y)


class _Reader:
    """Goes through the documents; what is noticed on the way is collected."""

    def __init__(self, root: Path, index: ImageIndex, loose: bool, keep_crowd: bool) -> None:
        self.root, self.index, self.loose, self.keep_crowd = root, index, loose, keep_crowd
        self.pictures: list[Picture] = []
        self.notes: list[Note] = []
        self.crowds = 0

    def read(self, document: _Document) -> None:
        file = document.file
        if document.umbrella is not None:
            message = "has no objects and is the supercategory of all others: it is not made a class"
            self.notes.append(
                Note("check", file, "", f"the category {shorten(document.umbrella)!r} {message}")
            )
        split = split_named_in(file.stem) or split_of(file, self.root)
        boxes = self._boxes(document)
        seen: set[Any] = set()
        for number, entry in enumerate(document.images, start=1):
            where, lost = f"image {number}", 0
            try:
                identity = _id(entry, "id")
                where = f"image {shorten(str(identity))}"
                if identity in seen:
                    raise ValueError("its id is given twice")
                seen.add(identity)
                lost = len(boxes.get(identity, ()))
                if not isinstance(name := entry.get("file_name"), str):
                    raise ValueError("it has no file_name")
                image = self.index.by_file_name(name, file, split, self.loose)
            except ValueError as error:
                self.notes.append(Note("left out", file, where, str(error), lost))
                continue
            size = claimed_size(entry.get("width"), entry.get("height"))
            chosen = split or split_of(image, self.index.root)
            self.pictures.append(Picture(image, file, chosen, size, tuple(boxes.get(identity, ()))))
        for identity in (one for one in boxes if one not in seen):  # in the file's order
            message = f"there is no image {shorten(str(identity))}"
            self.notes += [Note("dropped", file, box.where, message, 1) for box in boxes[identity]]

    def _boxes(self, document: _Document) -> dict[Any, list[Box]]:
        """The objects by the id of their image."""
        boxes: dict[Any, list[Box]] = defaultdict(list)
        for number, entry in enumerate(document.annotations, start=1):
            where = f"annotation number {number}"
            with contextlib.suppress(ValueError):  # the id is for messages only
                where = f"annotation {shorten(str(_id(entry, 'id')))}"
            try:
                image, category = _id(entry, "image_id"), _id(entry, "category_id")
                if category not in document.categories:
                    raise ValueError(f"there is no category {shorten(str(category))}")
                if entry.get("iscrowd") in (1, "1") and not self.keep_crowd:
                    self.crowds += 1
                    continue
                name = document.categories[category]
                boxes[image].append(Box(name, _corners(entry), f"{where} ({shorten(name)})"))
            except ValueError as error:
                self.notes.append(Note("dropped", document.file, where, str(error), 1))
        return boxes


def _choose(root: Path) -> list[_Document]:
    """The files to read: COCO's own folder also has captions and key points for the same images."""
    files = [path for path in files_below(root) if path.suffix.lower() == ".json"]
    for start in ("instances", "_annotations.coco"):
        if chosen := [path for path in files if path.name.startswith(start)]:
            return [_document(path, _parse(path)) for path in chosen]
    contents = {path: _parse(path, any_json=True) for path in files}
    documents = [
        _document(path, content)
        for path, content in contents.items()
        if isinstance(content, dict) and content.keys() >= set(_LISTS)
    ]
    if not documents:
        raise UserError(
            f"{display_path(root)}: none of its {len(files)} JSON files is COCO: one with images, "
            "annotations and categories"
        )
    return documents


def _parse(file: Path, any_json: bool = False) -> Any:
    """What a JSON file holds; with `any_json` None for a damaged one that does not look like COCO."""
    data = b""
    try:
        data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        try:
            return orjson.loads(data)
        except orjson.JSONDecodeError:
            return json.loads(data)  # slower, but it takes the NaN that pandas writes for what is missing
    except OSError as error:
        raise UserError(f"{display_path(file)}: cannot be read: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        if any_json and b'"annotations"' not in data:
            return None
        raise UserError(f"{display_path(file)}: is not valid JSON: {error}; export it again") from None


def _document(file: Path, content: Any) -> _Document:
    """The file's lists, and its classes; what Roboflow adds to these is the umbrella.

    Raises:
        UserError: a list is missing, or a category has no id or name of its own.
    """
    for key in _LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{display_path(file)}: is not COCO: it has no list {key!r}")

    def wrong(number: int, problem: object) -> UserError:
        return UserError(f"{display_path(file)}: category number {number}: {problem}; correct it in the JSON")

    names: dict[Any, str] = {}
    parents: dict[Any, object] = {}
    for number, entry in enumerate(content["categories"], start=1):
        try:
            identity, name = _id(entry, "id"), entry.get("name")
            if not isinstance(name, str) or not name.strip():
                raise ValueError("it has no name")
            if identity in names:
                raise ValueError("its id is given twice")
        except ValueError as error:
            raise UserError(wrong(number, error)) from None
        names[identity], parents[identity] = name.strip(), entry.get("supercategory")
    umbrella = _umbrella(names, parents, content["annotations"])
    ids: dict[str, Any] = {}
    for number, (identity, name) in enumerate(names.items(), start=1):
        if identity != umbrella and ids.setdefault(name, identity) != identity:
            raise UserError(wrong(number, f"its name {shorten(name)!r} is given twice"))
    order = sorted(ids.values(), key=lambda identity: (isinstance(identity, str), identity))
    categories = {identity: names[identity] for identity in order}
    return _Document(file, content["images"], content["annotations"], categories, names.get(umbrella))


def _umbrella(names: dict[Any, str], parents: dict[Any, object], annotations: list[Any]) -> Any:
    """The id of a category without objects that all others name as their supercategory, or None.

    Roboflow writes the project's name so, as category 0, even where a class is called the same.
    """
    used = set()
    for entry in annotations:
        with contextlib.suppress(ValueError):
            used.add(_id(entry, "category_id"))
    for identity, name in names.items():
        others = [parent for other, parent in parents.items() if other != identity]
        if others and identity not in used and all(parent == name for parent in others):
            return identity
    return None


def _id(entry: object, key: str) -> Any:
    """An id: a whole number, also as pandas and others write it (1.0, "1"), or a text. Raises ValueError."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, str) and (whole := _WHOLE.fullmatch(value)):
        value = int(whole[1])
    elif isinstance(value, float) and value.is_integer():
        value = int(value)
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError(f"it has no {key}")
    return value


def _corners(entry: dict[str, Any]) -> Corners:
    """The box, or the one around the segmentation if there is no box. Raises ValueError."""
    bbox = entry.get("bbox")
    if not bbox or bbox != bbox:  # NaN
        return segmentation_corners(entry.get("segmentation"))
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError("its bbox is not x, y, width, height")
    x, y, width, height = map(finite, bbox)
    return x, y, x + width, y + height
