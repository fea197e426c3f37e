"""Videos and cameras: frames in, frames out, and a window to watch them in."""

from __future__ import annotations

import math
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import cv2
import numpy as np

from detector.data.geometry import Image
from detector.errors import UserError

FALLBACK_RATE = 30.0  # frames a second, where a video or camera does not say


class Stream:
    """A video file or a camera, frame by frame.

    Raises:
        UserError: no frame can be read from it.
    """

    def __init__(self, source: Path | int) -> None:
        self.live = isinstance(source, int)
        self.name = f"camera {source}" if self.live else str(source)
        self._capture = cv2.VideoCapture(source if isinstance(source, int) else str(source))
        opened, first = self._capture.read() if self._capture.isOpened() else (False, None)
        if not opened or first is None:
            self._capture.release()
            why = "is it connected, and free?" if self.live else "it is damaged or in an unknown format"
            raise UserError(f"{self.name}: no frame can be read: {why}")
        if self.live:
            self._capture.set(cv2.CAP_PROP_BUFFERSIZE, 1)  # what is shown is now, not a second ago
        self._first: np.ndarray | None = np.asarray(first, np.uint8)
        rate = self._capture.get(cv2.CAP_PROP_FPS)
        self.rate = rate if math.isfinite(rate) and 0 < rate <= 1000 else FALLBACK_RATE  # frames a second
        count = self._capture.get(cv2.CAP_PROP_FRAME_COUNT)
        # As the file's header says, which need not be exact; None of a camera.
        self.frames = int(count) if not self.live and math.isfinite(count) and count > 0 else None

    def __iter__(self) -> Iterator[Image]:
        """(H, W, 3) uint8 RGB each, upright."""
        frame, self._first = self._first, None
        while frame is not None:
            yield np.asarray(cv2.cvtColor(frame, cv2.COLOR_BGR2RGB), np.uint8)
            _, frame = self._capture.read()

    def close(self) -> None:
        """Free the file or the camera."""
        self._capture.release()


class VideoFile:
    """A new MPEG-4 file of frames of one size; without sound, which OpenCV cannot copy.

    A camera's frames come as fast as they are predicted, not evenly. With `live` each is repeated until its
    time is over, so that the recording plays at the speed at which things happened.
    """

    def __init__(self, path: Path, rate: float, live: bool = False) -> None:
        """Begin a file at the first frame.

        Args:
            path: where, ending in .mp4.
            rate: frames a second.
            live: whether frames come in real time.
        """
        self._path, self._rate, self._live = path, rate, live
        self._began, self._written = time.monotonic(), 0
        self._size = (0, 0)
        self._writer: cv2.VideoWriter | None = None

    def add(self, frame: Image) -> None:
        """Append (H, W, 3) uint8 RGB.

        Raises:
            UserError: the file cannot be written.
        """
        bgr = cv2.cvtColor(frame, cv2.COLOR_RGB2BGR)
        if self._writer is None:
            self._size = (frame.shape[1], frame.shape[0])
            self._writer = self._open()
        if (frame.shape[1], frame.shape[0]) != self._size:
            bgr = cv2.resize(bgr, self._size)
        due = round((time.monotonic() - self._began) * self._rate) if self._live else 0
        for _ in range(max(1, due - self._written)):
            self._writer.write(bgr)
            self._written += 1

    def _open(self) -> cv2.VideoWriter:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        writer = cv2.VideoWriter(str(self._path), cv2.VideoWriter.fourcc(*"mp4v"), self._rate, self._size)
        if not writer.isOpened():
            raise UserError(f"{self._path}: this video cannot be written")
        return writer

    def close(self) -> None:
        """Finish the file: it cannot be played before."""
        if self._writer is not None:
            self._writer.release()


class Window:
    """A camera's picture on the screen, until q is pressed; nothing where there is no screen."""

    def __init__(self, title: str) -> None:
        self._title, self._open = title, False
        # Without a display OpenCV does not raise: the whole process ends.
        self.shown = sys.platform != "linux" or bool(
            os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        )

    @property
    def how_to_stop(self) -> str:
        """For a person."""
        return "q in its window, or Ctrl-C, stops it" if self.shown else "Ctrl-C stops it"

    def show(self, frame: Image) -> bool:
        """Show (H, W, 3) uint8 RGB; whether to go on."""
        if not self.shown:
            return True
        try:
            cv2.imshow(self._title, cv2.cvtColor(frame, cv2.COLOR_RGB2BGR))
            self._open = True
            return cv2.waitKey(1) & 0xFF not in (ord("q"), 27)
        except cv2.error:  # an OpenCV without windows
            self.shown = False
            return True

    def close(self) -> None:
        """Take the window from the screen."""
        if self._open:
            cv2.destroyWindow(self._title)
