"""Pascal VOC: one XML file an image, as of the VOC challenges, LabelImg, CVAT, Roboflow and Label Studio.

Coordinates: the VOC development kit counts pixels from 1 and includes the last one, so the whole of a
w x h image is xmin=1, ymin=1, xmax=w, ymax=h, and the box's edges are xmin - 1, ymin - 1, xmax, ymax.
With `zero_based` they are the edges themselves, counted from 0, which is what LabelImg, CVAT and
Label Studio write.
"""

from __future__ import annotations

import codecs
import math
import os
import re
from collections import Counter
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from xml.etree import ElementTree
from xml.parsers import expat

from detector.errors import UserError, display_path, shorten
from detector.tools.convert.files import SPLIT_NAMES, ImageIndex, files_below, image_folder, split_of
from detector.tools.convert.records import (
    Annotations,
    Box,
    Corners,
    Kind,
    Note,
    Picture,
    claimed_size,
    finite,
)

MAX_BYTES = 10_000_000  # of one XML file
_EDGES = ("xmin", "ymin", "xmax", "ymax")
_DECLARED = re.compile(rb"""(?:\xef\xbb\xbf)?<\?xml[^>]*?encoding\s*=\s*["']([A-Za-z0-9._-]+)""")
_TEXT = re.compile(
    "utf-?(8|16)|(us-)?ascii|(iso[-_]?8859|windows|cp|latin|koi8|mac|gb|big5|euc|shift)[a-z0-9_-]*"
)
_ABOVE_ASCII = re.compile(rb"[\x80-\xff]+")


def read_voc(
    source: Path,
    images: Path | None,
    *,
    zero_based: bool,
    keep_difficult: bool,
    own_splits: bool = True,
    merge: bool = False,
) -> Annotations:
    """Read a folder of XML files, in the layout of the VOC challenges or with the images beside them.

    Splits are those of `ImageSets/Main/{train,val,test}.txt`, else of folders called train, valid or test.
    Images in none of the lists are left out, unless `own_splits` is False. With `merge` several XML files may
    belong to one image.

    Raises:
        UserError: there is no such folder, or nothing in it is Pascal VOC.
    """
    if not source.is_dir():
        raise UserError(f"{source}: there is no such folder; name the one with the XML files and the images")
    return _Reader(Path(os.path.abspath(source)), images, zero_based, keep_difficult, merge).read(own_splits)


def parse_xml(data: bytes, encoding: str | None = None) -> ElementTree.Element:
    """Parse XML of unknown origin; every element gets its `line` as the only attribute.

    Expat is driven directly, because ElementTree neither tells lines nor refuses document types. The text is
    decoded by Python, because of all encodings with several bytes a character expat knows only Unicode's.

    Args:
        data: the file's content.
        encoding: None for the one that the file declares.

    Raises:
        UnicodeDecodeError: it is not in this encoding.
        ValueError: it is malformed, too large, or has a document type, with which entities come that
            expand to gigabytes or read files.
    """
    if len(data) > MAX_BYTES:
        raise ValueError(f"the XML file is larger than {MAX_BYTES // 1_000_000} MB")
    if encoding is None:
        found = _DECLARED.match(data)
        encoding = found[1].decode().lower() if found else "utf-8"
        if data[:2] in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE) or b"\0" in data[:2]:
            encoding = "utf-16-be" if data[:1] == b"\0" else "utf-16"
        elif not _TEXT.fullmatch(encoding):  # Python has some that take hours, or are none of text
            raise ValueError(f"the XML is malformed: its encoding {encoding} is unknown")
        elif encoding.startswith("gb"):
            encoding = "gb18030"  # which has all characters of the others
    builder = ElementTree.TreeBuilder()
    parser = expat.ParserCreate("utf-8")  # whatever the file declares
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
        parser.Parse(data.decode(encoding).encode(), True)
        return builder.close()
    except (expat.ExpatError, LookupError) as error:  # LookupError: an encoding that Python does not know
        raise ValueError(f"the XML is malformed: {error}") from None


class _Reader:
    """One pass over a folder; what is noticed on the way is collected."""

    def __init__(
        self, source: Path, images: Path | None, zero_based: bool, keep_difficult: bool, merge: bool
    ) -> None:
        self.source = source
        self.files = files_below(source)
        self.xmls = [path for path in self.files if path.suffix.lower() == ".xml"]
        self.index = ImageIndex(image_folder(images, source))
        self.offset = 0.0 if zero_based else 1.0
        self.keep_difficult, self.merge = keep_difficult, merge
        self.notes: list[Note] = []
        self.names: set[str] = set()
        self.annotated: set[Path | None] = set()  # images with an XML file, be it usable or not
        self.difficult = 0
        self.at_zero = 0  # boxes that begin at pixel 0, which there is not when counting from 1
        self.around = 0  # boxes that are drawn around a shape
        self.guessed = 0  # files whose encoding is

    def read(self, own_splits: bool) -> Annotations:
        stems = Counter(path.stem for path in self.xmls)
        listed = self._listed() if own_splits else {}
        pictures = []
        for xml in self.xmls:
            split = listed[xml] if listed else split_of(xml, self.source)
            if listed and split is None:
                continue
            lost, unique = 0, self.merge or stems[xml.stem] == 1
            with suppress(ValueError):  # which comes again
                self.annotated.add(self.index.by_stem(xml, self.source, unique))
            try:
                root = self._root(xml)
                lost = len(root.findall("object"))
                pictures.append(self._picture(xml, root, split, unique))
            except (OSError, ValueError) as error:
                self._note("left out", xml, "", str(getattr(error, "strerror", None) or error), lost)
        if not pictures:
            reason = f"the first problem is {self.notes[0]}" if self.notes else "it has no XML file"
            raise UserError(f"{display_path(self.source)}: nothing here can be used as Pascal VOC; {reason}")
        if not listed:  # the lists say what belongs to the dataset
            for image in self.index.images:  # which may be backgrounds or not annotated yet: who knows?
                if image not in self.annotated:
                    self._note("left out", image, "", "has no XML file; if nothing is in it, write one "
                               "without objects")  # fmt: skip
        for count, remark in (
            (self.at_zero if self.offset else 0, "boxes begin at pixel 0, but VOC counts from 1: if the tool "
             "counts from 0, convert with --zero-based"),
            (self.around, "objects have a polygon or a turned box: the upright box around it is taken"),
            (self.guessed, "XML files are not in the encoding that they declare (or UTF-8), and read as "
             f"{self.guessed and self._guess}: if names look wrong, save them as UTF-8"),
        ):  # fmt: skip
            if count:
                self._note("check", self.source, "", f"{count} {remark}")
        return Annotations(tuple(sorted(self.names)), tuple(pictures), tuple(self.notes), self.difficult)

    def _root(self, xml: Path) -> ElementTree.Element:
        data = xml.read_bytes()
        with suppress(UnicodeDecodeError):
            return parse_xml(data)
        with suppress(UnicodeDecodeError):
            root = parse_xml(data, self._guess)
            self.guessed += 1
            return root
        raise ValueError("it is no text in its own encoding, UTF-8, GB 18030 or CP 1252; save it as UTF-8")

    @cached_property
    def _guess(self) -> str:
        """The encoding of the files that are not in the one that they declare.

        Chinese has bytes above ASCII in rows, where a Western language has single ones among its letters.
        That is counted over all files: in one name two accented letters may stand side by side.
        """
        balance = 0
        for xml in self.xmls:
            if not _is_utf8(data := xml.read_bytes()) and b"<annotation" in data:
                balance += sum(len(row) if len(row) > 1 else -1 for row in _ABOVE_ASCII.findall(data))
        return "gb18030" if balance > 0 else "cp1252"

    def _listed(self) -> dict[Path, str | None]:
        """The split of every XML file by ImageSets/Main; empty if there are no lists of splits."""
        lists: dict[tuple[Path, str], Path] = {}  # (dataset, split) -> list
        for path in self.files:
            if path.suffix == ".txt" and path.parts[-3:-1] == ("ImageSets", "Main"):
                lists[path.parents[2], path.stem.lower()] = path
        found: dict[Path, str | None] = dict.fromkeys(self.xmls)
        for (base, stem), path in sorted(lists.items()):
            split = SPLIT_NAMES.get(stem)  # None for lists of one class, and for CVAT's default.txt
            if split is None or (stem == "trainval" and lists.keys() & {(base, "train"), (base, "val")}):
                continue
            try:
                lines = path.read_text(encoding="utf-8-sig").splitlines()
            except (OSError, UnicodeDecodeError) as error:
                raise UserError(f"{display_path(path)}: the list cannot be read: {error}") from None
            for number, line in enumerate(lines, start=1):
                name = line.strip().strip('"')
                if not name:
                    continue
                xml = base / "Annotations" / f"{name}.xml"
                if xml not in found:
                    self._note("left out", path, f"line {number}", f"there is no {shorten(name)}.xml")
                elif found[xml] not in (None, split):
                    both = f"is listed in {found[xml]} and in {split}: taken for {found[xml]}"
                    self._note("check", xml, "", both)
                else:
                    found[xml] = split
        if not any(found.values()):
            return {}
        for xml in sorted(xml for xml, split in found.items() if split is None):
            self._note("left out", xml, "", "is in no list of ImageSets/Main; --split takes all files")
        return found

    def _picture(self, xml: Path, root: ElementTree.Element, split: str | None, unique: bool) -> Picture:
        if root.tag != "annotation":
            hint = "; export 'Pascal VOC' or 'COCO' instead" if root.tag == "annotations" else ""
            raise ValueError(f"is not Pascal VOC: its root is <{shorten(root.tag)}>, not <annotation>{hint}")
        image = self._image(xml, _text(root, "filename"), unique)
        self.annotated.add(image)
        size = root.find("size")
        claimed = None if size is None else claimed_size(_text(size, "width"), _text(size, "height"))
        boxes = [box for number, element in enumerate(root.findall("object"), start=1)
                 if (box := self._box(xml, number, element)) is not None]  # fmt: skip
        return Picture(image, xml, split or split_of(image, self.index.root), claimed, tuple(boxes))

    def _image(self, xml: Path, written: str, unique: bool) -> Path:
        """The image with the XML's own stem: tools pair them so, and `filename` goes stale on renaming."""
        stem = Path(written.replace("\\", "/")).stem if written else ""
        named = xml.with_name(f"{stem}.xml")
        image = self.index.by_stem(xml, self.source, unique)
        if image is None and stem:
            image = self.index.by_stem(named, self.source, unique)
        if image is None:
            raise ValueError(f"there is no image {shorten(xml.stem)}.* for it; --images names another folder")
        if stem not in ("", image.stem) and self.index.by_stem(named, self.source, False):
            other = f"its <filename> is {shorten(written)}, another image: taken for {image.name}"
            self._note("check", xml, "", other)
        return image

    def _box(self, xml: Path, number: int, element: ElementTree.Element) -> Box | None:
        """One object; None if it is left out."""
        name = _text(element, "name")
        where = f"object {number} ({shorten(name)}), line {element.get('line')}"
        if name:
            self.names.add(name)
        if _text(element, "difficult").lower() in ("1", "true") and not self.keep_difficult:
            self.difficult += 1
            return None
        try:
            if not name:
                raise ValueError("it has no name")
            return Box(name, self._corners(element), where)
        except ValueError as error:
            self._note("dropped", xml, where, str(error), 1)
            return None

    def _corners(self, element: ElementTree.Element) -> Corners:
        """The box, or the upright one around a turned box (of roLabelImg) or a polygon. Raises ValueError."""
        box, turned, polygon = (element.find(tag) for tag in ("bndbox", "robndbox", "polygon"))
        if box is not None:
            left, top, right, bottom = (finite(_text(box, edge)) for edge in _EDGES)
        elif turned is not None:  # its centre is a point, not a pixel: there is nothing to count from 1
            x, y, w, h, angle = (finite(_text(turned, key)) for key in ("cx", "cy", "w", "h", "angle"))
            sine, cosine = abs(math.sin(angle)), abs(math.cos(angle))
            across, down = (w * cosine + h * sine) / 2, (w * sine + h * cosine) / 2
            self.around += 1
            return x - across, y - down, x + across, y + down
        elif polygon is not None:
            (left, right), (top, bottom) = _extent(polygon, "x"), _extent(polygon, "y")
            self.around += 1
        else:
            raise ValueError("it has no bndbox")
        self.at_zero += min(left, top) == 0
        return left - self.offset, top - self.offset, right, bottom

    def _note(self, kind: Kind, file: Path, where: str, message: str, boxes: int = 0) -> None:
        self.notes.append(Note(kind, file, where, message, boxes))


def _is_utf8(data: bytes) -> bool:
    with suppress(UnicodeDecodeError):
        return bool(data.decode() or True)
    return False


def _extent(polygon: ElementTree.Element, axis: str) -> tuple[float, float]:
    """The least and the largest of x1, x2, … (Roboflow), or of the x of each point (LabelMe)."""
    values = [finite(one.text or "") for one in polygon.iter() if re.fullmatch(f"{axis}[0-9]*", one.tag)]
    if not values:
        raise ValueError("its polygon has no points")
    return min(values), max(values)


def _text(element: ElementTree.Element, tag: str) -> str:
    """The text of a direct child: a person's parts have names and boxes of their own, one level deeper."""
    return (element.findtext(tag) or "").strip()
