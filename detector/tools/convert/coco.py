"""COCO's object detection JSON: one file a split, or one for all.

Read with orjson and checked here: pycocotools trusts its input, and a KeyError names no annotation.
Boxes are x, y, width, height in pixels, edges counted from 0: nothing to convert.
"""

from __future__ import annotations

import codecs
import contextlib
import os
from collections import defaultdict
from pathlib import Path, PurePosixPath
from typing import Any, NamedTuple

import orjson

from detector.config.safe_yaml import printable
from detector.data.data_yaml import shown
from detector.errors import UserError
from detector.tools.convert.files import (
    ImageIndex,
    files_below,
    image_folder,
    safe_relative,
    split_named_in,
    split_of,
)
from detector.tools.convert.records import Annotations, Box, Corners, Note, Picture, claimed_size, finite

_LISTS = ("images", "annotations", "categories")


class _Document(NamedTuple):
    """One JSON file whose three lists are there; their entries are not looked at yet."""

    file: Path
    images: list[Any]
    annotations: list[Any]
    categories: dict[Any, str]  # id -> name, in the order of the ids
    parents: dict[str, object]  # name -> supercategory


def read_coco(source: Path, images: Path | None, *, keep_crowd: bool) -> Annotations:
    """Read one JSON file, or all of a folder: `instances_*`, else `_annotations.coco*`, else any COCO.

    The split is named by the file (`instances_val2017.json`), else by its folder (`valid/`). Classes are in
    the order of their ids, of the first file where several differ.

    Raises:
        UserError: nothing is COCO, or a file is malformed: a whole split cannot be skipped.
    """
    if source.is_dir():
        root = Path(os.path.abspath(source))
        files = _choose(root)
    elif source.is_file():
        root = Path(os.path.abspath(source)).parent
        files = [root / source.name]
        if split_named_in(root.name) is None and root.name.lower() == "annotations":
            root = root.parent  # COCO's own layout: annotations/ beside the folders of images
    else:
        raise UserError(f"{source}: there is no such file or folder; name a COCO JSON or the folder with it")
    documents = [_load(file) for file in files]
    index = ImageIndex(image_folder(images, root))
    reader = _Reader(root, index, images is not None, keep_crowd)
    for document in documents:
        reader.read(document)
    if not reader.pictures:
        first = f"the first problem is {reader.notes[0]}" if reader.notes else "it lists none"
        raise UserError(f"{shown(source)}: no image of it can be used; {first}")
    return Annotations(reader.names(documents), tuple(reader.pictures), tuple(reader.notes), reader.crowds)


def segmentation_corners(segmentation: object) -> Corners:
    """The box around polygons (flat lists of x, y) or a run-length encoded mask, in pixels.

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
    if not isinstance(segmentation, list) or not all(isinstance(part, list) for part in segmentation):
        raise ValueError("it has neither a bbox nor a segmentation")
    x = [finite(value) for part in segmentation for value in part[0::2]]
    y = [finite(value) for part in segmentation for value in part[1::2]]
    if not y:
        raise ValueError("it has neither a bbox nor a segmentation")
    return min(x), min(y), max(x), max(y)


class _Reader:
    """Goes through the documents; what is noticed on the way is collected."""

    def __init__(self, root: Path, index: ImageIndex, loose: bool, keep_crowd: bool) -> None:
        self.root, self.index, self.loose, self.keep_crowd = root, index, loose, keep_crowd
        self.pictures: list[Picture] = []
        self.notes: list[Note] = []
        self.used: set[str] = set()  # names of classes with an annotation
        self.crowds = 0

    def read(self, document: _Document) -> None:
        file = document.file
        split = split_named_in(file.stem) or split_of(file, self.root)
        boxes = self._boxes(document)
        seen: set[Any] = set()
        for number, entry in enumerate(document.images, start=1):
            where = f"image {number}"
            try:
                identity = _id(entry, "id")
                where = f"image {printable(str(identity))}"
                if identity in seen:
                    raise ValueError("its id is given twice")
                seen.add(identity)
                image = self._image(entry.get("file_name"), file, split)
            except ValueError as error:
                self.notes.append(Note("left out", file, where, str(error)))
                continue
            size = claimed_size(entry.get("width"), entry.get("height"))
            chosen = split or split_of(image, self.index.root)
            self.pictures.append(Picture(image, file, chosen, size, tuple(boxes.get(identity, ()))))
        for identity in boxes.keys() - seen:
            for box in boxes[identity]:
                self.notes.append(
                    Note("dropped", file, box.where, f"there is no image {printable(str(identity))}")
                )

    def _image(self, written: object, file: Path, split: str | None) -> Path:
        if not isinstance(written, str):
            raise ValueError("it has no file_name")
        try:
            wanted, loose = safe_relative(written), self.loose
        except ValueError as error:
            # Label Studio writes where the image was on its server. With --images the last part is enough.
            last = written.replace("\\", "/").rpartition("/")[2]
            if not self.loose or last in ("", ".", "..") or "\0" in last:
                raise ValueError(f"{error}; --images DIR looks for {printable(last)} there") from None
            wanted, loose = PurePosixPath(last), True
        return self.index.by_file_name(wanted, file, split, loose)

    def _boxes(self, document: _Document) -> dict[Any, list[Box]]:
        """The objects by the id of their image."""
        boxes: dict[Any, list[Box]] = defaultdict(list)
        for number, entry in enumerate(document.annotations, start=1):
            where = f"annotation number {number}"
            with contextlib.suppress(ValueError):  # the id is for messages only
                where = f"annotation {printable(str(_id(entry, 'id')))}"
            try:
                image, category = _id(entry, "image_id"), _id(entry, "category_id")
                if category not in document.categories:
                    raise ValueError(f"there is no category {printable(str(category))}")
                name = document.categories[category]
                self.used.add(name)
                if entry.get("iscrowd") and not self.keep_crowd:
                    self.crowds += 1
                    continue
                boxes[image].append(Box(name, _corners(entry), f"{where} ({printable(name)})"))
            except ValueError as error:
                self.notes.append(Note("dropped", document.file, where, str(error)))
        return boxes

    def names(self, documents: list[_Document]) -> tuple[str, ...]:
        """All classes: in the order of their ids in the first file, then what only later files have.

        Left out is a category that nothing belongs to and that all others name as their supercategory:
        Roboflow writes the project's name so, as category 0; it would become a class without objects.
        """
        parents: dict[str, object] = {}
        for document in documents:
            for name, parent in document.parents.items():
                parents.setdefault(name, parent)
        if not parents:
            raise UserError(f"{shown(documents[0].file)}: it has no categories")
        for name in set(parents) - self.used:
            if len(parents) > 1 and all(parents[other] == name for other in parents.keys() - {name}):
                message = (
                    f"the category {printable(name)!r} has no objects and is the supercategory of all others"
                )
                self.notes.append(Note("check", documents[0].file, "", f"{message}: it is not made a class"))
                del parents[name]
                break
        return tuple(parents)


def _choose(root: Path) -> list[Path]:
    """The files to read: COCO's own folder also has captions and key points for the same images."""
    files = [path for path in files_below(root) if path.suffix.lower() == ".json"]
    for start in ("instances", "_annotations.coco"):
        if chosen := [path for path in files if path.name.startswith(start)]:
            return chosen
    chosen = [path for path in files if _is_coco(path)]
    if not chosen:
        raise UserError(f"{shown(root)}: none of its {len(files)} JSON files is COCO: one with images, "
                        f"annotations and categories")  # fmt: skip
    return chosen


def _is_coco(file: Path) -> bool:
    try:
        data = file.read_bytes().removeprefix(codecs.BOM_UTF8)
        content = orjson.loads(data)
    except OSError:
        return True  # reading it again says why
    except orjson.JSONDecodeError:
        return b'"annotations"' in data  # a damaged one must not go unnoticed
    return isinstance(content, dict) and all(key in content for key in _LISTS)


def _load(file: Path) -> _Document:
    try:
        content = orjson.loads(file.read_bytes().removeprefix(codecs.BOM_UTF8))
    except OSError as error:
        raise UserError(f"{shown(file)}: cannot be read: {error.strerror}") from None
    except orjson.JSONDecodeError as error:
        raise UserError(f"{shown(file)}: is not valid JSON: {error}; export it again") from None
    for key in _LISTS:
        if not isinstance(content, dict) or not isinstance(content.get(key), list):
            raise UserError(f"{shown(file)}: is not COCO: it has no list {key!r}")
    categories: dict[Any, str] = {}
    for number, entry in enumerate(content["categories"], start=1):
        try:
            identity, name = _id(entry, "id"), entry.get("name")
            if not isinstance(name, str) or not name.strip():
                raise ValueError("it has no name")
            if identity in categories:
                raise ValueError("its id is given twice")
            if name.strip() in categories.values():
                raise ValueError(f"its name {printable(name)!r} is given twice")
        except ValueError as error:
            raise UserError(
                f"{shown(file)}: category number {number}: {error}; correct it in the JSON"
            ) from None
        categories[identity] = name.strip()
    order = sorted(categories, key=lambda identity: (isinstance(identity, str), identity))
    parents = {entry["name"].strip(): entry.get("supercategory") for entry in content["categories"]}
    return _Document(
        file,
        content["images"],
        content["annotations"],
        {identity: categories[identity] for identity in order},
        {categories[identity]: parents[categories[identity]] for identity in order},
    )


def _id(entry: object, key: str) -> Any:
    """An id: a number or a text. Raises ValueError."""
    value = entry.get(key) if isinstance(entry, dict) else None
    if isinstance(value, bool) or not isinstance(value, (int, str)):
        raise ValueError(f"it has no {key}")
    return value


def _corners(entry: dict[str, Any]) -> Corners:
    """The box, or the one around the segmentation if there is no box. Raises ValueError."""
    bbox = entry.get("bbox")
    if not bbox:
        return segmentation_corners(entry.get("segmentation"))
    if not isinstance(bbox, list) or len(bbox) != 4:
        raise ValueError("its bbox is not x, y, width, height")
    x, y, width, height = map(finite, bbox)
    return x, y, x + width, y + height
