"""How long `detector check` takes: wall and CPU time on a made-up dataset, which is deleted afterwards.

python benchmarks/check_speed.py --images 10000
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import psutil

ROOT = Path(__file__).resolve().parents[1]


def make(root: Path, images: int) -> None:
    """Images of 320 x 240 pixels, about 30 kB and 10 boxes each; a fifth of them for validation."""
    random = np.random.default_rng(0)
    for number in range(images):
        split = "val" if number % 5 == 0 else "train"
        for folder in ("images", "labels"):
            (root / folder / split).mkdir(parents=True, exist_ok=True)
        coarse = random.integers(0, 256, (10, 13, 3), np.uint8)
        pixels = cv2.resize(coarse, (320, 240), interpolation=cv2.INTER_CUBIC)
        pixels = cv2.add(pixels, random.integers(0, 40, pixels.shape, np.uint8))
        cv2.imwrite(str(root / f"images/{split}/{number}.jpg"), pixels, [cv2.IMWRITE_JPEG_QUALITY, 90])
        boxes = np.c_[random.uniform(0.2, 0.8, (10, 2)), random.uniform(0.05, 0.35, (10, 2))]
        lines = [f"{random.integers(10)} {x:.6f} {y:.6f} {w:.6f} {h:.6f}" for x, y, w, h in boxes]
        (root / f"labels/{split}/{number}.txt").write_text("\n".join(lines))
    (root / "data.yaml").write_text(f"train: images/train\nval: images/val\nnames: {list('abcdefghij')}\n")


def main() -> None:
    """Make the dataset, check it and print one line."""
    parser = argparse.ArgumentParser(description="Time detector check.")
    parser.add_argument("--images", type=int, default=10_000)
    images = parser.parse_args().images
    with tempfile.TemporaryDirectory() as folder:
        make(Path(folder), images)
        command = [sys.executable, "-m", "detector", "check", f"{folder}/data.yaml"]
        before, began = psutil.Process().cpu_times(), time.monotonic()
        subprocess.run(command, check=True, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wall, after = time.monotonic() - began, psutil.Process().cpu_times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    load = psutil.getloadavg()[0]
    cores = f"{psutil.cpu_count()} cores at load {load:.1f}"
    print(f"{images} images: {wall:.1f} s, {cpu:.1f} s of CPU time, on {cores}")


if __name__ == "__main__":
    main()
