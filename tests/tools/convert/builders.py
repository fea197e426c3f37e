"""Datasets as other tools write them, made by hand: what the readers are to be judged by."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from detector.tools.convert.conversion import Options, Report, convert

# An object of VOC: name, xmin, ymin, xmax, ymax, and whether it is difficult.
Object = tuple[str, object, object, object, object] | tuple[str, object, object, object, object, bool]


def save_picture(path: Path, seed: int, width: int = 64, height: int = 48) -> Path:
    """Noise that differs from that of every other seed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    path.write_bytes(cv2.imencode(path.suffix, pixels)[1].tobytes())
    return path


def voc_text(
    objects: Iterable[Object] = (), size: tuple[int, int] | None = (64, 48), filename: str = ""
) -> str:
    """An annotation as the VOC development kit writes it."""
    lines = ["<annotation>", f"<filename>{filename}</filename>"]
    if size is not None:
        lines.append(f"<size><width>{size[0]}</width><height>{size[1]}</height><depth>3</depth></size>")
    for name, *edges in objects:
        difficult = int(bool(edges[4])) if len(edges) > 4 else 0
        box = "".join(f"<{key}>{edges[i]}</{key}>" for i, key in enumerate(("xmin", "ymin", "xmax", "ymax")))
        lines.append(
            f"<object><name>{name}</name><difficult>{difficult}</difficult><bndbox>{box}</bndbox></object>"
        )
    return "\n".join([*lines, "</annotation>"])


def save_voc(
    folder: Path, stem: str, objects: Iterable[Object] = (), *, seed: int, layout: str = "beside"
) -> Path:
    """An image with its XML, beside it or in the layout of the VOC challenges; returns the XML."""
    images, xmls = ("JPEGImages", "Annotations") if layout == "voc" else ("", "")
    save_picture(folder / images / f"{stem}.png", seed)
    xml = folder / xmls / f"{stem}.xml"
    xml.parent.mkdir(parents=True, exist_ok=True)
    xml.write_text(voc_text(objects), encoding="utf-8")
    return xml


def coco_json(
    images: Iterable[str],
    annotations: Iterable[dict[str, Any]] = (),
    categories: dict[int, str] | None = None,
) -> dict[str, Any]:
    """COCO with images of 64 x 48, ids from 1, and annotations whose missing keys are filled in."""
    defaults = {"image_id": 1, "category_id": 1, "iscrowd": 0}
    return {
        "images": [
            {"id": i, "file_name": n, "width": 64, "height": 48} for i, n in enumerate(images, start=1)
        ],
        "annotations": [{"id": i, **defaults, **a} for i, a in enumerate(annotations, start=100)],
        "categories": [{"id": i, "name": name} for i, name in (categories or {1: "cat", 2: "dog"}).items()],
    }


def save_json(path: Path, content: object) -> Path:
    """Write JSON."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(content), encoding="utf-8")
    return path


def run(kind: str, source: Path, destination: Path, **options: Any) -> Report:
    """Convert with the given options."""
    return convert(Options(kind, source, destination, **options))  # type: ignore[arg-type]


def messages(report: Report) -> list[str]:
    """The notes, as `kind: text`."""
    return [f"{note.kind}: {note}" for note in report.notes]


def labels(destination: Path) -> dict[str, list[list[float]]]:
    """The rows of every label file, by image stem."""
    return {
        path.stem: [list(map(float, line.split())) for line in path.read_text().splitlines()]
        for path in sorted((destination / "labels").rglob("*.txt"))
    }


def splits(destination: Path) -> dict[str, set[str]]:
    """The stems of the images, by split."""
    found: dict[str, set[str]] = {}
    for path in (destination / "images").rglob("*.*"):
        found.setdefault(path.parent.name, set()).add(path.stem)
    return found
