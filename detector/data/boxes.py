"""All boxes of a data set side by side: what one line of NumPy asks of half a million takes milliseconds."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Floats, xywh_to_xyxy
from detector.data.reading import File

SAME_OBJECT = 0.95  # IoU above which two boxes of a class surely mean one object


@dataclass(frozen=True, eq=False)
class Boxes:
    """All boxes of a dataset in one table: M of them, in the order of files and lines."""

    files: list[File]  # with labels, whose image is usable
    owner: NDArray[np.int64]  # (M,) which of the files each is from
    classes: NDArray[np.int64]  # (M,)
    boxes: Floats  # (M, 4) xywh
    lines: NDArray[np.int64]  # (M,)
    corners: NDArray[np.bool_]  # (M,) see `Labels`
    beyond: Floats  # (M,) how far each leaves its image, pixels

    @classmethod
    def of(cls, files: Iterable[File]) -> Boxes:
        """The table of what was read."""
        usable = [file for file in files if file.labels is not None and file.picture is not None]
        labels = [file.labels for file in usable if file.labels is not None]
        owner = np.repeat(np.arange(len(usable)), [len(one.lines) for one in labels])
        sizes = np.array([file.size for file in usable], np.float32).reshape(-1, 2)[owner]
        outside = np.concatenate([np.empty((0, 2), np.float32), *(one.outside for one in labels)])
        return cls(
            usable,
            owner,
            np.concatenate([np.empty(0, np.int64), *(one.classes for one in labels)]),
            np.concatenate([np.empty((0, 4), np.float32), *(one.boxes for one in labels)]),
            np.concatenate([np.empty(0, np.int64), *(one.lines for one in labels)]),
            np.concatenate([np.empty(0, np.bool_), *(one.corners for one in labels)]),
            (outside * sizes).max(axis=1, initial=0),
        )


def same_objects(table: Boxes) -> Iterator[tuple[int, int, float]]:
    """Each box that nearly coincides with an earlier one of its file and class: the best such, itself, IoU.

    All boxes are compared with the one before them, then all with the one before that, and so on.
    """
    corners = xywh_to_xyxy(table.boxes).astype(np.float64)
    area = (corners[:, 2:] - corners[:, :2]).prod(axis=1)
    best, partner = np.zeros(len(area)), np.zeros(len(area), np.int64)
    second, lag = np.arange(len(area)), 0
    while len(second):
        lag += 1
        second = second[second >= lag]
        second = second[table.owner[second] == table.owner[second - lag]]
        here = second[table.classes[second] == table.classes[second - lag]]
        first = here - lag
        low, high = (choose(corners[first], corners[here]) for choose in (np.maximum, np.minimum))
        inner = (high[:, 2:] - low[:, :2]).clip(0).prod(axis=1)
        iou = inner / (area[first] + area[here] - inner)
        better = iou >= best[here]  # of several that are as good, the first
        best[here[better]], partner[here[better]] = iou[better], first[better]
    for row in np.flatnonzero(best >= SAME_OBJECT).tolist():
        yield int(partner[row]), row, float(best[row])
