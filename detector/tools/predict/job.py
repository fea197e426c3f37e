"""From what `detector predict` is pointed at to its results."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack
from itertools import islice
from pathlib import Path

import torch

from detector.data.geometry import Image
from detector.data.images import read_image
from detector.errors import UserError
from detector.predictor import Predictor
from detector.runtime.progress import progress_bar
from detector.tools.predict.annotate import annotate
from detector.tools.predict.results import Results
from detector.tools.predict.sources import Sources, output_stems
from detector.tools.predict.video import Stream, VideoFile, Window
from detector.training.metrics import Prediction

COMPLETE = 0.95  # a video's header may promise a few more frames than there are


class Job:
    """One pass over all sources, with a progress bar where there is a terminal to show it."""

    def __init__(
        self,
        predictor: Predictor,
        results: Results,
        batch: int,
        frames: int | None,
        stop: Callable[[], bool],
    ) -> None:
        """Prepare.

        Args:
            predictor: finds the boxes.
            results: takes them.
            batch: images predicted at a time.
            frames: the most that are taken of each video and camera; None: all.
            stop: asked before each batch.
        """
        self.predictor, self.results, self.batch, self.frames = predictor, results, batch, frames
        self.stop = stop
        self.interrupted = True  # until the end was reached
        self._bar = progress_bar(transient=False)
        self._laps: list[tuple[int, float]] = []  # images and seconds of each batch

    def run(self, sources: Sources) -> None:
        """Predict everything, or until asked to stop."""
        files = sources.images + sources.videos
        stems = dict(zip(files, output_stems(files), strict=True))
        with self._bar:
            self._images(sources.images, stems)
            for video in sources.videos:
                if self.stop():
                    return
                try:
                    stream = Stream(video)
                except UserError as error:
                    self._skip(str(video), str(error).removeprefix(f"{video}: "))
                else:
                    self._stream(stream, stems[video], f"{stems[video]}{video.suffix}")
            for camera in sources.cameras:
                if self.stop():
                    return
                self._stream(Stream(camera), Path(f"camera{camera}"), f"camera{camera}")
        self.interrupted = self.stop()

    def milliseconds(self) -> float | None:
        """Mean time of an image, from pixels to boxes; the first batch, which warms up, only if it is all."""
        laps = self._laps[1:] or self._laps
        images = sum(count for count, _ in laps)
        return round(1000 * sum(seconds for _, seconds in laps) / images, 2) if images else None

    def _images(self, paths: Sequence[Path], stems: Mapping[Path, Path]) -> None:
        task = self._bar.add_task("images", total=len(paths), visible=bool(paths))
        for batch in _read_ahead(paths, self.batch):
            if self.stop():
                return
            good: list[tuple[Path, Image]] = []
            for path, image in batch:
                if isinstance(image, UserError):
                    self._skip(str(path), str(image).removeprefix(f"{path}: "))
                else:
                    good.append((path, image))
            for (path, image), found in zip(good, self._predict([image for _, image in good]), strict=True):
                self.results.image(path, stems[path], image, found)
            self._bar.advance(task, len(batch))

    def _stream(self, stream: Stream, stem: Path, labels: str) -> None:
        """One video or camera; its label files go into the folder `labels`."""
        expected = stream.frames if self.frames is None else min(self.frames, stream.frames or self.frames)
        task = self._bar.add_task(stream.name, total=expected)
        folder = self.results.folder if self.results.pictures else None
        number, batch = 0, 1 if stream.live else self.batch
        with ExitStack() as open_things:
            open_things.callback(stream.close)
            video = None if folder is None else VideoFile(folder / f"{stem}.mp4", stream.rate, stream.live)
            window = Window(stream.name) if stream.live else None
            for thing in (video, window):
                if thing is not None:
                    open_things.callback(thing.close)
            if window is not None:
                self._say(f"{stream.name}: {window.how_to_stop}")
            frames = islice(stream, self.frames)
            while not self.stop() and (images := list(islice(frames, batch))):
                for image, found in zip(images, self._predict(images), strict=True):
                    self.results.frame(stream.name, labels, number, image, found)
                    number += 1
                    if video is None and window is None:
                        continue
                    drawn = annotate(image, found, self.predictor.names)
                    if video is not None:
                        video.add(drawn)
                    if window is not None and not window.show(drawn):
                        return
                self._bar.advance(task, len(images))
        if expected is not None and number < COMPLETE * expected and not self.stop():
            self._skip(stream.name, f"only {number} of its {expected} frames can be read")

    def _predict(self, images: Sequence[Image]) -> list[Prediction]:
        if not images:
            return []
        began = time.perf_counter()
        try:
            found = self.predictor.batch(images)
        except torch.OutOfMemoryError as error:
            raise UserError(f"--batch {self.batch} does not fit into the GPU's memory; try less") from error
        self._laps.append((len(images), time.perf_counter() - began))
        return found

    def _skip(self, source: str, reason: str) -> None:
        self.results.skip(source, reason)
        self._say(f"skipped: {source}: {reason}")

    def _say(self, text: str) -> None:
        self._bar.console.print(text, markup=False, soft_wrap=True)


def _read_ahead(paths: Sequence[Path], size: int) -> Iterator[list[tuple[Path, Image | UserError]]]:
    """Batches of images; the next is decoded while this one is predicted."""

    def read(path: Path) -> Image | UserError:
        try:
            return read_image(path)
        except UserError as error:
            return error

    with ThreadPoolExecutor() as pool:  # decoding releases the GIL

        def begin(first: int) -> list[tuple[Path, Future[Image | UserError]]]:
            return [(path, pool.submit(read, path)) for path in paths[first : first + size]]

        ahead = begin(0)
        for first in range(size, len(paths) + size, size):
            now, ahead = ahead, begin(first)
            yield [(path, image.result()) for path, image in now]
