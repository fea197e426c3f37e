"""Many images with their labels: what an earlier run read is known, the rest is read side by side."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import chain
from pathlib import Path
from types import TracebackType

from detector.data.data_yaml import DataYaml
from detector.data.file_cache import FileCache, pack_labels, pack_pictures, unpack_labels, unpack_pictures
from detector.data.labels import Labels, read_labels
from detector.data.near_duplicates import thumbnail
from detector.data.problems import Problem
from detector.data.reading import File, Picture, Sign, join, read_label_file, read_picture

TOGETHER = 32  # files a task: handing over a task takes as long as reading a small file


class Reader:
    """Reads the files of one data set. As a context it ends its threads, at once if there was an error."""

    def __init__(
        self, data: DataYaml, *, repair: bool, ignore_scores: bool, sign: Sign | None, afresh: bool
    ) -> None:
        """Nothing is read yet.

        Args:
            data: the data YAML.
            repair: see `read_labels`.
            ignore_scores: see `read_labels`.
            sign: what to keep of each picture's pixels.
            afresh: read what an earlier run read, too.
        """
        self._set = str(data.file), str(data.root)
        self._how = len(data.names), repair, ignore_scores, data.keypoints
        self._sign, self._afresh = sign, afresh
        self._nothing = self._parse("")
        self._pool = ThreadPoolExecutor(os.cpu_count())  # decoding and hashing release the GIL

    def __enter__(self) -> Reader:
        """Nothing is to be done before."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """End the threads."""
        self._pool.shutdown(cancel_futures=True)

    def read(self, split: str, images: Sequence[Path], labels_at: Sequence[str]) -> Iterator[File]:
        """What the images of a split and their label files hold, in order; then it is kept."""
        paths = [str(image) for image in images]
        known_pictures = FileCache(("pictures", *self._set, split), pack_pictures, unpack_pictures)
        known_labels = FileCache(("labels", *self._set, split, *self._how), pack_labels, unpack_labels)
        pictures: dict[int, Picture | Problem | None] = {}
        labels: dict[int, Labels | Problem | None] = {}
        if self._sign in (None, thumbnail):  # with a thumbnail each is kept, whoever wants them
            pictures.update(known_pictures.recall(paths, self._afresh))
        labels.update(known_labels.recall(labels_at, self._afresh))

        def read(place: int) -> File:
            if (picture := pictures.get(place)) is None:
                picture = pictures[place] = read_picture(images[place], self._sign or thumbnail)
            if place not in labels and not isinstance(picture, Problem):
                labels[place] = read_label_file(labels_at[place], self._parse)
            return self._join(images[place], labels_at[place], picture, labels.get(place))

        unread = [place for place in range(len(images)) if not pictures.get(place) or place not in labels]
        fresh, left = self._in_threads(read, unread), set(unread)
        for place, image in enumerate(images):
            if place in left:
                yield next(fresh)
            else:
                picture = pictures[place]
                assert picture is not None
                yield self._join(image, labels_at[place], picture, labels[place])
        if self._sign in (None, thumbnail) and unread:
            known_pictures.keep(paths, {k: v for k, v in pictures.items() if isinstance(v, Picture)})
        if unread:
            known_labels.keep(labels_at, {k: v for k, v in labels.items() if isinstance(v, Labels)})

    def read_strays(self, files: Mapping[Path, File], strays: Mapping[Path, str]) -> Iterator[File]:
        """The same images with labels from elsewhere."""
        places = list(strays.values())
        known = FileCache(("strays", *self._set, *self._how), pack_labels, unpack_labels)
        labels: dict[int, Labels | Problem | None] = {**known.recall(places, self._afresh)}
        for place, (image, at) in enumerate(strays.items()):
            if place not in labels:
                labels[place] = read_label_file(at, self._parse)
            picture = files[image].picture
            yield files[image] if picture is None else self._join(image, at, picture, labels[place])
        known.keep(places, {k: v for k, v in labels.items() if isinstance(v, Labels)})

    def _parse(self, text: str) -> Labels:
        classes, repair, ignore_scores, keypoints = self._how
        return read_labels(text, classes, repair=repair, ignore_scores=ignore_scores, keypoints=keypoints)

    def _join(
        self, image: Path, labels_at: str, picture: Picture | Problem, labels: Labels | Problem | None
    ) -> File:
        if self._sign is None and isinstance(picture, Picture):
            picture = picture._replace(signature=None)
        return join(image, labels_at, picture, labels, self._nothing)

    def _in_threads(self, read: Callable[[int], File], places: Sequence[int]) -> Iterator[File]:
        parts = [places[first : first + TOGETHER] for first in range(0, len(places), TOGETHER)]
        return chain.from_iterable(self._pool.map(lambda part: [read(place) for place in part], parts))
