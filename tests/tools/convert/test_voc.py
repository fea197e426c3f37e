"""Pascal VOC: the convention of its coordinates, the layouts that tools write, and what is refused."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from detector.data.dataset import read_dataset
from detector.data.geometry import xywh_to_xyxy
from detector.data.images import read_image
from detector.errors import UserError
from detector.tools.convert.voc import parse_xml, read_voc
from tests.tools.convert.builders import labels, messages, run, save_picture, save_voc, splits, voc_text

# As LabelImg wrote it: the first objects of BloodImage_00007.xml in the BCCD dataset (MIT licence).
LABELIMG = """<annotation>
	<folder>JPEGImages</folder>
	<filename>BloodImage_00007.jpg</filename>
	<path>/home/pi/detection_dataset/JPEGImages/BloodImage_00007.jpg</path>
	<source>
		<database>Unknown</database>
	</source>
	<size>
		<width>640</width>
		<height>480</height>
		<depth>3</depth>
	</size>
	<segmented>0</segmented>
	<object>
		<name>WBC</name>
		<pose>Unspecified</pose>
		<truncated>0</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>193</xmin>
			<ymin>92</ymin>
			<xmax>387</xmax>
			<ymax>285</ymax>
		</bndbox>
	</object>
	<object>
		<name>RBC</name>
		<pose>Unspecified</pose>
		<truncated>1</truncated>
		<difficult>0</difficult>
		<bndbox>
			<xmin>534</xmin>
			<ymin>371</ymin>
			<xmax>640</xmax>
			<ymax>473</ymax>
		</bndbox>
	</object>
</annotation>
"""


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Five images with an object each, XML beside them."""
    folder = tmp_path / "source"
    for seed, stem in enumerate("abcde"):
        save_voc(folder, stem, [("cat", 1, 1, 32, 48)], seed=seed)
    return folder


# --------------------------------------------------------------------------------- coordinates


@settings(max_examples=40, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_box_covers_exactly_the_pixels_that_voc_names(data: st.DataObject, tmp_path: Path) -> None:
    width, height = data.draw(st.integers(2, 90)), data.draw(st.integers(2, 90))
    xmin, ymin = data.draw(st.integers(1, width)), data.draw(st.integers(1, height))
    xmax, ymax = data.draw(st.integers(xmin, width)), data.draw(st.integers(ymin, height))
    white = np.zeros((height, width), np.uint8)
    for y in range(ymin, ymax + 1):  # the kit: pixels are counted from 1, and the last one belongs to the box
        for x in range(xmin, xmax + 1):
            white[y - 1, x - 1] = 255
    cv2.imwrite(str(tmp_path / "a.png"), white)
    (tmp_path / "a.xml").write_text(voc_text([("cat", xmin, ymin, xmax, ymax)], (width, height)))
    (box,) = read_voc(tmp_path, None, zero_based=False, keep_difficult=False).pictures[0].boxes
    left, top, right, bottom = map(int, box.corners)
    assert (left, top, right, bottom) == box.corners
    inside = np.zeros_like(white)
    inside[top:bottom, left:right] = 255
    assert (inside == white).all()


def test_the_whole_image_is_the_whole_image(source: Path, tmp_path: Path) -> None:
    (source / "a.xml").write_text(voc_text([("cat", 1, 1, 64, 48)]))
    (source / "b.xml").write_text(voc_text([("cat", 0, 0, 64, 48)]))
    assert (
        run("voc", source, tmp_path / "from_one").count("clipped") == 1
    )  # 0 is outside when counting from 1
    assert labels(tmp_path / "from_one")["a"] == [[0, 0.5, 0.5, 1, 1]]
    report = run("voc", source, tmp_path / "from_zero", zero_based=True)
    assert report.count("clipped") == 0
    assert labels(tmp_path / "from_zero")["b"] == [[0, 0.5, 0.5, 1, 1]]


def test_a_file_of_labelimg(tmp_path: Path) -> None:
    folder = tmp_path / "labelimg"
    for seed, stem in enumerate(("BloodImage_00007", "other")):
        save_picture(folder / f"{stem}.jpg", seed, 640, 480)
        (folder / f"{stem}.xml").write_text(LABELIMG)
    run("voc", folder, tmp_path / "out", zero_based=True, names=("RBC", "WBC", "Platelets"))
    # The labels that the dataset's own YOLO conversion gives to these two.
    expected = [[1, 0.453125, 0.392708, 0.303125, 0.402083], [0, 0.917188, 0.879167, 0.165625, 0.2125]]
    np.testing.assert_allclose(labels(tmp_path / "out")["BloodImage_00007"], expected, atol=1e-6)


def test_coordinates_that_begin_at_zero_are_pointed_out(source: Path, tmp_path: Path) -> None:
    (source / "a.xml").write_text(voc_text([("cat", 0, 5, 9, 9), ("cat", 1, 1, 9, 9)]))
    assert any("1 boxes begin at pixel 0" in text and "--zero-based" in text
               for text in messages(run("voc", source, tmp_path / "out")))  # fmt: skip
    report = run("voc", source, tmp_path / "zero", zero_based=True)
    assert not report.notes


def test_the_object_is_where_it_was_drawn(tmp_path: Path) -> None:
    """End to end, by the project's own reader: the pixels inside the box are the object's."""
    folder = tmp_path / "source"
    for index, x in enumerate((3, 20, 41)):
        picture = np.zeros((48, 64, 3), np.uint8)
        picture[10:31, x : x + 7] = 200
        folder.mkdir(exist_ok=True)
        cv2.imwrite(str(folder / f"{index}.png"), picture)
        (folder / f"{index}.xml").write_text(voc_text([("cat", x + 1, 11, x + 7, 31)]))
    run("voc", folder, tmp_path / "out")
    for items in read_dataset(tmp_path / "out/data.yaml").splits.values():
        for item in items:
            image = read_image(item.image)
            left, top, right, bottom = (xywh_to_xyxy(item.boxes)[0] * [64, 48, 64, 48]).round().astype(int)
            assert image.sum() == image[top:bottom, left:right].sum()
            assert image[top:bottom, left:right].min() == 200


@settings(max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_turned_box_becomes_the_upright_box_around_it(data: st.DataObject, tmp_path: Path) -> None:
    """As roLabelImg writes it, the angle in radians; OpenCV finds the corners."""
    cx, cy = data.draw(st.floats(20, 40)), data.draw(st.floats(15, 30))
    w, h, angle = data.draw(st.floats(1, 9)), data.draw(st.floats(1, 9)), data.draw(st.floats(0, np.pi))
    save_picture(tmp_path / "a.png", 0)
    text = f"<robndbox><cx>{cx}</cx><cy>{cy}</cy><w>{w}</w><h>{h}</h><angle>{angle}</angle></robndbox>"
    (tmp_path / "a.xml").write_text(f"<annotation><object><name>ship</name>{text}</object></annotation>")
    found = read_voc(tmp_path, None, zero_based=False, keep_difficult=False)
    corners = cv2.boxPoints(((cx, cy), (w, h), float(np.degrees(angle))))
    expected = [*corners.min(axis=0), *corners.max(axis=0)]
    np.testing.assert_allclose(found.pictures[0].boxes[0].corners, expected, atol=1e-4)
    assert "1 objects have a polygon or a turned box" in str(found.notes[0])


@pytest.mark.parametrize(
    "polygon",
    [
        "<x1>9</x1><y1>13</y1><x2>40</x2><y2>5</y2><x3>24</x3><y3>36</y3>",  # Roboflow
        "<pt><x>9</x><y>13</y></pt><pt><x>40</x><y>5</y></pt><pt><x>24</x><y>36</y></pt>",  # LabelMe
    ],
)
def test_a_polygon_becomes_the_box_around_it(source: Path, tmp_path: Path, polygon: str) -> None:
    text = voc_text([("cat", 9, 5, 40, 36)])
    start, end = text.index("<bndbox>"), text.index("</object>")
    (source / "a.xml").write_text(f"{text[:start]}<polygon>{polygon}</polygon>{text[end:]}")
    (source / "b.xml").write_text(text)
    report = run("voc", source, tmp_path / "out")
    assert labels(tmp_path / "out")["a"] == labels(tmp_path / "out")["b"] != []
    (text,) = messages(report)
    assert "1 objects have a polygon or a turned box" in text


# ----------------------------------------------------------------------------------- encodings

HEADER = '<?xml version="1.0" encoding="{}"?>'


@pytest.mark.parametrize("name", ["红细胞", "朱镕基", "café", "Löwe", "año", "élève"])
@pytest.mark.parametrize(
    "header", ["", "<?xml version='1.0'?>", HEADER.format("utf-8"), HEADER.format("true")]
)
def test_names_in_an_encoding_that_is_not_declared(tmp_path: Path, name: str, header: str) -> None:
    """Annotation tools on a Chinese and on a Western Windows: GBK, and CP 1252."""
    encoding = "cp1252" if name.isascii() or max(name) < "\u0100" else "gbk"
    folder = tmp_path / "source"
    for seed, stem in enumerate("ab"):
        save_picture(folder / f"{stem}.png", seed)
        text = header.replace("true", encoding) + voc_text([(name if stem == "a" else "cell", 1, 1, 32, 48)])
        (folder / f"{stem}.xml").write_bytes(text.encode(encoding))
    report = run("voc", folder, tmp_path / "out")
    assert set(report.names) == {name, "cell"}
    assert read_dataset(tmp_path / "out/data.yaml").names == report.names
    guessed = {"gbk": "gb18030"}.get(encoding, encoding)
    assert messages(report) == ([] if "true" in header else [
        f"check: {folder}: 1 XML files are not in the encoding that they declare (or UTF-8), and read as "
        f"{guessed}: if names look wrong, save them as UTF-8"])  # fmt: skip


def test_the_encoding_is_guessed_from_all_files_together(tmp_path: Path) -> None:
    """By itself the name in `a` could be Chinese."""
    assert "créée".encode("cp1252").decode("gb18030") == "cr殚e"
    for seed, (stem, name) in enumerate([("a", "créée"), ("b", "Löwe"), ("c", "père-grand-mère")]):
        save_picture(tmp_path / f"source/{stem}.png", seed)
        (tmp_path / f"source/{stem}.xml").write_bytes(voc_text([(name, 1, 1, 9, 9)]).encode("cp1252"))
    assert run("voc", tmp_path / "source", tmp_path / "out").names == ("Löwe", "créée", "père-grand-mère")


@pytest.mark.parametrize(
    ("encoding", "name"),
    [("gb2312", "猫"), ("GBK", "貓"), ("big5", "貓"), ("Shift_JIS", "ねこ"), ("EUC-KR", "고양이"),
     ("iso-8859-2", "kůň"), ("koi8-r", "кот"), ("utf-16", "猫"), ("utf-8", "猫")],
)  # fmt: skip
def test_an_encoding_that_is_declared(source: Path, tmp_path: Path, encoding: str, name: str) -> None:
    text = HEADER.format(encoding) + voc_text([(name, 1, 1, 9, 9)])
    (source / "a.xml").write_bytes(text.encode(encoding))
    report = run("voc", source, tmp_path / "out")
    assert report.names == tuple(sorted(["cat", name])) and report.notes == ()


# ------------------------------------------------------------------------------------- layouts


def test_the_layout_of_the_challenges(tmp_path: Path) -> None:
    folder = tmp_path / "VOCdevkit/VOC2007"
    for seed, stem in enumerate(("000001", "000002", "000003", "000004")):
        save_voc(folder, stem, [("dog", 2, 2, 9, 9), ("cat", 1, 1, 64, 48)], seed=seed, layout="voc")
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "train.txt").write_text("000001\n000002\n")
    (lists / "val.txt").write_text("000003\n")
    (lists / "trainval.txt").write_text("000001\n000002\n000003\n")
    (lists / "dog_train.txt").write_text("000001  1\n000002 -1\n")
    report = run("voc", tmp_path / "VOCdevkit", tmp_path / "out")
    assert splits(tmp_path / "out") == {"train": {"000001", "000002"}, "val": {"000003"}}
    assert report.names == ("cat", "dog")
    (text,) = messages(report)
    assert text.startswith(f"left out: {folder}/Annotations/000004.xml: is in no list of ImageSets/Main")
    assert sum(run("voc", folder, tmp_path / "all", fractions=(0.5, 0.5)).images.values()) == 4


def test_trainval_and_test_give_a_val_drawn_from_train(tmp_path: Path) -> None:
    folder = tmp_path / "voc"
    for seed in range(12):
        save_voc(folder, f"{seed}", [("cat", 1, 1, 9, 9)], seed=seed, layout="voc")
    lists = folder / "ImageSets/Main"
    lists.mkdir(parents=True)
    (lists / "trainval.txt").write_text("\n".join(map(str, range(10))))
    (lists / "test.txt").write_text("10\n11\nmissing\n")
    report = run("voc", folder, tmp_path / "out")
    assert report.images == {"train": 8, "val": 2, "test": 2}
    assert splits(tmp_path / "out")["test"] == {"10", "11"}
    assert messages(report) == [f"left out: {lists}/test.txt: line 3: there is no missing.xml"]


def test_lists_without_splits_are_no_splits(tmp_path: Path) -> None:
    folder = tmp_path / "cvat"
    for seed in range(5):
        save_voc(folder, f"{seed}", [("cat", 1, 1, 9, 9)], seed=seed, layout="voc")
    (folder / "ImageSets/Main").mkdir(parents=True)
    (folder / "ImageSets/Main/default.txt").write_text("0\n1\n2\n3\n4\n")
    assert run("voc", folder, tmp_path / "out").images == {"train": 4, "val": 1}


def test_folders_called_train_valid_and_test(tmp_path: Path) -> None:
    folder = tmp_path / "roboflow"
    for seed, stem in enumerate(("train/x", "train/y", "valid/x", "test/x")):
        save_voc(folder, stem, [("cat", 1, 1, 9, 9)], seed=seed)
    assert run("voc", folder, tmp_path / "out").images == {"train": 2, "val": 1, "test": 1}
    assert splits(tmp_path / "out")["val"] == {"valid_x"}


def test_the_images_folders_decide_where_the_xml_has_none(tmp_path: Path) -> None:
    folder = tmp_path / "mixed"
    for seed, (split, stem) in enumerate([("train", "a"), ("train", "b"), ("val", "c")]):
        save_picture(folder / "images" / split / f"{stem}.png", seed)
        (folder / "xml").mkdir(exist_ok=True)
        (folder / "xml" / f"{stem}.xml").write_text(voc_text([("cat", 1, 1, 9, 9)]))
    run("voc", folder, tmp_path / "out")
    assert splits(tmp_path / "out") == {"train": {"a", "b"}, "val": {"c"}}


def test_same_named_images_in_several_folders(tmp_path: Path) -> None:
    folder = tmp_path / "cameras"
    for seed, camera in enumerate(("cam1", "cam2", "cam3")):
        save_picture(folder / "JPEGImages" / camera / "0001.png", seed)
        xml = folder / "Annotations" / camera / "0001.xml"
        xml.parent.mkdir(parents=True)
        xml.write_text(voc_text([("cat", 1, 1, 8 * (seed + 1), 48)]))
    run("voc", folder, tmp_path / "out")
    written = labels(tmp_path / "out")
    assert {stem: rows[0][3] for stem, rows in written.items()} == {
        "cam1_0001": 8 / 64, "cam2_0001": 16 / 64, "cam3_0001": 24 / 64}  # fmt: skip
    (folder / "JPEGImages/cam3/0001.png").unlink()  # those of other cameras must not stand in
    assert any("cam3/0001.xml: there is no image 0001" in text
               for text in messages(run("voc", folder, tmp_path / "less")))  # fmt: skip


def test_images_elsewhere(tmp_path: Path) -> None:
    xmls, pictures = tmp_path / "xmls", tmp_path / "pictures"
    for seed, stem in enumerate("ab"):
        save_voc(xmls, stem, [("cat", 1, 1, 9, 9)], seed=seed)
        pictures.mkdir(exist_ok=True)
        (xmls / f"{stem}.png").rename(pictures / f"{stem}.png")
    with pytest.raises(UserError, match="there is no image a"):
        run("voc", xmls, tmp_path / "out")
    assert run("voc", xmls, tmp_path / "out", images=pictures).images == {"train": 1, "val": 1}
    with pytest.raises(UserError, match="--images nowhere: there is no such folder"):
        run("voc", xmls, tmp_path / "out2", images=Path("nowhere"))


def test_two_annotators_of_the_same_images(tmp_path: Path) -> None:
    folder = tmp_path / "both"
    for seed, stem in enumerate("ab"):
        save_picture(folder / f"images/{stem}.png", seed)
        for person, name in (("ann", "cat"), ("bob", "dog")):
            (folder / person).mkdir(exist_ok=True)
            (folder / person / f"{stem}.xml").write_text(voc_text([(name, 1, 1, 32, 48)]))
    with pytest.raises(UserError, match="there is no image a"):
        run("voc", folder, tmp_path / "out")  # which camera or site is meant by a folder is not known
    report = run("voc", folder, tmp_path / "out", merge=True)
    assert report.notes == () and report.names == ("cat", "dog")
    assert labels(tmp_path / "out") == {
        stem: [[0, 0.25, 0.5, 0.5, 1], [1, 0.25, 0.5, 0.5, 1]] for stem in "ab"
    }


def test_the_file_name_helps_where_the_stem_does_not(source: Path, tmp_path: Path) -> None:
    (source / "a.xml").rename(source / "renamed.xml")
    (source / "renamed.xml").write_text(voc_text([("cat", 1, 1, 16, 48)], filename="C:\\data\\a.png"))
    (source / "b.xml").write_text(voc_text([("cat", 1, 1, 24, 48)], filename="c.png"))
    report = run("voc", source, tmp_path / "out")
    assert labels(tmp_path / "out")["a"][0][3] == 16 / 64
    assert labels(tmp_path / "out")["b"][0][3] == 24 / 64  # not c: tools pair by stem
    assert [text for text in messages(report) if "b.xml" in text and "c.png, another image" in text]


# -------------------------------------------------------------------------- objects and classes


def test_difficult_objects_are_counted_and_left_out(source: Path, tmp_path: Path) -> None:
    (source / "a.xml").write_text(voc_text([("cat", 1, 1, 9, 9, True), ("dog", 1, 1, 9, 9)]))
    report = run("voc", source, tmp_path / "out")
    assert report.difficult == 1 and len(labels(tmp_path / "out")["a"]) == 1 and not report.notes
    report = run("voc", source, tmp_path / "kept", keep_difficult=True)
    assert report.difficult == 0 and len(labels(tmp_path / "kept")["a"]) == 2


def test_parts_of_a_person_are_no_objects(source: Path, tmp_path: Path) -> None:
    box = "<bndbox><xmin>2</xmin><ymin>2</ymin><xmax>4</xmax><ymax>4</ymax></bndbox>"
    part = f"<part><name>head</name>{box}</part>"
    text = voc_text([("person", 1, 1, 32, 48)]).replace("<object>", f"<object>{part}")
    (source / "a.xml").write_text(text)
    assert run("voc", source, tmp_path / "out").names == ("cat", "person")
    assert labels(tmp_path / "out")["a"] == [[1, 0.25, 0.5, 0.5, 1]]


def test_names_fix_the_order_and_must_hold_all(source: Path, tmp_path: Path) -> None:
    (source / "a.xml").write_text(voc_text([("dog", 1, 1, 9, 9)]))
    run("voc", source, tmp_path / "out", names=("dog", "owl", "cat"))
    assert read_dataset(tmp_path / "out/data.yaml").names == ("dog", "owl", "cat")
    assert labels(tmp_path / "out")["a"][0][0] == 0 and labels(tmp_path / "out")["b"][0][0] == 2
    with pytest.raises(UserError, match=r"a\.xml: object 1 \(dog\), line 4: --names does not list .*'dog'"):
        run("voc", source, tmp_path / "out2", names=("cat",))
    assert not (tmp_path / "out2").exists()


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (voc_text([("cat", 5, 5, "nan", 9)]), "object 1 (cat), line 4: 'nan' is not a finite number"),
        (voc_text([("cat", 5, 5, "", 9)]), "'' is not a finite number"),
        (voc_text([("cat", 5, 5, "1e999", 9)]), "'1e999' is not a finite number"),
        (voc_text([("cat", 9, 5, 5, 9)]), "has no area"),
        (voc_text([("cat", 70, 5, 80, 9)]), "is outside the 64 x 48 image"),
        (voc_text([("", 5, 5, 9, 9)]), "it has no name"),
        (voc_text([("cat", 5, 5, 9, 9)]).replace("bndbox", "robndbox"), "'' is not a finite number"),
        (voc_text([("cat", 5, 5, 9, 9)]).replace("bndbox", "points"), "it has no bndbox"),
        (voc_text([("cat", 5, 5, 9, 9)]).replace("bndbox", "polygon"), "its polygon has no points"),
    ],
)
def test_an_unusable_object_is_dropped_and_named(
    source: Path, tmp_path: Path, text: str, reason: str
) -> None:
    (source / "a.xml").write_text(text)
    report = run("voc", source, tmp_path / "out")
    assert report.count("dropped") == 1 and len(report.notes) == 1
    assert f"{source}/a.xml" in messages(report)[0] and reason in messages(report)[0]
    assert labels(tmp_path / "out")["a"] == []  # a background now


# ------------------------------------------------------------------------------------- refused

BOMB = "<!DOCTYPE a [<!ENTITY x 'xxxxxx'><!ENTITY y '&x;&x;&x;&x;&x;&x;'>]><annotation>&y;</annotation>"
FILE = '<!DOCTYPE a [<!ENTITY x SYSTEM "file:///etc/passwd">]><annotation>&x;</annotation>'


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16", "utf-16-le", "utf-16-be", "utf-8-sig"])
@pytest.mark.parametrize("text", [BOMB, FILE])
def test_document_types_are_refused_in_any_encoding(text: str, encoding: str) -> None:
    with pytest.raises(ValueError, match="DOCTYPE"):
        parse_xml(text.encode(encoding))


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"<annotation><object>", "malformed"),
        (b"", "malformed"),
        (b"\xff\xd8\xff", "malformed"),
        (b"<annotation>\x81</annotation>", "no text in its own encoding, UTF-8, GB 18030 or CP 1252"),
        ("<annotation>\u0144".encode("cp1250"), "malformed"),
        (b"<?xml version='1.0' encoding='nonsense'?><annotation/>", "malformed"),
        (b"<?xml version='1.0' encoding='punycode'?><annotation/>", "encoding punycode is unknown"),
        (BOMB.encode(), "DOCTYPE"),
        (b"<annotations><image/></annotations>", "export 'Pascal VOC' or 'COCO' instead"),
        (b"<html/>", "is not Pascal VOC"),
    ],
)
def test_an_unusable_file_is_left_out_and_named(
    source: Path, tmp_path: Path, data: bytes, reason: str
) -> None:
    (source / "a.xml").write_bytes(data)
    report = run("voc", source, tmp_path / "out")
    assert sum(report.images.values()) == 4
    (text,) = messages(report)
    assert text.startswith(f"left out: {source}/a.xml: ") and reason in text


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_but_a_reason(data: bytes) -> None:
    try:
        parse_xml(b"<annotation>" + data)
    except ValueError as error:
        assert str(error)


def test_an_image_without_xml_and_xml_without_image(source: Path, tmp_path: Path) -> None:
    (source / "a.png").unlink()
    (source / "b.xml").unlink()
    texts = messages(run("voc", source, tmp_path / "out"))
    assert len(texts) == 2
    assert f"left out: {source}/a.xml: there is no image a.*" in texts[0]
    assert f"left out: {source}/b.png: has no XML file" in texts[1]


def test_nothing_to_convert(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="it has no XML file"):
        run("voc", tmp_path / "empty", tmp_path / "out")
    with pytest.raises(UserError, match="there is no such folder"):
        run("voc", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty/a.xml").write_text(voc_text([("cat", 1, 1, 2, 2)]))
    with pytest.raises(UserError, match=r"the first problem is .*a\.xml: there is no image"):
        run("voc", tmp_path / "empty", tmp_path / "out")
