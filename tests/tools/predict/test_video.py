"""Frames in, frames out."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from detector.errors import UserError
from detector.tools.predict import video
from detector.tools.predict.video import FALLBACK_RATE, Stream, VideoFile, Window


def frames(count: int, height: int = 48, width: int = 64) -> list[np.ndarray]:
    """Plain colours, red growing with the number."""
    colors = [(20 * number, 0, 200) for number in range(count)]
    return [np.full((height, width, 3), color, np.uint8) for color in colors]


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "clip.mp4"
    file = VideoFile(path, 12.5)
    for frame in frames(6):
        file.add(frame)
    file.close()
    stream = Stream(path)
    assert not stream.live
    assert stream.rate == 12.5
    assert stream.frames == 6
    read = list(stream)
    stream.close()
    assert len(read) == 6
    for found, expected in zip(read, frames(6), strict=True):
        assert found.shape == (48, 64, 3)
        assert np.abs(found.mean((0, 1)) - expected[0, 0]).max() < 12  # lossy, but RGB stays RGB


def test_frames_of_another_size_fit(tmp_path: Path) -> None:
    file = VideoFile(tmp_path / "clip.mp4", 10)
    for frame in (*frames(1), *frames(1, 96, 128)):
        file.add(frame)
    file.close()
    assert [frame.shape for frame in Stream(tmp_path / "clip.mp4")] == [(48, 64, 3)] * 2


def test_no_frames_leave_no_file(tmp_path: Path) -> None:
    VideoFile(tmp_path / "clip.mp4", 10).close()
    assert not list(tmp_path.iterdir())


def test_a_live_recording_plays_at_the_speed_of_life(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = [100.0]
    monkeypatch.setattr(video.time, "monotonic", lambda: now[0])
    file = VideoFile(tmp_path / "live.mp4", 10, live=True)
    for frame in frames(3):
        now[0] += 0.5  # each frame took half a second: five frames at 10 a second
        file.add(frame)
    file.close()
    assert len(list(Stream(tmp_path / "live.mp4"))) == 15


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "damaged.mp4"
    path.write_bytes(b"no video" * 100)
    with pytest.raises(UserError, match=r"damaged\.mp4: no frame can be read"):
        Stream(path)


class Camera:
    """In place of OpenCV's."""

    def __init__(self, _: int) -> None:
        self.settings: dict[int, float] = {}

    def isOpened(self) -> bool:  # noqa: N802
        return True

    def read(self) -> tuple[bool, np.ndarray]:
        return True, np.full((48, 64, 3), (255, 0, 0), np.uint8)  # blue, in OpenCV's order

    def get(self, _: int) -> float:
        return -1.0  # as cameras that know neither their rate nor an end

    def set(self, key: int, value: float) -> None:
        self.settings[key] = value

    def release(self) -> None:
        pass


def test_a_camera(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cv2, "VideoCapture", Camera)
    stream = Stream(0)
    assert stream.live
    assert (stream.rate, stream.frames) == (FALLBACK_RATE, None)
    assert tuple(next(iter(stream))[0, 0]) == (0, 0, 255)


def test_a_window_says_when_q_was_pressed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DISPLAY", ":0")
    keys = iter([-1, ord("x"), ord("q")])
    monkeypatch.setattr(cv2, "imshow", lambda title, frame: None)
    monkeypatch.setattr(cv2, "waitKey", lambda _: next(keys))
    monkeypatch.setattr(cv2, "destroyWindow", lambda title: None)
    window = Window("camera 0")
    assert [window.show(frame) for frame in frames(3)] == [True, True, False]
    window.close()


def test_without_a_screen_nothing_is_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DISPLAY", "WAYLAND_DISPLAY"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(video.sys, "platform", "linux")
    monkeypatch.setattr(cv2, "imshow", lambda title, frame: pytest.fail("would end the process"))
    window = Window("camera 0")
    assert window.show(frames(1)[0])
    assert "Ctrl-C" in window.how_to_stop
    window.close()
