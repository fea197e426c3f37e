"""Pascal VOC: one XML file an image, as of the VOC challenges, LabelImg, CVAT, Roboflow and Label Studio.

Coordinates: the VOC development kit counts pixels from 1 and includes the last one, so the whole of a
w x h image is xmin=1, ymin=1, xmax=w, ymax=h, and the box's edges are xmin - 1, ymin - 1, xmax, ymax.
With `zero_based` they are the edges themselves, counted from 0, which is what LabelImg, CVAT and
Label Studio write.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from detector.config.safe_yaml import printable
from detector.data.data_yaml import shown
from detector.errors import UserError
from detector.tools.convert.files import ImageIndex, files_below, image_folder, split_of
from detector.tools.convert.records import Annotations, Box, Kind, Note, Picture, claimed_size, finite

MAX_BYTES = 10_000_000  # of one XML file
_EDGES = ("xmin", "ymin", "xmax", "ymax")


def read_voc(
    source: Path, images: Path | None, *, zero_based: bool, keep_difficult: bool, own_splits: bool = True
) -> Annotations:
    """Read a folder of XML files, in the layout of the VOC challenges or with the images beside them.

    Splits are those of `ImageSets/Main/{train,val,test}.txt`, else of folders called train, valid or test.
    Images in none of the lists are left out, unless `own_splits` is False.

    Raises:
        UserError: there is no such folder, or nothing in it is Pascal VOC.
    """
    if not source.is_dir():
        raise UserError(f"{source}: there is no such folder; name the one with the XML files and the images")
    return _Reader(Path(os.path.abspath(source)), images, zero_based, keep_difficult).read(own_splits)


def parse_xml(data: bytes) -> ElementTree.Element:
    """Parse XML of unknown origin; every element gets its `line` as the only attribute.

    Expat is driven directly, because ElementTree neither tells lines nor refuses document types.

    Raises:
        ValueError: it is malformed, too large, or has a document type, with which entities come that
            expand to gigabytes or read files.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"the XML file is larger than {MAX_BYTES // 1_000_000} MB")
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate()
    parser.buffer_text = True

    def refuse(*_: object) -> None:
        raise ValueError("the XML has a DOCTYPE, which is refused; remove it")

    def start(tag: str, _: dict[str, str]) -> None:
        builder.start(tag, {"line": str(parser.CurrentLineNumber)})

    parser.StartDoctypeDeclHandler = refuse
    parser.StartElementHandler = start
    parser.EndElementHandler = builder.end
    parser.CharacterDataHandler = builder.data
    try:
        parser.Parse(data, True)
        return builder.close()
    except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise ValueError(f"the XML is malformed: {error}") from None


class _Reader:
    """One pass over a folder; what is noticed on the way is collected."""

    def __init__(self, source: Path, images: Path | None, zero_based: bool, keep_difficult: bool) -> None:
        self.source = source
        self.files = files_below(source)
        self.index = ImageIndex(image_folder(images, source))
        self.offset = 0.0 if zero_based else 1.0
        self.keep_difficult = keep_difficult
        self.notes: list[Note] = []
        self.names: set[str] = set()
        self.annotated: set[Path] = set()  # images with an XML file, be it usable or not
        self.difficult = 0
        self.at_zero = 0  # boxes that begin at pixel 0, which there is not when counting from 1

    def read(self, own_splits: bool) -> Annotations:
        xmls = [path for path in self.files if path.suffix.lower() == ".xml"]
        stems = Counter(path.stem for path in xmls)
        listed = self._listed(set(xmls)) if own_splits else {}
        pictures = []
        for xml in xmls:
            split = listed[xml] if listed else split_of(xml, self.source)
            if listed and split is None:
                continue
            try:
                picture = self._picture(xml, split, unique=stems[xml.stem] == 1)
            except (OSError, ValueError) as error:
                self._note("left out", xml, "", str(getattr(error, "strerror", None) or error))
            else:
                pictures.append(picture)
        if not pictures:
            reason = f"the first problem is {self.notes[0]}" if self.notes else "it has no XML file"
            raise UserError(f"{shown(self.source)}: nothing here can be used as Pascal VOC; {reason}")
        if not listed:  # the lists say what belongs to the dataset
            self._note_unlabelled()
        if self.offset and self.at_zero:
            self._note("check", self.source, "", f"{self.at_zero} boxes begin at pixel 0, but VOC counts "
                       f"from 1: if the tool counts from 0, convert with --zero-based")  # fmt: skip
        return Annotations(tuple(sorted(self.names)), tuple(pictures), tuple(self.notes), self.difficult)

    def _listed(self, xmls: set[Path]) -> dict[Path, str | None]:
        """The split of every XML file by ImageSets/Main; empty if there are no lists of splits."""
        lists: dict[tuple[Path, str], Path] = {}  # (dataset, split) -> list
        for path in self.files:
            if path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main"):
                lists[path.parents[2], path.stem.lower()] = path
        found: dict[Path, str | None] = dict.fromkeys(xmls)
        for (base, stem), path in sorted(lists.items()):
            split = {"train": "train", "val": "val", "valid": "val", "test": "test"}.get(stem)
            if stem == "trainval" and (base, "train") not in lists and (base, "val") not in lists:
                split = "train"
            if split is None:  # of one class (cat_train.txt), or of all images (CVAT's default.txt)
                continue
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{shown(path)}: the list cannot be read: {error}") from None
            for number, line in enumerate(lines, start=1):
                name = line.strip().strip('"')
                if not name:
                    continue
                xml = base / "Annotations" / f"{name}.xml"
                if xml not in found:
                    self._note("left out", path, f"line {number}", f"there is no {printable(name)}.xml")
                elif found[xml] not in (None, split):
                    self._note(
                        "check", xml, "", f"is listed in {found[xml]} and in {split}: taken for {found[xml]}"
                    )
                else:
                    found[xml] = split
        if not any(found.values()):
            return {}
        for xml in sorted(xml for xml, split in found.items() if split is None):
            self._note("left out", xml, "", "is in no list of ImageSets/Main; --split takes all files")
        return found

    def _picture(self, xml: Path, split: str | None, unique: bool) -> Picture:
        image = self.index.by_stem(xml, self.source, unique)
        if image is not None:
            self.annotated.add(image)
        root = parse_xml(xml.read_bytes())
        if root.tag != "annotation":
            hint = "; export 'Pascal VOC' or 'COCO' instead" if root.tag == "annotations" else ""
            raise ValueError(
                f"is not Pascal VOC: its root is <{printable(root.tag)}>, not <annotation>{hint}"
            )
        image = self._image(xml, image, _text(root, "filename"), unique)
        self.annotated.add(image)
        size = root.find("size")
        claimed = None if size is None else claimed_size(_text(size, "width"), _text(size, "height"))
        boxes = [box for number, element in enumerate(root.findall("object"), start=1)
                 if (box := self._box(xml, number, element)) is not None]  # fmt: skip
        return Picture(image, xml, split or split_of(image, self.index.root), claimed, tuple(boxes))

    def _image(self, xml: Path, image: Path | None, written: str, unique: bool) -> Path:
        """The image with the XML's own stem: tools pair them so, and `filename` goes stale on renaming."""
        stem = Path(written.replace("\\", "/")).stem if written else ""
        if image is None and stem:
            image = self.index.by_stem(xml.with_name(f"{stem}.xml"), self.source, unique)
        if image is None:
            raise ValueError(
                f"there is no image {printable(xml.stem)}.* for it; --images names another folder"
            )
        if stem not in ("", image.stem) and self.index.by_stem(
            xml.with_name(f"{stem}.xml"), self.source, False
        ):
            self._note(
                "check",
                xml,
                "",
                f"its <filename> is {printable(written)}, another image: taken for {image.name}",
            )
        return image

    def _box(self, xml: Path, number: int, element: ElementTree.Element) -> Box | None:
        """One object; None if it is left out."""
        name = _text(element, "name")
        where = f"object {number} ({printable(name)}), line {element.get('line')}"
        if name:
            self.names.add(name)
        if _text(element, "difficult").lower() in ("1", "true") and not self.keep_difficult:
            self.difficult += 1
            return None
        try:
            if not name:
                raise ValueError("it has no name")
            box = element.find("bndbox")
            if box is None:
                raise ValueError("it has no bndbox")
            left, top, right, bottom = (finite(_text(box, edge)) for edge in _EDGES)
        except ValueError as error:
            self._note("dropped", xml, where, str(error))
            return None
        self.at_zero += min(left, top) == 0
        return Box(name, (left - self.offset, top - self.offset, right, bottom), where)

    def _note_unlabelled(self) -> None:
        """Images without XML may be backgrounds or not annotated yet: who knows?"""
        for image in self.index.images:
            if image not in self.annotated:
                self._note(
                    "left out", image, "", "has no XML file; if nothing is in it, write one without objects"
                )

    def _note(self, kind: Kind, file: Path, where: str, message: str) -> None:
        self.notes.append(Note(kind, file, where, message))


def _text(element: ElementTree.Element, tag: str) -> str:
    """The text of a direct child: a person's parts have names and boxes of their own, one level deeper."""
    return (element.findtext(tag) or "").strip()
