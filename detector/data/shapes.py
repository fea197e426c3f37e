"""The built-in `shapes` set: eight shapes to be told apart, rendered from a seed.

For machines without COCO8, and for a claim COCO8's eight images cannot carry: mAP on *unseen*
images. Each image is a pure function of (seed, split, index): a cluttered background, one to six
textured, rotated, partly hidden shapes, and a little noise.
"""

from __future__ import annotations

import os
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray

from detector.data.geometry import Floats, Image
from detector.errors import UserError

Colour = NDArray[np.float32]  # (3,) RGB, 0 to 255
Points = NDArray[np.float64]  # (N, 2), within the unit circle until placed
Picture = NDArray[np.float32]  # (H, W, 3) RGB, 0 to 255
Rng = np.random.Generator

NAMES = ("circle", "square", "triangle", "star", "cross", "ring", "crescent", "heart")
VISIBLE = 0.3  # a shape of which less can be seen is not labelled
OVERLAP = 0.35  # of the smaller of two shapes; exceeded only where TRIES places were all crowded
TRIES = 6
OVERSAMPLE = 4  # sub-pixels a side, for smooth edges
CONTRAST = 110.0  # least distance of a shape's colours from what lies behind it, in RGB
TEXTURE = (40.0, 100.0)  # range of the distance between the two colours of a shape: less than CONTRAST


def render_shapes(
    destination: Path, *, train: int = 256, val: int = 64, seed: int = 0, size: int = 256
) -> Path:
    """Render the set into a new folder, as `images/{train,val}` and `labels/{train,val}`.

    Everything is written into a temporary folder beside the destination, renamed at the end.

    Args:
        destination: the folder to create; its parent must exist. Never overwritten.
        train: images in the train split.
        val: images in the val split.
        seed: the same seed gives the same files with the same versions of OpenCV and NumPy.
        size: side of the square images, pixels.

    Returns:
        `destination`.

    Raises:
        UserError: the destination exists already or cannot be written.
    """
    if os.path.lexists(destination):
        raise UserError(f"{destination}: exists already; remove it to render the shapes again")
    jobs = [("train", index) for index in range(train)] + [("val", index) for index in range(val)]
    try:
        with tempfile.TemporaryDirectory(dir=destination.parent, prefix=".shapes-") as folder:
            content = Path(folder, "shapes")
            for split in ("train", "val"):
                (content / "images" / split).mkdir(parents=True)
                (content / "labels" / split).mkdir(parents=True)
            with ThreadPoolExecutor(os.cpu_count()) as pool:  # most of the time is spent in OpenCV
                list(pool.map(lambda job: _write(content, job[0], job[1], seed, size), jobs))
            try:
                content.rename(destination)
            except OSError:
                if not destination.is_dir():  # else another run was first, with the same content
                    raise
    except OSError as error:
        raise UserError(f"{destination}: the shapes cannot be written: {error.strerror or error}") from error
    return destination


def render_image(
    seed: int, split: str, index: int, size: int = 256
) -> tuple[Image, NDArray[np.int64], Floats]:
    """Render one image.

    Returns:
        The image (size, size, 3) uint8 RGB, class ids (N,) into NAMES, and boxes (N, 4) as xywh
        fractions: tight around the whole shape, hidden parts included, clipped to the image. N >= 1.
    """
    rng = np.random.default_rng([seed, ("train", "val").index(split), index])
    picture = _background(rng, size)
    count = int(rng.integers(1, 7))
    classes = rng.integers(len(NAMES), size=count)
    boxes = np.zeros((count, 4), np.float32)
    covered = np.zeros((count, size, size), np.float32)  # alpha of each shape
    whole = np.zeros(count)  # area of each shape, with what is hidden or outside, pixels
    for layer, kind in enumerate(classes):
        outline = _outline(NAMES[kind], rng)
        for _ in range(TRIES):
            contours = _place(outline, rng, size)
            covered[layer] = _rasterise(contours, size)
            if _overlap(covered[layer], covered[:layer]) <= OVERLAP:
                break
        whole[layer] = sum(_signed_area(contour) for contour in contours)
        boxes[layer] = _box(contours, size)
        _paint(picture, covered[layer], rng)
    hidden = np.cumprod(1 - covered[::-1], axis=0)[::-1]  # of a layer and everything in front of it
    in_front = np.concatenate([hidden[1:], np.ones((1, size, size), np.float32)])
    visible = (covered * in_front).sum(axis=(1, 2)) / whole
    keep = visible >= VISIBLE
    picture += rng.standard_normal(picture.shape, np.float32) * np.float32(rng.uniform(1, 6))
    image = np.clip(picture + 0.5, 0, 255).astype(np.uint8)
    return image, classes[keep], boxes[keep]


def _write(folder: Path, split: str, index: int, seed: int, size: int) -> None:
    image, classes, boxes = render_image(seed, split, index, size)
    _, encoded = cv2.imencode(".jpg", cv2.cvtColor(image, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, 95])
    (folder / "images" / split / f"{index:05}.jpg").write_bytes(encoded.tobytes())
    rows = [f"{kind} " + " ".join(f"{value:.6f}" for value in box)
            for kind, box in zip(classes, boxes, strict=True)]  # fmt: skip
    (folder / "labels" / split / f"{index:05}.txt").write_text("\n".join(rows) + "\n", encoding="ascii")


# ---------------------------------------------------------------------------------------- outlines


def _circle(radius: float = 1.0, points: int = 72) -> Points:
    angle = np.linspace(0, 2 * np.pi, points, endpoint=False)
    return radius * np.stack([np.cos(angle), np.sin(angle)], axis=1)


def _spiked(points: int, inner: float) -> Points:
    """A star: points on the unit circle alternating with points at radius `inner`."""
    radius = np.where(np.arange(2 * points) % 2 == 0, 1.0, inner)
    return _circle(points=2 * points) * radius[:, None]


def _outline(name: str, rng: Rng) -> list[Points]:
    """The contours of a shape, counter-clockwise, holes clockwise; proportions vary a little."""
    vary = rng.uniform(-1, 1)
    if name == "circle":
        return [_circle()]
    if name == "square":
        return [_circle(points=4)]
    if name == "triangle":
        return [_circle(points=3)]
    if name == "star":
        return [_spiked(5, 0.42 + 0.05 * vary)]
    if name == "cross":
        arm = 0.3 + 0.05 * vary
        right = np.array([(1, -arm), (1, arm), (arm, arm)])
        top = np.stack([-right[:, 1], right[:, 0]], axis=1)  # a quarter turn on
        return [np.concatenate([right, top, -right, -top]) / np.hypot(1, arm)]
    if name == "ring":
        return [_circle(), _circle(0.55 + 0.1 * vary)[::-1]]
    if name == "crescent":
        # The unit disc without a disc of radius r shifted by d: they meet where x = (1 - r² + d²) / 2d.
        shift, radius = 0.5 + 0.08 * vary, 0.85
        meet = (1 - radius**2 + shift**2) / (2 * shift)
        start = np.arccos(meet)
        outer = np.linspace(start, 2 * np.pi - start, 60)
        tip = np.arctan2(np.sin(start), meet - shift)
        inner = np.linspace(2 * np.pi - tip, tip, 60)[1:-1]
        return [np.concatenate([
            np.stack([np.cos(outer), np.sin(outer)], axis=1),
            np.stack([shift + radius * np.cos(inner), radius * np.sin(inner)], axis=1),
        ])]  # fmt: skip
    t = np.linspace(0, 2 * np.pi, 90, endpoint=False)  # heart
    x = 16 * np.sin(t) ** 3
    y = 13 * np.cos(t) - 5 * np.cos(2 * t) - 2 * np.cos(3 * t) - np.cos(4 * t)
    return [np.stack([x, y + 2.5], axis=1)[::-1] / 17]


def _place(contours: list[Points], rng: Rng, size: int) -> list[Points]:
    """Stretch, rotate, scale and move to somewhere (nearly) inside the image; in pixels."""
    diameter = size * np.exp(rng.uniform(np.log(0.18), np.log(0.5)))
    stretch = np.exp(rng.uniform(-0.15, 0.15))
    angle = rng.uniform(0, 2 * np.pi)
    cos, sin = np.cos(angle), np.sin(angle)
    matrix = np.array([[cos, -sin], [sin, cos]]) @ np.diag([stretch, 1 / stretch]) * diameter / 2
    centre = rng.uniform(0.3 * diameter, size - 0.3 * diameter, 2)
    return [contour @ matrix.T + centre for contour in contours]


def _signed_area(contour: Points) -> float:
    """Area by the shoelace formula, pixels²; negative for a hole."""
    x, y = contour.T
    return float((x * np.roll(y, -1) - y * np.roll(x, -1)).sum() / 2)


def _box(contours: list[Points], size: int) -> Floats:
    """(4,) xywh, fractions of the image, clipped to it."""
    points = np.clip(np.concatenate(contours) / size, 0, 1)
    low, high = points.min(axis=0), points.max(axis=0)
    return np.concatenate([(low + high) / 2, high - low]).astype(np.float32)


def _rasterise(contours: list[Points], size: int) -> NDArray[np.float32]:
    """The share of each pixel that a shape covers, (size, size)."""
    corners = np.concatenate(contours)
    left, top = np.clip(np.floor(corners.min(axis=0)), 0, size - 1).astype(int)
    right, bottom = np.clip(np.ceil(corners.max(axis=0)), 1, size).astype(int)
    mask = np.zeros(((bottom - top) * OVERSAMPLE, (right - left) * OVERSAMPLE), np.uint8)
    bits = 4  # OpenCV takes fixed-point coordinates of pixel centres
    inside = [((contour - (left, top)) * OVERSAMPLE - 0.5) * 2**bits for contour in contours]
    cv2.fillPoly(mask, [np.rint(points).astype(np.int32) for points in inside], 255, shift=bits)
    alpha = np.zeros((size, size), np.float32)
    small = cv2.resize(mask, (right - left, bottom - top), interpolation=cv2.INTER_AREA)
    alpha[top:bottom, left:right] = np.asarray(small, np.float32) / 255
    return alpha


def _overlap(alpha: NDArray[np.float32], others: NDArray[np.float32]) -> float:
    """The largest share that a shape (H, W) and any of the others (N, H, W) have of the smaller one."""
    if not len(others):
        return 0.0
    smaller = np.minimum(alpha.sum(), others.sum(axis=(1, 2)))
    return float(((alpha * others).sum(axis=(1, 2)) / smaller).max())


# ---------------------------------------------------------------------------------- colour, texture


def _paint(picture: Picture, alpha: NDArray[np.float32], rng: Rng) -> None:
    """Blend a textured shape into the picture, in colours that stand out from what is behind it."""
    rows, columns = np.flatnonzero(alpha.any(axis=1)), np.flatnonzero(alpha.any(axis=0))
    part = np.s_[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    weight = alpha[part][..., None]
    behind = (picture[part] * weight).sum(axis=(0, 1)) / weight.sum()
    first, second = _colours_unlike(behind, rng)
    mix = _texture(rng, *weight.shape[:2])[..., None]
    picture[part] += weight * (first * (1 - mix) + second * mix - picture[part])


def _colours_unlike(other: Colour, rng: Rng) -> Colour:
    """Two colours, (2, 3), at least CONTRAST from another one and about TEXTURE from each other."""
    while True:
        pair = rng.uniform(0, 255, (2, 3)).astype(np.float32)
        texture = np.linalg.norm(pair[0] - pair[1])
        if np.linalg.norm(pair - other, axis=1).min() >= CONTRAST and TEXTURE[0] <= texture <= TEXTURE[1]:
            return pair


def _texture(rng: Rng, height: int, width: int) -> NDArray[np.float32]:
    """How much of the second colour each pixel has, 0 to 1, (height, width)."""
    y, x = np.mgrid[:height, :width].astype(np.float32)
    angle = rng.uniform(0, np.pi)
    along = x * np.cos(angle) + y * np.sin(angle)
    across = y * np.cos(angle) - x * np.sin(angle)
    period = max(6.0, float(rng.uniform(0.15, 0.4)) * max(height, width))
    kind = rng.integers(5)
    mix: NDArray[np.floating]
    if kind == 0:  # flat
        mix = np.zeros((height, width))
    elif kind == 1:  # stripes
        mix = _steep(np.sin(2 * np.pi * along / period))
    elif kind == 2:  # checks
        mix = _steep(2 * np.sin(2 * np.pi * along / period) * np.sin(2 * np.pi * across / period))
    elif kind == 3:  # gradient
        mix = (along - along.min()) / max(1.0, float(np.ptp(along)))
    else:  # patches
        mix = _steep(4 * _smooth_noise(rng, height, width, 5))
    return np.asarray(mix, np.float32)


def _steep(wave: NDArray[np.floating]) -> NDArray[np.floating]:
    """A wave in ±1 turned into two colours with a soft edge."""
    return np.asarray(np.clip(wave * 3 + 0.5, 0, 1))


def _smooth_noise(rng: Rng, height: int, width: int, cells: int) -> NDArray[np.float32]:
    """Noise in about ±0.5 that changes over a `cells`-th of the area."""
    coarse = rng.uniform(-0.5, 0.5, (cells, cells)).astype(np.float32)
    return np.asarray(cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC), np.float32)


# -------------------------------------------------------------------------------------- background


def _background(rng: Rng, size: int) -> Picture:
    """Two blended colours, soft clouds, and strokes and specks that are none of the shapes."""
    first, second = rng.uniform(30, 225, (2, 3)).astype(np.float32)
    mix = np.clip(0.5 + _smooth_noise(rng, size, size, int(rng.integers(2, 7))), 0, 1)[..., None]
    picture: Picture = first * (1 - mix) + second * mix
    grain = _smooth_noise(rng, size, size, size // 4)[..., None]
    picture += grain * np.float32(rng.uniform(5, 25))
    for _ in range(int(rng.integers(0, 7))):
        _distract(picture, rng, size)
    return picture


def _distract(picture: Picture, rng: Rng, size: int) -> None:
    """Draw a line, an open curve, a spray of specks, or a soft blob."""
    colour = [float(value) for value in rng.uniform(0, 255, 3)]
    place = rng.uniform(0, size, (2, 2))
    thick = int(rng.integers(1, 4))
    kind = rng.integers(4)
    if kind == 0:
        ends = np.rint(place * 16).astype(int)
        cv2.line(picture, ends[0].tolist(), ends[1].tolist(), colour, thick, cv2.LINE_AA, shift=4)
    elif kind == 1:
        steps = rng.normal(0, 0.1 * size, (5, 2)).cumsum(axis=0) + place[0]
        bend = cv2.resize(steps, (2, 64), interpolation=cv2.INTER_CUBIC)
        points = np.rint(bend * 16).astype(np.int32)
        cv2.polylines(picture, [points], False, colour, thick, cv2.LINE_AA, shift=4)
    elif kind == 2:
        for x, y in rng.normal(place[0], 0.08 * size, (12, 2)):
            cv2.circle(picture, (round(x), round(y)), thick, colour, -1, cv2.LINE_AA)
    else:
        y, x = np.ogrid[:size, :size]
        wide, high = rng.uniform(0.05, 0.2, 2) * size
        blob = np.exp(-(((x - place[0, 0]) / wide) ** 2) - ((y - place[0, 1]) / high) ** 2)
        picture += (0.7 * blob[..., None] * (np.array(colour) - picture)).astype(np.float32)
