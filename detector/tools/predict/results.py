"""What `detector predict` leaves behind: pictures and videos with boxes, label files, a JSON document."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

import cv2

from detector.data.geometry import Floats, Image, xyxy_to_xywh
from detector.data.images import JPEG_SUFFIXES
from detector.errors import UserError
from detector.tools.predict.annotate import annotate
from detector.training.metrics import Prediction


class Results:
    """Takes each image's detections and writes what was asked for.

    Args:
        folder: for the files; None if there are to be none.
        names: of the classes.
        pictures: whether boxes are drawn.
        labels: whether label files are written.
        document: where the JSON goes, row by row, so that even an hour of video needs no memory; None for no
            JSON.
        facts: what the JSON begins with.
    """

    def __init__(
        self,
        folder: Path | None,
        names: Sequence[str],
        *,
        pictures: bool,
        labels: bool,
        document: TextIO | None,
        facts: Mapping[str, Any],
    ) -> None:
        self.folder, self.names = folder, names
        self.pictures, self.labels = pictures, labels
        self.counts: Counter[str] = Counter()  # of boxes, by class name
        self.images = 0
        self.skipped: list[dict[str, str]] = []
        self.exit_code = 0  # of the command that these are the results of
        self._document = document
        self._write(json.dumps(dict(facts), ensure_ascii=False, indent=1)[:-2] + ',\n "results": [')

    def image(self, path: Path, stem: Path, image: Image, found: Prediction) -> None:
        """One image file: `stem` is its name among the results."""
        self._add({"file": str(path)}, image, found, Path("labels") / f"{stem}.txt")
        if self.pictures:
            picture = cv2.cvtColor(annotate(image, found, self.names), cv2.COLOR_RGB2BGR)
            suffix = ".jpg" if path.suffix.lower() in JPEG_SUFFIXES - {".jpeg"} else path.suffix
            done, data = cv2.imencode(suffix.lower(), picture)
            if not done:
                raise UserError(f"{path}: the picture cannot be encoded as {suffix}")
            self._write_file(Path(f"{stem}{suffix}"), data.tobytes())

    def frame(self, source: str, labels: str, number: int, image: Image, found: Prediction) -> None:
        """One frame, counted from 0: its boxes only, the video is the caller's.

        `labels` names the folder for the label files of all frames.
        """
        label_file = Path("labels", labels, f"{number:06d}.txt")
        self._add({"file": source, "frame": number}, image, found, label_file)

    def skip(self, source: str, reason: str) -> None:
        """Something that could not be read."""
        self.skipped.append({"file": source, "reason": reason})

    def finish(self, facts: Mapping[str, Any]) -> None:
        """End the JSON document: it is complete even if not everything was predicted."""
        tail = json.dumps({"skipped": self.skipped, **facts}, ensure_ascii=False, indent=1)
        self._write(("\n ]," if self.images else "],") + tail[1:] + "\n")
        if self._document is not None:
            self._document.flush()

    def _add(self, source: Mapping[str, Any], image: Image, found: Prediction, label_file: Path) -> None:
        height, width = image.shape[:2]
        labels, scores = found.classes.tolist(), found.scores.tolist()
        boxes = [
            {
                "xyxy": [round(side, 3) for side in box],
                "class": label,
                "name": self.names[label],
                "score": round(score, 5),
            }
            for box, label, score in zip(found.boxes.tolist(), labels, scores, strict=True)
        ]
        row = {**source, "width": width, "height": height, "boxes": boxes}
        self._write((",\n  " if self.images else "\n  ") + json.dumps(row, ensure_ascii=False))
        self.counts.update(self.names[label] for label in labels)
        self.images += 1
        if self.labels:
            self._write_file(label_file, label_lines(found, width, height).encode())

    def _write(self, text: str) -> None:
        if self._document is not None:
            self._document.write(text)

    def _write_file(self, name: Path, data: bytes) -> None:
        assert self.folder is not None
        path = self.folder / name
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.open("xb") as file:
                file.write(data)
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}") from error


def label_lines(found: Prediction, width: int, height: int) -> str:
    """The YOLO label format and a sixth column: class, centre x, centre y, width, height, score a line.

    Positions and sizes are fractions of the image.
    """
    boxes: Floats = xyxy_to_xywh(found.boxes)
    rows = zip(found.classes.tolist(), boxes.tolist(), found.scores.tolist(), strict=True)
    return "".join(
        f"{label} {x / width:.6f} {y / height:.6f} {w / width:.6f} {h / height:.6f} {score:.5f}\n"
        for label, (x, y, w, h), score in rows
    )
