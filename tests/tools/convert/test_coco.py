"""COCO JSON: pycocotools reads the source, the project reads what came of it, and they agree."""

from __future__ import annotations

import contextlib
import io
import json
import tempfile
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pycocotools import mask as official_mask
from pycocotools.coco import COCO

from detector.data.dataset import read_dataset
from detector.data.geometry import xywh_to_xyxy
from detector.data.images import read_image
from detector.errors import UserError
from detector.runtime.ultralytics_import import import_ultralytics
from detector.tools.convert.coco import segmentation_corners
from detector.training.metrics import Prediction, Truth, to_coco
from tests.tools.convert.builders import coco_json, labels, messages, run, save_json, save_picture, splits


def official(content: dict[str, Any]) -> COCO:
    """pycocotools' reading, without its prints."""
    coco = COCO()
    coco.dataset = content
    with contextlib.redirect_stdout(io.StringIO()):
        coco.createIndex()
    return coco


def by_image(coco: COCO) -> dict[str, list[tuple[str, list[float]]]]:
    """Class names and boxes, in the file's order, by the image's file name."""
    found = {}
    for image in coco.loadImgs(coco.getImgIds()):
        annotations = coco.loadAnns(coco.getAnnIds([image["id"]], iscrowd=False))
        found[image["file_name"]] = [
            (coco.cats[a["category_id"]]["name"], list(a["bbox"])) for a in annotations
        ]
    return found


def converted(destination: Path) -> COCO:
    """What was written, through the project's reader and its own way to COCO."""
    dataset = read_dataset(destination / "data.yaml")
    items = [item for split in dataset.splits.values() for item in split]
    truths = []
    for item in items:
        height, width = read_image(item.image).shape[:2]
        pixels = xywh_to_xyxy(item.boxes) * np.array([width, height] * 2, np.float32)
        truths.append(Truth(pixels, item.classes, (width, height)))
    nothing = Prediction(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64))
    content, _ = to_coco(truths, [nothing] * len(truths), len(dataset.names))
    for entry, item in zip(content["images"], items, strict=True):
        entry["file_name"] = item.image.name
    for entry in content["categories"]:
        entry["name"] = dataset.names[int(entry["name"])]
    return official(content)


def assert_same(source: COCO, destination: Path) -> None:
    """Same images, classes and boxes, within a thousandth of a pixel."""
    expected, found = by_image(source), by_image(converted(destination))
    assert set(expected) == set(found)
    for name, rows in expected.items():
        assert [label for label, _ in rows] == [label for label, _ in found[name]]
        boxes = np.array([box for _, box in rows]).reshape(-1, 4)
        np.testing.assert_allclose([box for _, box in found[name]] or boxes, boxes, atol=1e-3)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    """Four images of 64 x 48 and a JSON with a cat on each."""
    folder = tmp_path / "source"
    names = [f"{stem}.png" for stem in "abcd"]
    for seed, name in enumerate(names):
        save_picture(folder / name, seed)
    cats = [{"image_id": i, "bbox": [8, 6, 16, 12]} for i in range(1, 5)]
    save_json(folder / "coco.json", coco_json(names, cats))
    return folder


def change(source: Path, **annotation: Any) -> None:
    """Change the first annotation; None takes a key out."""
    content = json.loads((source / "coco.json").read_text())
    content["annotations"][0].update(annotation)
    content["annotations"][0] = {k: v for k, v in content["annotations"][0].items() if v is not None}
    save_json(source / "coco.json", content)


# --------------------------------------------------------------------------- against pycocotools


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_a_round_trip_agrees_with_pycocotools(data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / f"{len(list(tmp_path.iterdir()))}"
    ids = data.draw(st.lists(st.integers(1, 90), min_size=1, max_size=5, unique=True))
    content = coco_json(["a.png", "b.png", "c.png"], categories={i: f"class {i}" for i in ids})
    part = st.floats(0, 1)
    for entry in content["images"]:
        width, height = data.draw(st.integers(8, 300)), data.draw(st.integers(8, 300))
        save_picture(folder / "source" / entry["file_name"], entry["id"], width, height)
        entry.update(width=width, height=height)
        for _ in range(data.draw(st.integers(0, 4))):
            x, y = data.draw(part) * (width - 2), data.draw(part) * (height - 2)
            box = [x, y, 1 + data.draw(part) * (width - x - 1), 1 + data.draw(part) * (height - y - 1)]
            number = len(content["annotations"]) + 1
            content["annotations"].append({"id": number, "image_id": entry["id"], "bbox": box, "iscrowd": 0,
                                           "category_id": data.draw(st.sampled_from(ids))})  # fmt: skip
    save_json(folder / "source/coco.json", content)
    report = run("coco", folder / "source", folder / "out")
    assert report.names == tuple(f"class {i}" for i in sorted(ids))
    if not report.notes:  # two equal boxes are reported and written once
        assert_same(official(content), folder / "out")


def test_the_real_coco8_agrees_with_pycocotools(coco8: Path, tmp_path: Path) -> None:
    """COCO8's labels as COCO writes them: sparse ids from 1 to 90, one JSON a split."""
    dataset = read_dataset(Path("datasets/coco8.yaml"), root=coco8 / "coco8")
    sparse = [i for i in range(1, 91) if i not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83)]  # COCO's own
    categories = dict(zip(sparse, dataset.names, strict=True))
    for split, items in dataset.splits.items():
        content = coco_json([item.image.name for item in items], categories=categories)
        for entry, item in zip(content["images"], items, strict=True):
            height, width = read_image(item.image).shape[:2]
            entry.update(width=width, height=height)
            target = tmp_path / "coco" / f"{split}2017" / item.image.name
            target.parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(item.image.read_bytes())
            for label, (x, y, w, h) in zip(item.classes.tolist(), item.boxes.tolist(), strict=True):
                box = [(x - w / 2) * width, (y - h / 2) * height, w * width, h * height]
                annotation = {"id": len(content["annotations"]), "image_id": entry["id"], "bbox": box}
                content["annotations"].append(annotation | {"category_id": sparse[label], "iscrowd": 0})
        save_json(tmp_path / f"coco/annotations/instances_{split}2017.json", content)
        save_json(tmp_path / f"coco/annotations/captions_{split}2017.json", {"images": [], "annotations": []})
    report = run("coco", tmp_path / "coco", tmp_path / "out")
    assert report.notes == () and report.images == {"train": 4, "val": 4}
    again = read_dataset(tmp_path / "out/data.yaml")
    assert again.names == dataset.names
    for split, items in dataset.splits.items():
        for old, new in zip(items, again.splits[split], strict=True):
            assert old.image.name == new.image.name and (old.classes == new.classes).all()
            np.testing.assert_allclose(new.boxes, old.boxes, atol=1e-6)


@pytest.mark.parametrize("spell", [float, str, "{}.0".format], ids=["float", "text", "text of a float"])
@pytest.mark.parametrize("part", ["annotations", "images", "categories", "all"])
def test_ids_as_other_exporters_write_them(source: Path, tmp_path: Path, spell: Any, part: str) -> None:
    """pandas turns a column with a gap into floats; others quote every number."""
    content = json.loads((source / "coco.json").read_text())
    content["annotations"].append(
        {"id": 200, "image_id": 2, "category_id": 2, "bbox": [1, 2, 30, 20], "iscrowd": 0}
    )
    whole = official(json.loads(json.dumps(content)))
    for kind in ("images", "categories", "annotations") if part == "all" else (part,):
        for entry in content[kind]:
            entry |= {key: spell(entry[key]) for key in ("id", "image_id", "category_id") if key in entry}
    save_json(source / "coco.json", content)
    report = run("coco", source, tmp_path / "out")
    assert report.notes == () and report.lost == 0
    assert_same(whole, tmp_path / "out")


def test_ids_that_only_look_like_numbers_stay_apart(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "coco.json").read_text())
    for entry, identity in zip(content["images"], ("7", "007", "7.5", "+7"), strict=True):
        entry["id"] = identity
    for entry, identity in zip(content["annotations"], (7, "007", "7.5", "+7"), strict=True):
        entry["image_id"] = identity
    save_json(source / "coco.json", content)
    assert run("coco", source, tmp_path / "out").notes == ()
    assert all(len(rows) == 1 for rows in labels(tmp_path / "out").values())


def test_nan_where_nothing_is_read_is_read_as_ultralytics_does(source: Path, tmp_path: Path) -> None:
    """What a data frame writes for a missing value; strict JSON has no word for it."""
    content = json.loads((source / "coco.json").read_text())
    for entry in (*content["images"], *content["annotations"]):
        entry |= {"license": float("nan"), "area": float("-inf")}
    content["annotations"][1]["iscrowd"] = 1
    content["annotations"][2]["bbox"] = [1.5, 2.25, 30.75, 40.125]
    save_json(source / "coco.json", content)
    report = run("coco", source, tmp_path / "out")
    assert report.notes == () and report.difficult == 1
    with contextlib.redirect_stdout(io.StringIO()):
        import_ultralytics("data.converter").convert_coco(
            str(source), str(tmp_path / "theirs"), cls91to80=False
        )
    theirs = {path.stem: [list(map(float, line.split())) for line in path.read_text().splitlines()]
              for path in (tmp_path / "theirs/labels").rglob("*.txt")}  # fmt: skip
    ours = labels(tmp_path / "out")
    assert ours.keys() == theirs.keys() == set("abcd")
    for stem, rows in theirs.items():
        np.testing.assert_allclose(ours[stem], rows, atol=1e-6)  # they write six digits


# -------------------------------------------------------------------------------- segmentations


@pytest.mark.parametrize("compressed", [True, False])
def test_the_box_of_a_mask_is_that_of_pycocotools(compressed: bool) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        pixels = np.zeros((30, 40), np.uint8, order="F")
        top, left = rng.integers(0, 29), rng.integers(0, 39)
        pixels[top : rng.integers(top + 1, 31), left : rng.integers(left + 1, 41)] = 1
        rows, columns = np.nonzero(pixels)
        expected = (columns.min(), rows.min(), columns.max() + 1, rows.max() + 1)  # by hand
        encoded = official_mask.encode(pixels)
        np.testing.assert_array_equal(official_mask.toBbox(encoded)[:2], expected[:2])
        if compressed:
            segmentation = {"size": [30, 40], "counts": encoded["counts"].decode()}
        else:  # the lengths of runs of 0 and 1, column by column
            flat = pixels.flatten(order="F")
            ends = np.flatnonzero(np.diff(flat)) + 1
            runs = np.diff([0, *ends, flat.size]).tolist()
            segmentation = {"size": [30, 40], "counts": runs if flat[0] == 0 else [0, *runs]}
        assert segmentation_corners(segmentation) == expected


def test_polygons_without_a_box(source: Path, tmp_path: Path) -> None:
    change(source, bbox=None, segmentation=[[16, 12, 32, 12, 32, 24], [20, 24, 48, 36, 20, 36]])
    assert run("coco", source, tmp_path / "out").notes == ()
    assert labels(tmp_path / "out")["a"] == [[0, 0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize("bbox", [None, [], float("nan")])
def test_a_polygon_that_is_one_flat_list(source: Path, tmp_path: Path, bbox: object) -> None:
    flat = [16, 12, 48, 12, 48, 36, 20, 36]
    assert segmentation_corners(flat) == segmentation_corners([flat])
    change(source, segmentation=flat)
    change(source, bbox=bbox)
    assert run("coco", source, tmp_path / "out").notes == ()
    assert labels(tmp_path / "out")["a"] == [[0, 0.5, 0.5, 0.5, 0.5]]


@pytest.mark.parametrize(
    ("segmentation", "reason"),
    [
        ([1, [2, 3]], "mixes numbers and lists"),
        (None, "neither a bbox nor a segmentation"),
        ([], "neither a bbox nor a segmentation"),
        ([[1]], "neither a bbox nor a segmentation"),
        ("x", "neither a bbox nor a segmentation"),
        ([["a", "b"]], "'a' is not a finite number"),
        ({"counts": "~~~~"}, "has no size"),
        ({"size": [10, 10]}, "is no mask"),
        ({"size": [10, 10], "counts": "abc"}, "is no mask"),
        ({"size": [10, 10], "counts": ["a"]}, "is no mask"),
        ({"size": [10, 10], "counts": [-5, 10**30]}, "is no mask"),
        ({"size": [10, 10], "counts": ""}, "has no area"),
    ],
)
def test_an_unusable_segmentation(source: Path, tmp_path: Path, segmentation: object, reason: str) -> None:
    change(source, bbox=None, segmentation=segmentation)
    (text,) = messages(run("coco", source, tmp_path / "out"))
    assert text.startswith(f"dropped: {source}/coco.json: annotation 100") and reason in text


# ------------------------------------------------------------------------- annotations and classes


def test_crowds_are_counted_and_left_out(source: Path, tmp_path: Path) -> None:
    change(source, iscrowd=1)
    report = run("coco", source, tmp_path / "out")
    assert report.difficult == 1 and report.notes == () and labels(tmp_path / "out")["a"] == []
    report = run("coco", source, tmp_path / "kept", keep_difficult=True)
    assert report.difficult == 0 and len(labels(tmp_path / "kept")["a"]) == 1


@pytest.mark.parametrize("written", [0, 0.0, "0", False, None, float("nan")])
def test_what_is_no_crowd(source: Path, tmp_path: Path, written: object) -> None:
    change(source, iscrowd=written)
    assert run("coco", source, tmp_path / "out").lost == 0 and len(labels(tmp_path / "out")["a"]) == 1


@pytest.mark.parametrize("written", [1, 1.0, "1", True])
def test_what_is_a_crowd(source: Path, tmp_path: Path, written: object) -> None:
    change(source, iscrowd=written)
    assert run("coco", source, tmp_path / "out").difficult == 1


@pytest.mark.parametrize(
    ("changes", "kind", "reason"),
    [
        (
            {"bbox": [-4, 6, 16, 12]},
            "clipped",
            "annotation 100 (cat): clipped from (-4, 6, 12, 18) to (0, 6, 12, 18)",
        ),
        ({"bbox": [8, 6, 0, 12]}, "dropped", "has no area"),
        ({"bbox": [8, 6, -3, 12]}, "dropped", "has no area"),
        ({"bbox": [80, 6, 8, 12]}, "dropped", "is outside the 64 x 48 image"),
        ({"bbox": [1, 2, 3]}, "dropped", "bbox is not x, y, width, height"),
        ({"bbox": {"x": 1}}, "dropped", "bbox is not x, y, width, height"),
        ({"bbox": [1, 2, "nan", 4]}, "dropped", "'nan' is not a finite number"),
        ({"bbox": [1, 2, True, 4]}, "dropped", "'True' is not a finite number"),
        ({"category_id": 9}, "dropped", "there is no category 9"),
        ({"category_id": [1]}, "dropped", "it has no category_id"),
        ({"image_id": 77}, "dropped", "there is no image 77"),
        ({"image_id": None}, "dropped", "it has no image_id"),
    ],
)
def test_an_annotation_that_does_not_come_through_is_named(
    source: Path, tmp_path: Path, changes: dict[str, Any], kind: str, reason: str
) -> None:
    change(source, **changes)
    (text,) = messages(run("coco", source, tmp_path / "out"))
    assert text.startswith(f"{kind}: {source}/coco.json: annotation 100") and reason in text


def test_boxes_of_no_image_are_named_in_the_file_s_order(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "coco.json").read_text())
    for entry, name in zip(content["annotations"], ("w.png", "a.png", "k.png", "c.png"), strict=True):
        entry["image_id"] = name
    save_json(source / "coco.json", content)
    notes = run("coco", source, tmp_path / "out").notes
    assert [note.where for note in notes] == [f"annotation {number} (cat)" for number in range(100, 104)]


def test_repeated_boxes_are_written_once(source: Path, tmp_path: Path) -> None:
    change(source, image_id=2)
    (text,) = messages(run("coco", source, tmp_path / "out"))
    assert "annotation 101 (cat): repeats annotation 100 (cat)" in text
    assert len(labels(tmp_path / "out")["b"]) == 1
    read_dataset(tmp_path / "out/data.yaml")


def test_roboflows_umbrella_category_is_no_class(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "coco.json").read_text())
    content["categories"] = [{"id": 0, "name": "pets", "supercategory": "none"},
                             {"id": 1, "name": "cat", "supercategory": "pets"},
                             {"id": 2, "name": "dog", "supercategory": "pets"}]  # fmt: skip
    save_json(source / "coco.json", content)
    report = run("coco", source, tmp_path / "out")
    assert report.names == ("cat", "dog") and "'pets' has no objects" in messages(report)[0]
    content["annotations"][0]["category_id"] = 0
    save_json(source / "coco.json", content)
    assert run("coco", source, tmp_path / "used").names == ("pets", "cat", "dog")


def test_a_roboflow_project_that_is_named_like_a_class(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "coco.json").read_text())
    content["categories"] = [{"id": 0, "name": "cat", "supercategory": "none"},
                             {"id": 1, "name": "cat", "supercategory": "cat"},
                             {"id": 2, "name": "dog", "supercategory": "cat"}]  # fmt: skip
    save_json(source / "coco.json", content)
    report = run("coco", source, tmp_path / "out")
    assert report.names == ("cat", "dog") and "'cat' has no objects" in messages(report)[0]
    assert labels(tmp_path / "out")["a"][0][0] == 0
    content["annotations"][0]["category_id"] = 0  # now there really are two
    save_json(source / "coco.json", content)
    with pytest.raises(UserError, match="category number 2: its name 'cat' is given twice"):
        run("coco", source, tmp_path / "both")


def test_files_that_number_their_classes_differently_are_joined_by_name(tmp_path: Path) -> None:
    for seed, (split, ids) in enumerate([("train", {1: "cat", 2: "dog"}), ("valid", {1: "dog", 7: "owl"})]):
        save_picture(tmp_path / f"source/{split}/x.png", seed)
        save_json(tmp_path / f"source/{split}/_annotations.coco.json",
                  coco_json(["x.png"], [{"bbox": [1, 1, 9, 9]}], ids))  # fmt: skip
    report = run("coco", tmp_path / "source", tmp_path / "out")
    assert report.names == ("cat", "dog", "owl")
    assert {stem: rows[0][0] for stem, rows in labels(tmp_path / "out").items()} == {
        "train_x": 0,
        "valid_x": 1,
    }


# ---------------------------------------------------------------------------------------- images


def test_among_same_named_images_the_one_beside_the_json_is_meant(tmp_path: Path) -> None:
    for seed, site in enumerate(("north", "south", "west")):
        save_picture(tmp_path / f"source/{site}/x.png", seed)
        save_json(tmp_path / f"source/{site}/_annotations.coco.json",
                  coco_json(["x.png"], [{"bbox": [0, 0, 16 * (seed + 1), 48]}]))  # fmt: skip
    assert run("coco", tmp_path / "source", tmp_path / "out").notes == ()
    assert {stem: rows[0][3] for stem, rows in labels(tmp_path / "out").items()} == {
        "north_x": 0.25, "south_x": 0.5, "west_x": 0.75}  # fmt: skip


def test_an_image_without_annotations_is_a_background(source: Path, tmp_path: Path) -> None:
    change(source, image_id=2, bbox=[1, 1, 5, 5])
    run("coco", source, tmp_path / "out")
    assert labels(tmp_path / "out")["a"] == []
    assert Counter(map(len, labels(tmp_path / "out").values())) == {0: 1, 1: 2, 2: 1}


@pytest.mark.parametrize(
    "name",
    ["../../etc/x.png", "/etc/x.png", "C:\\x.png", "..\\x.png", "https://host/x.png", "a\0.png", "", ".."],
)
def test_names_that_leave_the_folder_are_refused(source: Path, tmp_path: Path, name: str) -> None:
    content = json.loads((source / "coco.json").read_text())
    content["images"][0]["file_name"] = name
    save_json(source / "coco.json", content)
    before = set(tmp_path.rglob("*"))
    report = run("coco", source, tmp_path / "out")
    (text,) = messages(report)
    assert text.startswith(f"left out: {source}/coco.json: image 1: there is no image")
    assert {path for path in tmp_path.rglob("*") if not path.is_relative_to(tmp_path / "out")} == before


def test_server_paths_are_looked_for_by_name_where_images_says(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "coco.json").read_text())
    for entry in content["images"]:
        entry["file_name"] = f"../../label-studio/data/media/upload/1/{entry['file_name']}"
    file = save_json(tmp_path / "json/result.json", content)
    with pytest.raises(UserError, match=r"--images DIR looks for a\.png there"):
        run("coco", file, tmp_path / "out")
    assert sum(run("coco", file, tmp_path / "out", images=source).images.values()) == 4


@pytest.mark.parametrize("written", ["sub\\a.png", "sub/a.png", "A.PNG", "a.png"])
def test_other_systems_spellings_of_a_name(source: Path, tmp_path: Path, written: str) -> None:
    (source / "sub").mkdir()
    (source / "a.png").rename(source / "sub/a.png")
    content = json.loads((source / "coco.json").read_text())
    content["images"][0]["file_name"] = written
    save_json(source / "coco.json", content)
    assert run("coco", source, tmp_path / "out").notes == ()


def test_a_composed_name_finds_a_decomposed_file(source: Path, tmp_path: Path) -> None:
    (source / "a.png").rename(source / "cafe\u0301.png")  # as macOS packs it
    content = json.loads((source / "coco.json").read_text())
    content["images"][0]["file_name"] = "caf\u00e9.png"
    save_json(source / "coco.json", content)
    assert run("coco", source, tmp_path / "out").notes == ()


def test_another_folders_image_never_stands_in(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "coco.json").read_text())
    content["images"][0]["file_name"] = "cam1/a.png"
    save_json(source / "coco.json", content)
    assert "image 1: there is no image 'cam1/a.png'" in messages(run("coco", source, tmp_path / "out"))[0]


def test_an_ambiguous_name_is_left_out(source: Path, tmp_path: Path) -> None:
    for seed, folder in enumerate(("one", "two"), start=10):
        save_picture(source / folder / "z.png", seed)
    content = json.loads((source / "coco.json").read_text())
    content["images"][0]["file_name"] = "z.png"
    save_json(source / "coco.json", content)
    (text,) = messages(run("coco", source, tmp_path / "out"))
    assert f"it could be {source}/one/z.png or {source}/two/z.png" in text


def test_an_image_listed_twice(source: Path, tmp_path: Path) -> None:
    content = json.loads((source / "coco.json").read_text())
    content["images"] += [{"id": 1, "file_name": "b.png"}, {"id": 9, "file_name": "c.png"}]
    save_json(source / "coco.json", content)
    texts = messages(run("coco", source, tmp_path / "out"))
    assert "image 1: its id is given twice" in texts[0]
    assert "c.png: is annotated in " in texts[1] and "1 boxes there, 0 here" in texts[1]


def test_two_annotators_of_the_same_images(source: Path, tmp_path: Path) -> None:
    other = json.loads((source / "coco.json").read_text())
    other["categories"] = [{"id": 1, "name": "dog"}, {"id": 2, "name": "owl"}]
    other["annotations"][0]["bbox"] = [0, 0, 32, 24]
    other["annotations"][1] |= {"category_id": 2}
    other["annotations"][2:] = []
    save_json(source / "second.json", other)
    report = run("coco", source, tmp_path / "one")
    assert report.count("left out") == 4 and report.lost == 2
    assert all("(--merge joins them)" in text for text in messages(report)[:2])
    joined = run("coco", source, tmp_path / "both", merge=True)
    assert joined.notes == () and joined.lost == 0 and joined.names == ("cat", "dog", "owl")
    found = labels(tmp_path / "both")
    assert found["a"] == [[0, 0.25, 0.25, 0.25, 0.25], [1, 0.25, 0.25, 0.5, 0.5]]
    assert [row[0] for row in found["b"]] == [0, 2] and len(found["c"]) == len(found["d"]) == 1
    read_dataset(tmp_path / "both/data.yaml")
    save_json(source / "second.json", json.loads((source / "coco.json").read_text()))  # the same boxes
    again = run("coco", source, tmp_path / "again", merge=True)
    assert (
        again.count("dropped") == 4
        and again.lost == 0
        and "repeats annotation 100 (cat)" in messages(again)[0]
    )
    assert labels(tmp_path / "again") == labels(tmp_path / "one")


def test_a_labelled_copy_wins(source: Path, tmp_path: Path) -> None:
    (source / "a (1).png").write_bytes((source / "a.png").read_bytes())  # sorts before a.png
    content = json.loads((source / "coco.json").read_text())
    content["images"].insert(0, {"id": 9, "file_name": "a (1).png"})
    save_json(source / "coco.json", content)
    (text,) = messages(run("coco", source, tmp_path / "out"))
    assert "a (1).png: is identical to " in text
    assert labels(tmp_path / "out")["a"] == [[0, 0.25, 0.25, 0.25, 0.25]]


def test_splits_by_the_files_names(tmp_path: Path) -> None:
    names = {"train": ["a.png", "b.png"], "val": ["c.png"], "test": ["d.png"]}
    for seed, name in enumerate("abcd"):
        save_picture(tmp_path / f"source/images/{name}.png", seed)
    for split, images in names.items():
        save_json(tmp_path / f"source/annotations/instances_{split}2017.json",
                  coco_json(images, [{"bbox": [1, 1, 9, 9]}]))  # fmt: skip
    run("coco", tmp_path / "source", tmp_path / "out")
    assert splits(tmp_path / "out") == {"train": {"a", "b"}, "val": {"c"}, "test": {"d"}}
    one = tmp_path / "source/annotations/instances_train2017.json"
    assert run("coco", one, tmp_path / "one").images == {"train": 1, "val": 1}


# -------------------------------------------------------------------------------------- refused


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"images": [', "is not valid JSON"),
        ('{"images": [], "annotations": NaN, "categories": []}', "it has no list 'annotations'"),
        ("[" * 100_000, "is not valid JSON"),
        ("[]", "is not COCO: it has no list 'images'"),
        ('{"images": [], "annotations": {}, "categories": []}', "it has no list 'annotations'"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1}]}', "category number 1: it has no name"),
        ('{"images": [], "annotations": [], "categories": [7]}', "category number 1: it has no id"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 1, "name": "b"}]}',
         "category number 2: its id is given twice"),
        ('{"images": [], "annotations": [], "categories": [{"id": 1, "name": "a"}, {"id": 2, "name": "a"}]}',
         "category number 2: its name 'a' is given twice"),
        ('{"images": [], "annotations": [], "categories": []}', "no image of it can be used; it lists none"),
        ('{"images": [5, {"id": 1}], "annotations": [5], "categories": [{"id": 1, "name": "a"}]}',
         "no image of it can be used; the first problem is"),
    ],
)  # fmt: skip
def test_an_unusable_file(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "source").mkdir()
    (tmp_path / "source/x.json").write_text(text)
    with pytest.raises(UserError, match=r"x\.json") as caught:
        run("coco", tmp_path / "source/x.json", tmp_path / "out")
    assert reason in str(caught.value)
    assert not (tmp_path / "out").exists()


anything = st.recursive(
    st.none() | st.booleans() | st.integers(-5, 100) | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["id", "size", "counts"]), inner)
    ),
    max_leaves=5,
)


@settings(max_examples=150, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_whatever_a_value_is_replaced_by_there_is_no_traceback(data: st.DataObject, tmp_path: Path) -> None:
    folder = tmp_path / "fuzz"
    content = coco_json(["a.png", "b.png"], [{"bbox": [1, 1, 9, 9], "segmentation": [[1, 1, 9, 1, 9, 9]]}])
    for seed, entry in enumerate(content["images"]):
        if not (folder / entry["file_name"]).exists():
            save_picture(folder / entry["file_name"], seed)
    node: Any = content
    while True:  # walk to some value and replace it
        key = data.draw(st.sampled_from(sorted(node) if isinstance(node, dict) else range(len(node))))
        if not isinstance(node[key], (dict, list)) or not node[key] or data.draw(st.integers(0, 4)) == 0:
            node[key] = data.draw(anything)
            break
        node = node[key]
    save_json(folder / "coco.json", content)
    with contextlib.suppress(UserError), tempfile.TemporaryDirectory(dir=tmp_path) as parent:
        run("coco", folder / "coco.json", Path(parent, "out"))
        read_dataset(Path(parent, "out/data.yaml"))


def test_a_damaged_file_in_a_folder_does_not_go_unnoticed(source: Path, tmp_path: Path) -> None:
    (source / "notes.json").write_text('{"info": 1}')  # Label Studio's
    run("coco", source, tmp_path / "fine")
    (source / "more.json").write_text((source / "coco.json").read_text()[:-20])
    with pytest.raises(UserError, match=r"more\.json: is not valid JSON"):
        run("coco", source, tmp_path / "out")


def test_nothing_to_convert(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="there is no such file or folder"):
        run("coco", tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match="none of its 0 JSON files is COCO"):
        run("coco", tmp_path / "empty", tmp_path / "out")


def test_a_byte_order_mark(source: Path, tmp_path: Path) -> None:
    (source / "coco.json").write_bytes(b"\xef\xbb\xbf" + (source / "coco.json").read_bytes())
    assert run("coco", source, tmp_path / "out").notes == ()
